"use strict";

const net = JSON.parse(document.getElementById("data").textContent);
for (const sample of net.samples) sample.x = net.pixels.map((_, j) => sample.x[j] ?? sample.base);
const svg = document.getElementById("network");
const last = net.orders.length - 1;
const lines = [...svg.querySelectorAll(".edges path")];
const edges = net.edges.map(([layer, from, to, weight, rank], i) => {
  const line = lines[i];
  return { layer, from, to, weight, rank, line, shade: line.getAttribute("class"), width: line.getAttribute("stroke-width") };
});
const layers = net.orders.slice(1).map((_, n) => edges.filter((e) => e.layer === n));
const units = net.orders.map((order, c) => order.map((_, u) => document.getElementById(`u${c}-${u}`)));
const named = units[last].map((g) => g.querySelector("text").textContent);
const state = { held: null, over: null, sample: null, stop: net.stops.length - 1 };
const exact = net.activations.flat().every((name) => name === "relu");
const sigmoid = (s) => 1 / (1 + Math.exp(-s));
const ACTIVATIONS = { relu: (s) => Math.max(s, 0), sigmoid, tanh: Math.tanh, silu: (s) => s * sigmoid(s) };

const activate = (n, s) => net.activations[n].reduce((v, name) => ACTIVATIONS[name](v), s);
const columns = (fill) => net.orders.map((order) => new Array(order.length).fill(fill));
const sum = (values) => values.reduce((a, b) => a + b, 0);
const largest = (values) => values.reduce((a, b) => Math.max(a, Math.abs(b)), 0) || 1;
const count = (number, word) => `${number.toLocaleString("en")} ${word}${number === 1 ? "" : "s"}`;
const short = (v) => (Math.abs(v) >= 100 ? v.toFixed(0) : v.toPrecision(3).replace(/\.?0+$/, "")).replace("-", "−");

// The values of all units for one sample, and the slope of each unit's activation there.
function forward(x) {
  const values = [x], gates = [x.map(() => 1)];
  net.bias.forEach((bias, n) => {
    const sums = [...bias];
    for (const e of layers[n]) sums[e.to] += e.weight * values[n][e.from];
    values.push(sums.map((s) => activate(n, s)));
    gates.push(sums.map((s) => (exact ? (net.activations[n].length && s <= 0 ? 0 : 1) : (activate(n, s + 1e-4) - activate(n, s - 1e-4)) / 2e-4)));
  });
  return { values, gates };
}

// How one unit answers to every unit before it: by slopes on a sample, by signed path products without one.
function slopes(column, unit, shown, gates) {
  const slope = columns(0);
  slope[column][unit] = 1;
  for (let n = column - 1; n >= 0; n--)
    for (const e of layers[n])
      if (shown(e)) slope[n][e.from] += slope[n + 1][e.to] * e.weight * (gates ? gates[n + 1][e.to] : 1);
  return slope;
}

// Sums over all paths from the inputs to each unit, and from each unit to the outputs: of 1 each, or of what they carry.
function paths(shown, start, size) {
  const into = columns(0), out = columns(0);
  into[0] = start;
  out[last].fill(1);
  for (const own of layers) for (const e of own) if (shown(e)) into[e.layer + 1][e.to] += size(e) * into[e.layer][e.from];
  for (const own of [...layers].reverse()) for (const e of own) if (shown(e)) out[e.layer][e.from] += size(e) * out[e.layer + 1][e.to];
  return { total: sum(into[last]), of: ({ column, unit }) => into[column][unit] * out[column][unit] };
}

// Every unit on a path through one, and the test for the edges of those paths.
function through({ column, unit }, shown) {
  const back = columns(false), ahead = columns(false);
  back[column][unit] = ahead[column][unit] = true;
  for (let n = column - 1; n >= 0; n--) for (const e of layers[n]) if (shown(e) && back[n + 1][e.to]) back[n][e.from] = true;
  for (let n = column; n < last; n++) for (const e of layers[n]) if (shown(e) && ahead[n][e.from]) ahead[n + 1][e.to] = true;
  return {
    units: back.map((own, c) => own.map((there, u) => there || ahead[c][u])),
    edge: (e) => (e.layer < column ? back[e.layer + 1][e.to] : ahead[e.layer][e.from]),
  };
}

const step = (share) => Math.min(4, Math.max(1, Math.ceil(4 * Math.sqrt(Math.abs(share)))));
const shadeOf = (share, signed = true) => (signed ? (share < 0 ? "n" : "p") : "q") + step(share);

