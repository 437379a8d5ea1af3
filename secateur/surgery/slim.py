"""A plan carried out: a smaller copy of the model, proven equal to the masked one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur.errors import InputError, ProofError
from secateur.graph.configuration import restate, stated
from secateur.graph.cutting import Kept, cut_optimizer, cut_tensor, rebuild
from secateur.graph.discovery import check_finite, groups
from secateur.graph.eager import eagerly
from secateur.graph.garbage import only_new
from secateur.graph.repair import set_attribute, standard
from secateur.graph.state import take_back
from secateur.graph.terms import size
from secateur.graph.trace import named_tensors
from secateur.graph.units import Frozen, Groups
from secateur.masks import tensor_factors
from secateur.planning import Budget, Plan, plan
from secateur.surgery.record import GroupCut, Proof, Record, apply_masks, attach, record
from secateur.surgery.scale import keep_scale
from secateur.surgery.verify import Verifier, culprits, explain


@eagerly()
@only_new()
def slim(
    groups: Groups, plan: Plan, *, optimizer: torch.optim.Optimizer | None = None, verify: bool = True
) -> nn.Module:
    """A smaller copy of the model that keeps the plan's units; the model itself is never touched.

    With `verify`, the copy is proven in float64 on the example that `groups` was traced with; a group whose cut cannot
    be proven is frozen with its reason (in `groups.frozen`) and left whole, and the rest goes on. `optimizer` (of the
    original model) is made to go on with the slim copy, its state cut along. Plans of single weights or blocks keep all
    shapes: the copy has zeros where the plan removes, and its record holds the masks. Raises `InputError` for a plan of
    other groups and for parameters that are not finite, `ProofError` where nothing could be proven.

    >>> small = secateur.slim(groups, secateur.plan(groups, budget="50% macs"))
    """
    plan.check(groups)
    check_finite(groups.model)
    if groups.follow != "code":
        raise InputError(
            "The 'groups' parameter of slim must be groups that the model's own code follows. Got groups found with "
            f"follow={groups.follow!r} instead; pass them to slim_program."
        )
    if groups.kind != "slices":
        return _masked_copy(groups, plan, optimizer)
    keep = {name: kept for name, kept in plan.keep.items() if len(kept) < plan.units[name]}
    module, attributes = cut(groups, keep)
    proof = None
    if verify and keep:
        module, attributes, keep, proof = _proven(groups, module, attributes, keep)
    assert groups.solution is not None
    kept = groups.solution.kept(keep)
    _rescale(groups, module, plan, kept)
    _finish(groups, module, Record(
        kept=kept,
        shapes={name: tuple(groups.tensor(name).shape) for name in kept},
        attributes=tuple(attributes),
        scales=kept_scales(groups, keep),
        proof=proof,
        **told(groups, plan, keep),
    ))  # fmt: skip
    if optimizer is not None:
        cut_optimizer(optimizer, groups.model, module, kept)
    return module


def prune(
    model: nn.Module,
    example: Any = None,
    *,
    budget: str | Budget | None = None,
    scores: Mapping[str, Tensor] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    verify: bool = True,
    **planning: Any,
) -> nn.Module:
    """A smaller copy of `model` within a budget ("50% macs" unless said): `groups`, `plan` and `slim` in one call.

    `example` is what the model is called with: a tensor, a tuple or a dict; it is never optional, since every cut is
    proven by a forward pass. Further keywords go to `plan`. Where a group turns out not to be provable, the others are
    planned anew so that the budget still holds.

    >>> small = secateur.prune(model, torch.randn(1, 3, 224, 224), budget="2x macs")
    """
    found = groups(model, example)
    while True:
        frozen = len(found.frozen)
        chosen = plan(found, scores, budget, **planning)
        result = slim(found, chosen, verify=verify)
        if len(found.frozen) == frozen:
            break
    if optimizer is not None:
        entry = record(result)
        assert entry is not None
        cut_optimizer(optimizer, found.model, result, entry.kept)
    return result


def cut(groups: Groups, keep: Mapping[str, Tensor]) -> tuple[nn.Module, list[tuple[str, str, Any]]]:
    """A copy of the model that holds the kept units only, attributes repaired; and the attributes that were set."""
    solution = groups.solution
    assert solution is not None
    kept = solution.kept(keep)
    tensors = {name: t for name, (_, t) in named_tensors(groups.model).items()}
    module = rebuild(groups.model, {name: cut_tensor(tensors[name], lines) for name, lines in kept.items()})
    for recording in solution.recordings:
        take_back(module, recording.written)
    _drop_caches(module)
    for path, scale in kept_scales(groups, keep).items():
        keep_scale(module.get_submodule(path), scale)
    counts = solution.counts({name: len(k) for name, k in keep.items()})
    done: list[tuple[str, str, Any]] = []
    for repair in solution.repairs:
        value = repair.value(counts)
        set_attribute(module.get_submodule(repair.module), repair.attribute, value)
        done.append((repair.module, repair.attribute, value))
    done += standard(module, solution.calls, counts)
    if solution.stated is None:
        solution.stated = stated(groups.model, solution)
    done += restate(module, solution.stated, counts)
    return module, done


def _drop_caches(module: nn.Module) -> None:
    """Let modules forget what their forward has kept of wider tensors: those that keep anything do so on `train`."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    for part, mode in modes:
        part.training = mode


