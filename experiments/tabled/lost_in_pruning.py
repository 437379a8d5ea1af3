"""Lost in Pruning: how far a cascade can be pruned as images are, under shifts and noise; tables, plots and a verdict.

Errors are allowed to exceed those of the same seed's dense network by half a point. A potential is the paper's: the
largest ratio of those tested that qualifies, also after a smaller one has failed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean

from markupsafe import Markup

from secateur.data.augment import SEEN, UNSEEN
from secateur.measures.excess import excess_slope
from secateur.measures.potential import prune_potential
from secateur.report.seeds import spread
from secateur.report.text import duration
from secateur.report.trust_charts import Banded, banded
from secateur.report.trust_words import named
from tabled.cascades import Cascade, Shift, cascades
from tabled.common import ACCURACIES, Records, gathered, percent, table
from tabled.plots import Dot, dots, standalone

QUESTION = "lost_in_pruning"
METHODS = {"wt": ("WT", "slim"), "sipp": ("SiPP", "train"), "ft": ("FT", "cut"), "pfp": ("PFP", "dense")}
"""By the ends of their recipes' names: what they are called, and their colour."""
ROBUST = "data.augment=corrupt"
"""What the name of a cascade says that saw corruptions in training and retraining."""
PUBLISHED = {
    "WT": ("84.9", "85", "67", "0"),
    "SiPP": ("84.9", "87", "71", "0"),
    "FT": ("52.1", "66", "55", "0"),
    "PFP": ("44.9", "66", "54", "0"),
}
"""ResNet-20 in per cent: of a slide; and read off a plot, as they are, mean and least of 20 shifts."""
NOTHING = (
    "No results are kept yet: `python experiments/run.py experiments/lost_in_pruning/{files}` carries the cascades "
    "out, and `python experiments/shifts.py` with the same options evaluates them."
)
NETWORKS = ("resnet20", "lenet_300_100")
MARGINS = (0.005, 0.01, 0.02, 0.05)
"""Of error: the paper's, and wider ones that tell methods apart after short retraining."""


@dataclass(frozen=True)
class Study:
    """The cascades of one network on one schedule under one set of shifts, by method, one a seed."""

    name: str
    strengths: str
    methods: Mapping[str, list[Cascade]]

    @property
    def first(self) -> Cascade:
        """Any of them, for what all share."""
        return next(iter(self.methods.values()))[0]

    @property
    def robust(self) -> bool:
        """Whether training saw corruptions."""
        return ROBUST in self.name

    @property
    def shown(self) -> str:
        """What readers see of the name: of a robust training not how."""
        return f"{self.name.partition('-')[0]}, robust" if self.robust else self.name

    @property
    def kinds(self) -> list[str]:
        """The shifts that all cascades were seen under."""
        own = [{row.kind for row in one.shifted} for found in self.methods.values() for one in found]
        return [row.kind for row in self.first.shifted if all(row.kind in each for each in own)]


Found = Mapping[tuple[str, str], list[Cascade]]


def studies(network: str, found: Found | None = None) -> list[Study]:
    """The studies of a network: its cascades on one schedule, with the same change, under one set of shifts."""
    own: dict[tuple[str, str], dict[str, list[Cascade]]] = {}
    for (strengths, experiment), results in (cascades(QUESTION) if found is None else found).items():
        stem, mark, changes = experiment.partition("-")
        schedule, _, method = stem.rpartition("_")
        if schedule in (network, f"{network}_short") and method in METHODS:
            own.setdefault((schedule + mark + changes, strengths), {})[METHODS[method][0]] = results
    order = [label for label, _ in METHODS.values()]
    made = [
        Study(name, strengths, {label: methods[label] for label in order if label in methods})
        for (name, strengths), methods in own.items()
    ]
    return sorted(made, key=lambda study: study.robust)


def nominal(one: Cascade) -> float:
    """The potential on images as they are."""
    return one.nominal.potential.value


def over(one: Cascade, kinds: Sequence[str], reduce: Callable[[list[float]], float]) -> float:
    """The mean, or the least, potential over some shifts."""
    return reduce([row.potential.value for row in one.shifted if row.kind in kinds])


def noisy(one: Cascade) -> float:
    """The mean potential over the levels of noise above 0."""
    return fmean(value for level, value in zip(one.noise.epsilons, one.noise.potential, strict=True) if level)


