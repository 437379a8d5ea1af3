"""Freezing what cannot be mended: the groups that explain where a cut model leaves its recording, with the reason."""

from __future__ import annotations

from collections.abc import Iterator

from secateur.graph.lockstep import Deviation, Drift
from secateur.graph.repair import dims_of, sub_products
from secateur.graph.terms import Atom, Reason, atoms, norm, size
from secateur.graph.trial import Trial, several

POWERS = (-0.5, 0.5, -1.0, 1.0, -0.25, 0.25)  # by which numbers are computed from widths


def stop(trial: Trial, deviation: Deviation) -> None:
    """Freeze the groups at the deviation: those of composed dimensions, else of sizes it names, of the call, ..."""
    position = min(deviation.position, len(trial.calls) - 1)
    call = trial.calls[position]
    composed = [d for d in dims_of(call) if len(norm(d)) > 1]
    named = [d for dims in call.resize.values() for d in several(dims)]
    around = ([d for i in trial.inside[path] for d in dims_of(trial.calls[i])] for path in call.stack[::-1])
    for dims in (composed, named, list(dims_of(call)), *around):
        names = trial.open(dims)
        if names:
            break
    else:
        names = [n for n in trial.minimum if n not in trial.stopped]
    text = f"the module's own code does not follow the new width ({deviation.text.splitlines()[0][:120]})"
    reason = Reason(text, str(call.func), call.module)
    trial.stopped.update(dict.fromkeys(names, reason))


def stop_drifting(trial: Trial, drifts: list[Drift]) -> None:
    """Freeze the groups whose width goes into a number (an attention scale): cutting would change the function."""
    for drift in drifts:
        suspects = [a for v in drift.call.tensors() for d in v.dims or () for a in atoms(d)]
        exact = list(_source(trial, drift)) or [a for a in suspects if _explains(trial, a, drift)]
        found_in = set(exact or suspects or _explaining(trial, drift))
        names = [n for n, found in trial.solution.atom_of.items() if found in found_in]
        text = f"a number is computed from this width ({drift.before:.4g} becomes {drift.after:.4g})"
        reason = Reason(text, str(drift.call.func), drift.call.module)
        fresh = [n for n in names if n not in trial.stopped]
        already = [n for n in names if n in trial.stopped]
        if not fresh and not already:
            fresh = trial.open(d for i in trial.inside[drift.call.module] for d in dims_of(trial.calls[i]))
        trial.stopped.update(dict.fromkeys(fresh, reason))


def _source(trial: Trial, drift: Drift) -> Iterator[Atom]:
    """The atoms of the sizes in the module of which the number is a root or a power, before and after."""
    for i in trial.inside.get(drift.call.module, []):
        for run in (run for d in dims_of(trial.calls[i]) for run in sub_products(d)):
            old, new = size(run), size(run, trial.counts)
            if old != new and any(
                abs(old**p - drift.before) + abs(new**p - drift.after) < 1e-6 * abs(drift.before) for p in POWERS
            ):
                yield from atoms(run)


def _explaining(trial: Trial, drift: Drift) -> Iterator[Atom]:
    """The atoms of dimensions in a module whose change explains that of a constant which the module makes."""
    for i in trial.inside.get(drift.call.module, []):
        for d in dims_of(trial.calls[i]):
            old, new = size(d), size(d, trial.counts)
            if old != new and is_power(drift, new / old):
                yield from atoms(d)


def _explains(trial: Trial, found: Atom, drift: Drift) -> bool:
    share = trial.counts.get(found, found.size) / found.size
    return share != 1 and is_power(drift, share)


def is_power(drift: Drift, share: float) -> bool:
    """Whether a number changed by a power of a width's change that attention scales and the like take."""
    change = drift.after / drift.before if drift.before else 0.0
    return any(abs(change - share**p) < 1e-6 for p in POWERS)