function paint() {
  const limit = net.stops[state.stop][0];
  const sample = state.sample === null ? null : forward(net.samples[state.sample].x);
  const scores = sample?.values[last];
  const told = scores ? (scores.length > 1 ? scores.indexOf(Math.max(...scores)) : 0) : null;
  const target = state.over ?? state.held ?? (sample ? { column: last, unit: told } : null);
  const wanted = target?.column === last ? target.unit : state.held?.column === last ? state.held.unit : told;
  let flow = null;
  if (sample) {
    const slope = slopes(last, wanted, () => true, sample.gates);
    flow = (e) => sample.values[e.layer][e.from] * e.weight * sample.gates[e.layer + 1][e.to] * slope[e.layer + 1][e.to];
  }
  const shown = (e) => e.rank <= limit && (!flow || flow(e) !== 0);
  const lit = target && through(target, shown);
  paintEdges(shown, lit, flow);
  paintUnits(shown, lit, sample, target);
  paintInputs(target, sample, shown);
  say(target, sample, shown, lit, told);
  for (const chip of document.querySelectorAll("[data-class]"))
    chip.setAttribute("aria-pressed", String(chip.dataset.class === (state.held?.column === last ? String(state.held.unit) : "")));
  for (const thumb of document.querySelectorAll("[data-sample]"))
    thumb.setAttribute("aria-pressed", String(Number(thumb.dataset.sample) === state.sample));
}

function paintEdges(shown, lit, flow) {
  for (const own of layers) {
    const most = flow && largest(own.map(flow));
    for (const e of own) {
      const share = flow && flow(e) / most;
      const light = !shown(e) ? " off" : !lit ? "" : lit.edge(e) ? " lit" : " dim";
      e.line.setAttribute("class", (flow ? shadeOf(share) : e.shade) + light);
      e.line.setAttribute("stroke-width", flow ? 0.6 + (own.length > net.crowded ? 1.8 : 3.4) * Math.abs(share) : e.width);
    }
  }
}

function paintUnits(shown, lit, sample, target) {
  const joined = columns(false);
  for (const e of edges) if (shown(e)) joined[e.layer][e.from] = joined[e.layer + 1][e.to] = true;
  units.forEach((own, c) => own.forEach((g, u) => {
    g.classList.toggle("dim", (c < last && !joined[c][u]) || Boolean(lit && !lit.units[c][u]));
    g.classList.toggle("dead", Boolean(sample && c > 0 && c < last && sample.values[c][u] === 0));
    g.classList.toggle("here", target?.column === c && target.unit === u);
    g.setAttribute("aria-pressed", String(state.held?.column === c && state.held.unit === u));
  }));
}

// The inputs' map or rows: what they add to the unit that is looked at, or their importance.
function paintInputs(target, sample, shown) {
  const signed = target && target.column > 0;
  let values = net.importance, title = "Importance of the inputs";
  if (signed) {
    const slope = slopes(target.column, target.unit, shown, sample?.gates)[0];
    values = slope.map((s, j) => s * (sample ? sample.values[0][j] : net.scale[0][j]));
    title = `What ${sample ? "this sample’s" : "the"} inputs add to ${nameOf(target)}`;
  }
  document.getElementById("map-title").textContent = title;
  const most = largest(values);
  for (const [j, mark] of marks.entries()) mark(values[j], values[j] / most, Boolean(signed), target?.column === 0 && target.unit === j);
}

const nameOf = ({ column, unit }) => (column === last ? named[unit] : units[column][unit].getAttribute("aria-label").split(":")[0]);

function say(target, sample, shown, lit, told) {
  const visible = edges.filter(shown);
  const counted = paths(shown, net.pixels.map(() => 1), () => 1);
  const said = document.getElementById("said");
  document.getElementById("of-samples").hidden = !sample;
  document.getElementById("of-edges").hidden = Boolean(sample);
  if (!target) {
    said.textContent = `${count(counted.total, "path")} over ${count(visible.length, "edge")}.`;
    return;
  }
  const own = visible.filter(lit.edge);
  const ends = [0, last].map((c) => lit.units[c].map((there, u) => (there ? u : -1)).filter((u) => u >= 0));
  const parts = [`${count(counted.of(target), sample ? "live path" : "path")} over ${count(own.length, "edge")}`];
  if (target.column > 0) parts.push(`from ${count(ends[0].length, "input")}`);
  if (target.column < last) parts.push(`to ${ends[1].map((u) => named[u]).join(", ") || "no output"}`);
  const before = document.createElement("b");
  before.textContent = nameOf(target);
  const carried = paths(shown, net.scale[0], (e) => Math.abs(e.weight));
  if (!sample && carried.total) parts.push(`with ${((100 * carried.of(target)) / carried.total).toFixed(1)} % of what all paths carry`);
  said.replaceChildren(before, `: ${parts.join(" ")}. ${sample ? sampleSaid(target, sample, told) : ""}`);
}