def potentials(network: str, found: Found | None = None) -> str:
    """One row a study and a method: potentials, accuracies, and what was published."""
    lines = []
    for study in studies(network, found):
        for method, own in study.methods.items():
            columns = [
                [1 - one.nominal.errors[0] for one in own],
                [nominal(one) for one in own],
                [one.nominal.potential.interpolated for one in own],
                [over(one, study.kinds, fmean) for one in own],
                [over(one, study.kinds, min) for one in own],
                [noisy(one) for one in own],
            ]
            cells = [value.words(digits=1) for column in columns if (value := spread(column)) is not None]
            bound = "≥ " if all(one.nominal.potential.censored for one in own) else ""
            cells[1:3] = [f"{bound}{cell}" for cell in cells[1:3]]
            published = PUBLISHED[method] if network == "resnet20" and not study.robust else ("",) * 4
            lines.append([f"{study.shown}, {study.strengths}, {method}", str(len(own)), *cells, *_told(published)])
    if not lines:
        return NOTHING.format(files=f"{network}_short_*.yaml")
    head = ["cascade, shifts, method", "seeds", "dense accuracy", "potential as they are", "on the line",
            "mean of shifts", "least of shifts", "mean of noise"]  # fmt: skip
    head += ["published, slide", "published, plot: as they are, mean, least"] if network == "resnet20" else []
    width = len(head)
    return f"{table(head, [line[:width] for line in lines])}\n\n{_circumstances(studies(network, found))}"


def _told(published: tuple[str, ...]) -> list[str]:
    slide, *plot = published
    return [slide, ", ".join(plot) if any(plot) else ""]


def _circumstances(found: Sequence[Study]) -> str:
    """What the numbers of a table are, and what they cost."""
    all_of = [one for study in found for own in study.methods.values() for one in own]
    points = sorted({len(one.ratios) - 1 for one in all_of})
    images = sorted({one.images for one in all_of})
    noise = sorted({(one.noise.images, one.noise.draws) for one in all_of})
    times = [duration(fmean(one.seconds[name] for one in all_of)) for name in ("run", "evaluation")]
    return (
        "In per cent of the dense network's parameters, mean ± standard deviation over the seeds; at most "
        f"{100 * all_of[0].margin:g} points more error than the same seed's dense network on the same images. “On the "
        "line”: up to the first ratio that fails, and on to where the line to it meets the margin. “Least”: of each "
        f"seed the shift that leaves least, averaged; ≥: the largest ratio tested holds. Networks train on "
        f"with every round, so the pruned ones have trained longer than the dense one. {_numbers(points)} ratios a "
        f"cascade, {_numbers(images)} test images under each shift; noise of 14 levels on "
        f"{' and '.join(f'{many:,} images, {draws} draws' for many, draws in noise)}. A cascade took {times[0]} and "
        f"its evaluation {times[1]} on average ({all_of[0].hardware.cpu}, threads: {all_of[0].hardware.threads}, "
        f"beside other work); torch {all_of[0].versions['torch'].partition('+')[0]}."
    )


def _numbers(values: Sequence[int]) -> str:
    return " or ".join(f"{value:,}" for value in values)


def by_shift(network: str, found: Found | None = None) -> str:
    """One row a shift, one column a study and a method: mean potentials over the seeds."""
    parts = []
    for strengths in dict.fromkeys(study.strengths for study in studies(network, found)):
        own = [study for study in studies(network, found) if study.strengths == strengths]
        kinds = list(dict.fromkeys(kind for study in own for kind in study.kinds))
        head = [f"shift ({strengths})", *(f"{_short(study, network)}{m}" for study in own for m in study.methods)]
        lines = [
            ["as they are", *(_mean([nominal(one) for one in seeds]) for s in own for seeds in s.methods.values())]
        ]
        for kind in kinds:
            cells = [
                _mean([_at(one, kind).potential.value for one in seeds]) if kind in s.kinds else ""
                for s in own
                for seeds in s.methods.values()
            ]
            lines.append([named(kind), *cells])
        parts.append(table(head, lines))
    return "\n\n".join(parts) or NOTHING.format(files=f"{network}_short_*.yaml")


