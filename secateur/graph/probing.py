"""Finding, once for a model, what must change beside its tensors when it is cut.

The model is cut to trial widths on tensors without data and run beside its recording. Every deviation is mended by the
first of these that gets the run further: an attribute follows a size, two sizes must be equal, or the groups at the
place are frozen with that reason. So whatever `groups` returns has been shown to run when cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from torch import nn

from secateur.graph.attributes import Attributes
from secateur.graph.equalities import Equalities
from secateur.graph.lockstep import Deviation
from secateur.graph.solution import Solution
from secateur.graph.stopping import stop, stop_drifting
from secateur.graph.terms import Dim, Reason, norm
from secateur.graph.trace import Inputs
from secateur.graph.trial import OPPOSED, SHARES, Trial, several


def probe(model: nn.Module, solution: Solution, inputs: Inputs, minimum: Mapping[str, int]) -> dict[str, Reason]:
    """Learn the repairs and equalities of `model` into `solution`; returns the groups that cannot be cut, and why."""
    stopped = Prober(Trial(model, solution, inputs, minimum)).run()
    if solution.second is not None:
        other = replace(solution, recording=solution.second)
        stopped = Prober(Trial(model, other, inputs, minimum, stopped)).run()
        solution.repairs, solution.equal = other.repairs, other.equal
    return stopped


class Prober:
    """The rounds of trial cuts of one model, and in what order its deviations are mended."""

    def __init__(self, trial: Trial) -> None:
        self.trial, self.attributes, self.equalities = trial, Attributes(trial), Equalities(trial)

    def run(self) -> dict[str, Reason]:
        """Mend deviation after deviation until the cut model runs to its end, with every group cut at least once."""
        trial = self.trial
        shown: set[str] = set()
        for trial.round, _ in enumerate(SHARES):  # a second draw, since the first may meet an equality by chance
            if trial.round < 2 or len(shown | set(trial.stopped)) < len(trial.minimum):
                shown |= self._round()
        if trial.repairs or trial.solution.equal or (max(trial.minimum.values(), default=1) > 1 and self._composes()):
            for trial.round in range(len(SHARES), len(SHARES) + OPPOSED):
                self._round()
        trial.solution.repairs = list(trial.repairs.values())
        return trial.stopped

    def _composes(self) -> bool:
        """Whether code states a size that is a product."""
        return any(len(d) > 1 for d in self._stated())

    def _stated(self) -> Iterator[Dim]:
        """The sizes in arguments of calls; the groups of a convolution are known without trying."""
        sizes = (item for call in self.trial.calls for item in call.resize.items())
        return (norm(d) for name, dims in sizes if name not in ("groups", "group") for d in several(dims))

    def _round(self) -> set[str]:
        """One draw of widths, mended until it runs; returns the groups that it cut."""
        trial = self.trial
        while len(trial.stopped) < len(trial.minimum):
            trial.cut()
            deviation, drifts = trial.compare()
            if deviation is None:
                if not drifts:
                    break
                stop_drifting(trial, drifts)
            elif not (self._mend(deviation) or self._take_back(deviation)):
                stop(trial, deviation)
        return {n for n, found in trial.solution.atom_of.items() if trial.counts[found] < found.size}

    def _mend(self, deviation: Deviation) -> bool:
        """Sizes that are asked for; attributes alone, equal sizes alone, or both: code that checks itself wants all."""
        attributes, equalities = self.attributes, self.equalities
        return (
            equalities.mend_asked(deviation)
            or (equalities.are_computed(deviation) and equalities.mend(deviation))
            or attributes.mend(deviation)
            or equalities.mend(deviation)
            or equalities.mend(deviation, attributes.mend)
        )

    def _take_back(self, deviation: Deviation) -> bool:
        """Undo a repair of the modules at work if the run gets further without: a number may equal a size by chance."""
        trial = self.trial
        for kind in dict.fromkeys(trial.kind(*key) for key in trial.repairs if key[0] in deviation.stack):
            repairs, equal = dict(trial.repairs), list(trial.solution.equal)
            trial.refused.add(kind)
            trial.repairs = {key: r for key, r in repairs.items() if trial.kind(*key) != kind}
            reached = self._advance()
            if reached is None or reached.position > deviation.position:
                return True
            trial.refused.remove(kind)
            trial.repairs, trial.solution.equal = repairs, equal
        trial.cut()
        return False

    def _advance(self) -> Deviation | None:
        """Mend as long as that helps; the deviation that is left, if any."""
        while True:
            self.trial.cut()
            deviation, _ = self.trial.compare()
            if deviation is None or not self._mend(deviation):
                return deviation