def kept_scales(groups: Groups, keep: Mapping[str, Tensor]) -> dict[str, float]:
    """The modules whose attention would take another scale from its smaller heads, with the scale to keep."""
    solution = groups.solution
    assert solution is not None
    counts = solution.counts({name: len(k) for name, k in keep.items()})
    scales = solution.recording.scales
    heads = {path: (query.dims or [()])[-1] for path, query in solution.recording.queries if path in scales}
    return {path: scales[path] for path, d in heads.items() if size(d, counts) != size(d)}


Proven = tuple[nn.Module, list[tuple[str, str, Any]], dict[str, Tensor], Proof]


def _proven(
    groups: Groups, module: nn.Module, attributes: list[tuple[str, str, Any]], keep: dict[str, Tensor]
) -> Proven:
    """The cut with a proof that holds; groups that break it are frozen and left whole."""
    verifier = Verifier(groups)

    def attempt(names: Sequence[str]) -> Proof | str:
        part = {name: keep[name] for name in names}
        try:
            return verifier.prove(cut(groups, part)[0], part)
        except Exception as error:
            return f"the cut model raised {type(error).__name__}: {error}"

    def fails(names: Sequence[str]) -> bool:
        result = attempt(names)
        return isinstance(result, str) or not result.holds

    try:
        proof: Proof | str = verifier.prove(module, keep)
    except Exception as error:
        proof = f"the cut model raised {type(error).__name__}: {error}"
    if isinstance(proof, Proof) and proof.holds:
        return module, attributes, keep, proof
    if fails([]):
        why = attempt([])
        raise ProofError(
            f"Nothing can be proven about {type(groups.model).__name__}: even uncut, "
            f"{why if isinstance(why, str) else explain(why)}. Is its forward random, or its output not finite?"
        )
    bad = culprits(list(keep), fails)
    rest = {name: kept for name, kept in keep.items() if name not in bad}
    why = proof if isinstance(proof, str) else explain(proof)
    for name in bad:
        groups.freeze(name, Frozen(name, groups[name].units, f"its cut could not be proven: {why}"))
    again = attempt(list(rest))
    if isinstance(again, str) or not again.holds:
        raise ProofError(f"The cut is not proven: {again if isinstance(again, str) else explain(again)}.")
    return (*cut(groups, rest), rest, again)


def told(groups: Groups, plan: Plan, keep: Mapping[str, Tensor]) -> dict[str, Any]:
    """What a record tells of a plan beside the cut itself."""
    cuts = [GroupCut(g.name, g.units, len(keep[g.name]) if g.name in keep else g.units, g.proof) for g in groups]
    after = groups.cost({c.name: c.after for c in cuts}) if groups.kind == "slices" else plan.reached
    return {
        "kind": groups.kind,
        "groups": tuple(cuts),
        "budget": plan.budget,
        "criterion": plan.criterion,
        "before": {"macs": plan.dense.macs, "params": plan.dense.params},
        "after": {
            "macs": after.macs,
            "params": after.params,
            "weights": after.weights,
            "nonzero_macs": after.nonzero_macs,
        },
        "notes": plan.notes,
    }


def _finish(groups: Groups, module: nn.Module, entry: Record) -> None:
    earlier = record(groups.model)
    attach(module, entry if earlier is None else earlier.then(entry))


def _rescale(groups: Groups, module: nn.Module, plan: Plan, kept: Kept) -> None:
    """Multiply what reads each kept unit by the plan's factor for it (randomised methods)."""
    factors = tensor_factors(groups, plan)
    tensors = named_tensors(module) if factors else {}
    with torch.no_grad():
        for name, factor in factors.items():
            tensor = tensors[name][1]
            tensor.mul_(cut_tensor(factor, kept.get(name, {})).to(tensor))


def _masked_copy(groups: Groups, plan: Plan, optimizer: torch.optim.Optimizer | None) -> nn.Module:
    """A copy of the same shapes with zeros at the removed weights or blocks."""
    module = rebuild(groups.model, {})
    masks: dict[str, Tensor] = {}
    for group in groups:
        stays = plan.mask(group.name)
        for member in group.members:
            mask = member.expand(stays).expand(member.shape)
            masks[member.name] = masks[member.name] & mask if member.name in masks else mask.clone()
    apply_masks(module, masks)
    _rescale(groups, module, plan, {})
    _finish(groups, module, Record(masks=masks, **told(groups, plan, plan.keep)))
    if optimizer is not None:
        cut_optimizer(optimizer, groups.model, module, {})
    return module