def by_margin(network: str, found: Found | None = None) -> str:
    """One row a study and a method: how far the line holds where more error is allowed."""
    lines = []
    for study in studies(network, found):
        for method, own in study.methods.items():
            cells = []
            for margin in MARGINS:
                nominal = _mean([_within(one.nominal, one.ratios, margin) for one in own])
                shifted = [
                    fmean(_within(row, one.ratios, margin) for row in _rows(one, study, shifted=True)) for one in own
                ]
                cells.append(f"{nominal}, {_mean(shifted)}")
            lines.append([f"{study.shown}, {study.strengths}, {method}", *cells])
    if not lines:
        return NOTHING.format(files=f"{network}_short_*.yaml")
    head = ["cascade, shifts, method", *(f"{100 * margin:g} points" for margin in MARGINS)]
    return f"{table(head, lines)}\n\nOn the line, in per cent: images as they are, mean of the shifts; over the seeds."


def _within(row: Shift, ratios: Sequence[float], margin: float) -> float:
    return prune_potential(ratios[1:], row.errors[1:], row.errors[0], margin=margin).interpolated


def _short(study: Study, network: str) -> str:
    """What tells a study from the others of its network."""
    name = study.shown.removeprefix(network).strip("_-, ")
    return f"{name}, " if name else ""


def _mean(values: Sequence[float]) -> str:
    return f"{100 * fmean(values):.0f}"


def _at(one: Cascade, kind: str) -> Shift:
    return next(row for row in one.shifts if row.kind == kind)


def verdict(found: Found | None = None) -> str:
    """What the results say, a sentence a finding; networks without results are named as such."""
    told = []
    for network in NETWORKS:
        own = studies(network, found)
        told += [line for study in own for line in (*_overstated(study), *_excess(study))]
        told += [line for study in own if study.robust for line in _hardened(study, own)]
        if not own:
            told.append(f"{network}: {NOTHING.format(files=f'{network}_short_*.yaml')}")
    return "\n".join(f"- {line}" for line in told)


def _overstated(study: Study) -> list[str]:
    """Whether the potential on images as they are is more than shifts leave, seed by seed."""
    lines = []
    for method, own in study.methods.items():
        before = [nominal(one) for one in own]
        after = [over(one, study.kinds, fmean) for one in own]
        least = [over(one, study.kinds, min) for one in own]
        worse = sum(a > b for a, b in zip(before, after, strict=True))
        where = {min(study.kinds, key=lambda kind, one=one: _at(one, kind).potential.value): None for one in own}
        held = f"{worse} of {len(own)} seed{'' if len(own) == 1 else 's'}"
        lines.append(
            f"{study.shown} ({study.strengths}), {method}: {_mean(before)} % of the parameters can go as images are, "
            f"{_mean(after)} % on average over {len(study.kinds)} shifts and {_mean(least)} % under the worst of "
            f"each seed ({', '.join(map(named, where))}). The images as they are say more than the shifts on average "
            f"in {held}."
        )
    return lines


def _excess(study: Study) -> list[str]:
    """The slope of the excess error over all seeds and ratios of a method."""
    lines = []
    for method, own in study.methods.items():
        points = [point for one in own for point in one.excess()]
        line = excess_slope([ratio for ratio, _ in points], [value for _, value in points])
        sure = "more than" if line.low > 0 else "less than" if line.high < 0 else "no more certainly than"
        lines.append(
            f"{study.shown} ({study.strengths}), {method}: shifts cost pruned networks {sure} the dense one: "
            f"{_points(line.value)} points of error to all parameters gone, interval {_points(line.low)} to "
            f"{_points(line.high)} over {len(points)} networks."
        )
    return lines


def _points(share: float) -> str:
    return f"{round(100 * share, 1) + 0.0:+.1f}"  # no minus before a zero


def _hardened(study: Study, others: Sequence[Study]) -> list[str]:
    """What training on corruptions gives, beside the same schedule without."""
    plain = study.name.replace(f"-{ROBUST}", "").split("+")[0]
    same = [other for other in others if other.name == plain and other.strengths == study.strengths]
    lines = []
    for other in same:
        for method in (name for name in study.methods if name in other.methods):
            gains = []
            for kinds, what in ((SEEN, "that training saw"), (UNSEEN, "that it did not see")):
                common = [kind for kind in kinds if kind in study.kinds and kind in other.kinds]
                if common:
                    means = [fmean(over(one, common, fmean) for one in s.methods[method]) for s in (other, study)]
                    many = f"{len(common)} shift{'' if len(common) == 1 else 's'}"
                    gains.append(f"{_mean(means[:1])} to {_mean(means[1:])} % over {many} {what}")
            lines.append(f"{study.shown} ({study.strengths}), {method}: training on corruptions moves it from "
                         f"{' and '.join(gains)}.")  # fmt: skip
    return lines


