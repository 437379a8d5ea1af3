"""References that share no code with the proofs of the package: what a cut must mean, computed from members alone.

A *removed* unit has zeros in every tensor it lives in. A norm with weights sees the entries that its own weight keeps.
Units are interchangeable: permuting them in every member at once changes nothing.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode

import secateur
from secateur.graph.choices import Choices, holding
from secateur.graph.units import Group, Groups, Slices
from secateur.planning import Plan

Keep = Mapping[str, Tensor]


def redraw(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model itself, in evaluation mode, with every parameter and statistic random, so that no wrong cut can hide.

    Matrices stay at the scale of an ordinary initialisation, so that outputs neither vanish nor explode.
    """
    draw = torch.Generator().manual_seed(seed)
    for module in model.modules():
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is None or not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=draw)
            if name == "running_var":
                tensor.data = 1 + 0.3 * noise.abs()
            elif name.startswith("running"):
                tensor.data = 0.1 * noise
            elif tensor.dim() > 1:
                if bool((tensor == tensor.flatten()[0]).all()):
                    tensor.data = noise / tensor.shape[-1] ** 0.5
            elif isinstance(tensor, nn.Parameter):
                tensor.data = (1 if "weight" in name or "scale" in name else 0) + 0.1 * noise
    return model.eval()


def random_keep(
    groups: Groups, *, seed: int = 0, share: float = 0.5, only: Callable[[Group], bool] | None = None
) -> Keep:
    """Random kept units: about `share` of every group that `only` allows, the others whole, feasible together."""
    draw = torch.Generator().manual_seed(seed)
    wanted = {g.name: round(g.units * share) if only is None or only(g) else g.units for g in groups}
    counts = groups.balance(wanted)
    return {g.name: torch.randperm(g.units, generator=draw)[: counts[g.name]].sort().values for g in groups}


def random_plan(groups: Groups, **how: Any) -> Plan:
    """A plan of random kept units."""
    return Plan.of(groups, random_keep(groups, **how))


def exact(group: Group) -> bool:
    """Whether zeroed units are the same as absent ones."""
    return group.proof == "exact"


def outputs(model: nn.Module, inputs: tuple[tuple[Any, ...], dict[str, Any]]) -> list[Tensor]:
    """Every tensor that the model returns, in float64."""
    args, kwargs = tree_map(_wide, inputs)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad():
            return list(_tensors(copy.deepcopy(model).double().eval()(*args, **kwargs)))
    finally:
        torch.set_default_dtype(before)


def held_outputs(model: nn.Module, inputs: Any, choices: Choices) -> list[Tensor]:
    """The same, with what was chosen on the example: nearly equal boxes change places by rounding."""
    with holding(choices):
        return outputs(model, inputs)


def _wide(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping | tuple | list):
        for part in output.values() if isinstance(output, Mapping) else output:
            yield from _tensors(part)
    elif dataclasses.is_dataclass(output):
        yield from _tensors(vars(output))


def difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """The largest difference relative to the largest value; both sides must have finite, non-zero outputs."""
    assert [t.shape for t in ours] == [t.shape for t in theirs]
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        if not b.is_floating_point():
            assert torch.equal(a, b)
            continue
        scale = float(b.abs().max())
        assert torch.isfinite(a).all()
        assert scale > 1e-12, "an output of zeros proves nothing"
        worst = max(worst, float((a - b).abs().max()) / scale)
    return worst


def zeroed(groups: Groups, keep: Keep) -> nn.Module:
    """A float64 copy of the model with zeros wherever a removed unit has entries."""
    model = copy.deepcopy(groups.model).double()
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for group in groups:
        stays = torch.zeros(group.units, dtype=torch.float64)
        stays[keep[group.name]] = 1
        for member in group.members:
            tensor = tensors[member.name]
            if tensor.is_floating_point():
                tensor.data = tensor.data * member.expand(stays)
    return model


def masked_outputs(groups: Groups, keep: Keep) -> list[Tensor]:
    """What the model returns with removed units zero and norms over kept entries only."""
    model = zeroed(groups, keep)
    with kept_norms(kept_lines(groups, model, keep)):
        return outputs_of(model, groups.inputs)


def outputs_of(model: nn.Module, inputs: tuple[tuple[Any, ...], dict[str, Any]]) -> list[Tensor]:
    """As `outputs`, on the module itself: its parameters keep their identity."""
    args, kwargs = tree_map(_wide, inputs)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad():
            return list(_tensors(model.eval()(*args, **kwargs)))
    finally:
        torch.set_default_dtype(before)


def kept_lines(groups: Groups, model: nn.Module, keep: Keep) -> dict[int, Tensor]:
    """For every one-dimensional parameter that loses entries: its id and the bool mask of those that stay."""
    tensors = dict(model.named_parameters())
    lines: dict[int, Tensor] = {}
    for group in groups:
        stays = torch.zeros(group.units, dtype=torch.bool)
        stays[keep[group.name]] = True
        for member in group.members:
            if member.name in tensors and len(member.shape) == 1:
                line = member.expand(stays, fill=True)
                known = lines.get(id(tensors[member.name]))
                lines[id(tensors[member.name])] = line if known is None else known & line
    return lines