function sampleSaid(target, sample, told) {
  const { label } = net.samples[state.sample];
  const read = label === null ? "" : `The sample is ${named[label]}, read as ${named[told]}. `;
  const fixed = (v) => v.toFixed(2).replace("-", "−");
  const value = sample.values[target.column][target.unit];
  if (target.column === 0) return `${read}Its value is ${short(value)}.`;
  const slope = slopes(target.column, target.unit, () => true, sample.gates)[0];
  const added = slope.map((s, j) => s * sample.values[0][j]);
  const [up, down] = [sum(added.filter((v) => v > 0)), sum(added.filter((v) => v < 0))];
  svg.dataset.sum = up + down;
  svg.dataset.value = value;
  if (!exact) return `${read}Its value is ${fixed(value)}; gradient × input, which need not sum to it, gives ${fixed(up)} for and ${fixed(-down)} against.`;
  return `${read}Its value, ${fixed(value)}, is ${fixed(value - up - down)} from biases, ${fixed(up)} for and ${fixed(-down)} against it from inputs.`;
}

// Marks of the inputs: pixels on the grid, or named rows with bars.
const marks = net.grid ? pixels() : rows();

function pixels() {
  const [height, width] = net.grid;
  const picture = document.querySelector("#map svg");
  return net.pixels.map((pixel, j) => {
    const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    const at = pixel % (height * width);
    for (const [name, value] of Object.entries({ x: at % width, y: Math.floor(at / width), width: 1, height: 1 })) rect.setAttribute(name, value);
    points(rect, j);
    picture.append(rect);
    return (value, share, signed, here) => {
      rect.setAttribute("class", `${shadeOf(share, signed)}${value === 0 ? " dim" : ""}${here ? " here" : ""}`);
    };
  });
}

function rows() {
  const list = document.getElementById("rows");
  const made = net.pixels.map((_, j) => {
    const row = document.createElement("li");
    row.innerHTML = '<span class="name"></span><span class="track" aria-hidden="true"><i></i></span><span class="value"></span>';
    const [name, track, said] = row.children;
    name.textContent = nameOf({ column: 0, unit: j });
    points(row, j);
    return { row, mark: (value, share, signed, here) => {
      const bar = track.firstChild, wide = Math.abs(share) * (signed ? 50 : 100);
      bar.className = shadeOf(share, signed);
      bar.style.left = `${signed ? (value < 0 ? 50 - wide : 50) : 0}%`;
      bar.style.width = `${wide}%`;
      track.classList.toggle("plain", !signed);
      row.classList.toggle("here", here);
      said.textContent = short(value);
    } };
  });
  const order = made.map((_, j) => j).sort((a, b) => net.importance[b] - net.importance[a]);
  list.append(...order.map((j) => made[j].row));
  return made.map(({ mark }) => mark);
}

function points(element, j) {
  element.addEventListener("pointerenter", () => { state.over = { column: 0, unit: j }; paint(); });
  element.addEventListener("pointerleave", () => { state.over = null; paint(); });
  element.addEventListener("click", () => hold({ column: 0, unit: j }));
}

function hold(unit) {
  const same = unit && state.held && unit.column === state.held.column && unit.unit === state.held.unit;
  state.held = same ? null : unit;
  paint();
}

const unitAt = (element) => {
  const g = element.closest?.(".units > g");
  if (!g) return null;
  const [column, unit] = g.id.slice(1).split("-").map(Number);
  return { column, unit };
};

svg.addEventListener("pointerover", (event) => {
  const over = unitAt(event.target);
  if (over || state.over) { state.over = over; paint(); }
});
svg.addEventListener("pointerleave", () => { state.over = null; paint(); });
svg.addEventListener("focusin", (event) => { state.over = unitAt(event.target); paint(); });
svg.addEventListener("focusout", () => { state.over = null; paint(); });
svg.addEventListener("click", (event) => hold(unitAt(event.target)));
svg.addEventListener("keydown", (event) => {
  const at = unitAt(event.target);
  if (!at) return;
  if (event.key === "Enter" || event.key === " ") hold(at);
  else if (event.key === "Escape") { state.held = state.over = null; paint(); }
  else if (event.key.startsWith("Arrow")) move(at, event.key);
  else return;
  event.preventDefault();
});