def curves(study: Study, *, shifted: bool) -> Markup:
    """Accuracy over the prune ratio, a curve a method with the range of its seeds; the mean of the shifts if asked."""
    drawn = []
    for method, own in study.methods.items():
        kind = dict(METHODS.values())[method]
        points = []
        for i in range(len(own[0].ratios)):
            values = [fmean(1 - row.errors[i] for row in _rows(one, study, shifted=shifted)) for one in own]
            points.append((fmean(one.ratios[i] for one in own), fmean(values), min(values), max(values)))
        drawn.append(Banded(method, tuple(points), kind))
    what = f"mean of {len(study.kinds)} shifts" if shifted else "images as they are"
    title = f"{study.shown}: accuracy over the prune ratio, {what}"
    return banded(drawn, title=title, name=f"accuracy, %, {what}", across="prune ratio, %", width=920,
                  key=f"curves-{'shifted' if shifted else 'nominal'}")  # fmt: skip


def _rows(one: Cascade, study: Study, *, shifted: bool) -> list[Shift]:
    return [row for row in one.shifted if row.kind in study.kinds] if shifted else [one.nominal]


def reaches(study: Study) -> Markup:
    """The potential of every method under every shift."""
    rows = []
    for kind in ("nominal", *study.kinds):
        found = []
        for method, own in study.methods.items():
            values = [_at(one, kind).potential.value for one in own]
            found.append(Dot(fmean(values), min(values), max(values), dict(METHODS.values())[method]))
        rows.append(("as they are" if kind == "nominal" else named(kind), found))
    legend = [(method, dict(METHODS.values())[method]) for method in study.methods]
    title = f"{study.shown}: prune potential by shift"
    return dots(rows, legend, title=title, name="prune potential, %", key="reaches")


def plots(found: Found | None = None) -> dict[str, str]:
    """SVG files by their names, three a study."""
    made = {}
    for study in (study for network in NETWORKS for study in studies(network, found)):
        stem = f"{QUESTION}-{study.shown.replace(', ', '_')}-{study.strengths}"
        made[f"{stem}-accuracy.svg"] = standalone(curves(study, shifted=False), 920)
        made[f"{stem}-shifted.svg"] = standalone(curves(study, shifted=True), 920)
        made[f"{stem}-potential.svg"] = standalone(reaches(study), 920)
    return made


def shown(found: Found | None = None) -> str:
    """The plots as Markdown, for pages in docs/methods."""
    lines = [f"![{name.removesuffix('.svg')}](../images/{name})" for name in plots(found)]
    return "\n\n".join(lines) or NOTHING.format(files="*_short_*.yaml")


def alone(found: Records | None = None) -> str:
    """One row a mask that is trained from the start: SiPP's, and one as dense in every layer drawn at random."""
    runs = gathered() if found is None else found
    lines = []
    for network in NETWORKS:
        for mask, words in (("sipp", "chosen by SiPP"), ("random", "any, as many of every layer")):
            if own := runs.get(f"{QUESTION}/{network}_alone_{mask}"):
                kept, trained = own[0].recipe["pruning"]["budget"], [one.stages[-1] for one in own]
                lines.append([f"{network}, {kept}, {words}", str(len(own)),
                              percent([one.stages[0] for one in own]), percent(trained)])  # fmt: skip
    if not lines:
        return "No results are kept yet: `python experiments/run.py experiments/lost_in_pruning/*_alone_*` makes them."
    head = ["network, budget, weights that stay", "seeds", "dense", "the mask alone"]
    return (
        f"{table(head, lines)}\n\n{ACCURACIES} The mask is made of the trained network; what it leaves goes back to "
        "the weights that training began with and is trained as the dense network was."
    )


TABLES = {
    **{f"lost in pruning {network}": partial(potentials, network) for network in NETWORKS},
    **{f"lost in pruning shifts {network}": partial(by_shift, network) for network in NETWORKS},
    **{f"lost in pruning margins {network}": partial(by_margin, network) for network in NETWORKS},
    "lost in pruning alone": alone,
    "lost in pruning plots": shown,
    "lost in pruning verdict": verdict,
}