@contextmanager
def kept_norms(lines: Mapping[int, Tensor]) -> Iterator[None]:
    """While the block runs, layer, RMS and group norms see the kept entries of their weight only."""
    layer, group, rms = F.layer_norm, F.group_norm, F.rms_norm

    def layer_norm(x: Tensor, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
        line = lines.get(id(weight))
        if line is None:
            return layer(x, shape, weight, bias, eps)
        out = torch.zeros_like(x)
        out[..., line] = layer(x[..., line], [int(line.sum())], weight[line], None if bias is None else bias[line], eps)
        return out

    def rms_norm(x: Tensor, shape: Any, weight: Any = None, eps: float | None = None) -> Tensor:
        line = lines.get(id(weight))
        if line is None:
            return rms(x, shape, weight, eps)
        out = torch.zeros_like(x)
        out[..., line] = rms(x[..., line], [int(line.sum())], weight[line], eps)
        return out

    def group_norm(x: Tensor, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
        line = lines.get(id(weight))
        if line is None:
            return group(x, groups, weight, bias, eps)
        out = torch.zeros_like(x)
        size = x.shape[1] // groups
        for g in range(groups):
            own = torch.arange(g * size, (g + 1) * size)[line[g * size : (g + 1) * size]]
            if len(own):
                out[:, own] = group(x[:, own], 1, weight[own], None if bias is None else bias[own], eps)
        return out

    F.layer_norm, F.group_norm, F.rms_norm = map(unseen, (layer_norm, group_norm, rms_norm))
    try:
        yield
    finally:
        F.layer_norm, F.group_norm, F.rms_norm = layer, group, rms


def unseen(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function, hidden from modes that watch what a model chooses: its own masks are no choices."""

    def hidden(*args: Any, **kwargs: Any) -> Tensor:
        with _disable_current_modes():
            return function(*args, **kwargs)

    return hidden


def permuted(groups: Groups, seed: int = 0) -> nn.Module:
    """A float64 copy of the model whose units have changed places, in every member of every group alike."""
    draw = torch.Generator().manual_seed(seed)
    model = copy.deepcopy(groups.model).double()
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for group in groups:
        order = torch.randperm(group.units, generator=draw)
        for member in group.members:
            assert isinstance(member, Slices)
            tensor = tensors[member.name]
            tensor.data = tensor.data.index_select(member.dim, moved(member.labels, order))
    return model


def moved(labels: Tensor, order: Tensor) -> Tensor:
    """Where each entry of a dimension is read from when unit `u` takes the place of unit `order[u]`."""
    places: dict[int, list[int]] = {}
    for place, unit in enumerate(labels.tolist()):
        places.setdefault(unit, []).append(place)
    source = torch.arange(len(labels))
    for unit, own in places.items():
        if unit >= 0:
            source[torch.tensor(own)] = torch.tensor(places[int(order[unit])])
    return source


def macs_of(model: nn.Module, inputs: tuple[tuple[Any, ...], dict[str, Any]]) -> int:
    """The multiply-accumulates of one call, counted by torch."""
    fast, onednn = torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # torch does not count inside its fused layers
    torch._C._set_mkldnn_enabled(False)
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model.eval()(*inputs[0], **inputs[1])
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch._C._set_mkldnn_enabled(onednn)
    return counter.get_total_flops() // 2


def check_laws(
    model: nn.Module,
    example: Any,
    *,
    seed: int = 0,
    share: float = 0.5,
    only: Callable[[Group], bool] | None = None,
    **how: Any,
) -> tuple[Groups, nn.Module]:
    """Every law of one model and one random plan (of the groups that `only` allows); its groups and the slim module."""
    redraw(model, seed)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    groups = secateur.groups(model, example, **how)
    assert len(groups) > 0, [f.reason for f in groups.frozen]
    count = len(groups)
    choices = groups.solution.recording.choices
    moved_out = held_outputs(permuted(groups, seed), groups.inputs, choices)
    assert difference(moved_out, held_outputs(model, groups.inputs, choices)) < 1e-9
    plan = random_plan(groups, seed=seed, share=share, only=only)
    slim = secateur.slim(groups, plan)
    entry = secateur.record(slim)
    assert entry is not None
    assert len(groups) == count, f"not provable: {groups.frozen[-1]}"
    assert entry.proof is not None
    assert entry.proof.holds
    with holding(choices):
        masked = masked_outputs(groups, plan.keep)
    assert difference(held_outputs(slim, groups.inputs, choices), masked) < 1e-9
    assert sum(p.numel() for p in slim.parameters()) == plan.reached.params
    with holding(choices):  # as many boxes as there were
        assert macs_of(slim, groups.inputs) == plan.reached.macs
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    return groups, slim