// Up and down in a column; left and right to the unit of the next column that stands nearest.
function move({ column, unit }, key) {
  const order = net.orders[column], place = order.indexOf(unit);
  let to = { column, unit: order[place + (key === "ArrowDown" ? 1 : -1)] };
  if (key === "ArrowLeft" || key === "ArrowRight") {
    const beside = column + (key === "ArrowRight" ? 1 : -1);
    if (!net.orders[beside]) return;
    const near = [...net.orders[beside]].sort((a, b) => Math.abs(high(beside, a) - high(column, unit)) - Math.abs(high(beside, b) - high(column, unit)));
    to = { column: beside, unit: near[0] };
  }
  const next = units[to.column][to.unit];
  if (!next) return;
  for (const g of units[to.column]) g.setAttribute("tabindex", g === next ? "0" : "-1");
  next.focus();
}

const high = (column, unit) => Number(units[column][unit].querySelector("circle").getAttribute("cy"));

for (const chip of document.querySelectorAll("[data-class]"))
  chip.addEventListener("click", () => {
    if (chip.dataset.class) hold({ column: last, unit: Number(chip.dataset.class) });
    else { state.held = null; paint(); }
  });
for (const thumb of document.querySelectorAll("[data-sample]")) {
  const index = Number(thumb.dataset.sample);
  thumb.addEventListener("click", () => {
    state.sample = state.sample === index ? null : index;
    if (net.grid) picture(document.querySelector("#map canvas"), state.sample);
    paint();
  });
  if (net.grid) picture(thumb.querySelector("canvas"), index);
}

function picture(canvas, index) {
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  if (index === null) return;
  const image = context.createImageData(canvas.width, canvas.height);
  [...net.samples[index].picture].forEach((digit, i) => {
    const shade = 17 * parseInt(digit, 16);
    image.data.set([shade, shade, shade, 255], 4 * i);
  });
  context.putImageData(image, 0, 0);
}

const slider = document.getElementById("strongest");
function slid() {
  state.stop = Number(slider.value);
  const [paths, carried] = net.stops[state.stop];
  const all = state.stop === net.stops.length - 1;
  const text = all ? `all ${count(paths, "path")}` : `the strongest ${paths.toLocaleString("en")} of ${net.paths.toLocaleString("en")} carry ${(100 * carried).toFixed(0)} %`;
  document.getElementById("strongest-said").textContent = text;
  slider.setAttribute("aria-valuetext", text);
  paint();
}
slider.addEventListener("input", slid);

// Columns at the width of the screen, so that letters and dots keep their size.
const drawn = { width: svg.viewBox.baseVal.width, height: svg.viewBox.baseVal.height };
const texts = units.map((own) => own.map((g) => g.querySelector("text")?.textContent));
const heads = [...svg.querySelectorAll(".head")].map((head) => [head, head.textContent]);
const edge = units.map((own) => (own.length ? Number(own[0].querySelector("circle").getAttribute("cx")) : 0));
function place() {
  const width = Math.max(280, svg.parentElement.clientWidth - 20);
  const left = Math.min(edge[0], Math.max(16, width * 0.36));
  const right = Math.min(drawn.width - edge[last], width * 0.3);
  const x = net.orders.map((_, c) => left + ((width - left - right) * c) / last);
  svg.setAttribute("viewBox", `0 0 ${width} ${drawn.height}`);
  heads.forEach(([head, name], c) => {
    head.setAttribute("x", x[c]);
    head.textContent = c > 0 && x[1] - x[0] < 7.5 * name.length + 10 ? name.replace(/^layer /, "") : name;
  });
  units.forEach((own, c) => own.forEach((g, u) => {
    g.querySelector("circle").setAttribute("cx", x[c]);
    const text = g.querySelector("text");
    if (!text) return;
    text.setAttribute("x", c === 0 ? x[c] - 12 : x[c] + 12);
    const room = Math.floor(((c === 0 ? left : right) - 14) / 7.3);
    text.textContent = texts[c][u].length > room ? `${texts[c][u].slice(0, room - 1)}…` : texts[c][u];
  }));
  for (const e of edges) {
    const [a, b, y, z] = [x[e.layer], x[e.layer + 1], high(e.layer, e.from), high(e.layer + 1, e.to)];
    const middle = (a + b) / 2;
    e.line.setAttribute("d", `M${a} ${y}C${middle} ${y} ${middle} ${z} ${b} ${z}`);
  }
}
window.addEventListener("resize", place);
place();
slid();
