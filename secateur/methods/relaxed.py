"""What methods have in common that train a function in the place of each weight: a threshold, a soft mask, a product.

While units are not decided, a weight w of `groups` is used as f(w, theta), with theta learned beside it by the
optimizer of the weights. When it is time, every weight gets the score of its paper, the budget keeps the best of those
that are open (score above 0), f(w, theta) becomes the weight, and masks hold the rest at zero, as after any method.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from secateur.criteria import Scores
from secateur.errors import InputError
from secateur.graph.units import Kind
from secateur.methods.gates import require_own, take_leave
from secateur.methods.pruner import Pruner
from secateur.planning import Budget
from secateur.training.streams import derive

if TYPE_CHECKING:
    from secateur.training.state import State


@dataclass(eq=False)
class Beside:
    """What is learned beside one weight: `learned` by name, all of the weight's shape or broadcasting over it.

    `noise` is the step's logistic noise, of the weight's shape, where the method draws; `progress` in [0, 1] tells how
    much of the time is over; `folded` that the weight has become what was computed from it.
    """

    learned: dict[str, nn.Parameter]
    noise: Tensor
    progress: float = 0.0
    folded: bool = False

    def __getitem__(self, name: str) -> nn.Parameter:
        return self.learned[name]


@dataclass(eq=False, kw_only=True)
class Relaxed(Pruner):
    """A method that learns something beside single weights; the other fields are those of `Pruner`.

    start   0: weights are replaced from the first step on
    stop    0.75: the budget is met; the rest fine-tunes
    lr      learning rate of what is learned beside the weights; left out: that of the weights
    """

    start: float = 0.0
    stop: float = 0.75
    lr: float | None = None

    takes: ClassVar[tuple[Kind, ...]] = ("elements",)
    draws: ClassVar[bool] = False  # whether the method needs noise
    decayed: ClassVar[bool] = False  # whether the optimizer's weight decay is meant for what is learned beside, too

    def check(self) -> None:
        """See that the fields are in range."""
        super().check()
        self._require("rounds", "1: weights are decided once", self.rounds == 1)
        self._require("lr", "a float above 0 or None", self.lr is None or self.lr > 0)

    @abstractmethod
    def beside(self, name: str, weight: Tensor) -> dict[str, Tensor]:
        """What is learned beside a weight, as it is at first."""

    @abstractmethod
    def effective(self, weight: Tensor, beside: Beside, *, training: bool) -> Tensor:
        """What the network uses in the weight's place."""

    @abstractmethod
    def score(self, weight: Tensor, beside: Beside) -> Tensor:
        """One number an entry, above 0 where it is open; the budget keeps the largest."""

    def settle(self, progress: float) -> None:
        """What is learned, brought back into its range after a step; most methods need nothing."""

    def times(self) -> list[int]:
        """No rounds: weights are decided where the budget is solved for good."""
        return []

    def prepare(self, state: State) -> list[dict[str, Any]]:
        """Put what is learned beside the weights, and the function of both in the weights' place."""
        if self.groups.kind not in self.takes:
            kind = type(self).__name__
            raise InputError(f"The 'groups' of {kind} must be single weights, as secateur.elements finds them.")
        names = [group.name for group in self.groups]
        require_own(self.groups, names)
        self._seed, self._drawn = state.seed, -1
        self.besides: dict[str, Beside] = {}
        for name in names:
            weight = self.groups.tensor(name)
            learned = {key: nn.Parameter(value) for key, value in self.beside(name, weight.detach()).items()}
            self.besides[name] = Beside(learned, torch.zeros_like(weight, requires_grad=False))
            path, _, attribute = name.rpartition(".")
            replacing = _InPlaceOf(self, self.besides[name])
            parametrize.register_parametrization(self.groups.model.get_submodule(path), attribute, replacing)
        own: dict[str, Any] = {"params": self._parameters()}
        if not self.decayed:
            own["weight_decay"] = 0.0
        return [own if self.lr is None else {**own, "lr": self.lr}]

    def setup(self, state: State) -> Iterable[dict[str, Any]] | None:
        """See that the pruning fits, and put what is learned beside the weights."""
        added = super().setup(state)
        self._ready(0)
        return added

    def moved(self, state: State) -> None:
        """Bring what moved into its range, and draw the next step's noise."""
        if state.step <= self.solve_at:
            with torch.no_grad():
                self.settle(state.step / self.solve_at)
            self._ready(state.step)

    @torch.no_grad()
    def scores(self, state: State) -> Mapping[str, Tensor]:  # noqa: ARG002 - all of it is here
        """The method's score of every weight."""
        found = {n: self.score(self.groups.tensor(n), b).flatten().float().cpu() for n, b in self.besides.items()}
        return Scores(found, type(self).__name__)

    def last_budget(self, state: State) -> Budget:  # noqa: ARG002
        """The budget, or what the open weights spend where that is less."""
        return self.at_most({name: int((self._scores[name] > 0)[live].sum()) for name, live in self.live().items()})

    @torch.no_grad()
    def after_step(self, state: State) -> None:
        """Draw for the next step; when it is time, decide, and let weights be what was computed from them."""
        super().after_step(state)
        if state.step == self.solve_at:
            for name, beside in self.besides.items():
                weight = self.groups.tensor(name)
                weight.copy_(self.effective(weight, beside, training=False))
                beside.folded = True
            self.masks.apply()

    def finish(self, state: State) -> None:
        """Take out what stands in the weights' place, then go on as every method."""
        for name in self.besides:
            path, _, attribute = name.rpartition(".")
            module = self.groups.model.get_submodule(path)
            parametrize.remove_parametrizations(module, attribute, leave_parametrized=False)
        take_leave(state, self._parameters(), self.besides)
        super().finish(state)

    def state_dict(self) -> dict[str, Any]:
        """Where the pruning stands, with what is learned beside the weights."""
        learned = {n: {k: p.detach().clone() for k, p in b.learned.items()} for n, b in self.besides.items()}
        folded = any(b.folded for b in self.besides.values())
        return {**super().state_dict(), "learned": learned, "folded": folded, "drawn": self._drawn}

    @torch.no_grad()
    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        super().load_state_dict(saved)
        for name, beside in self.besides.items():
            for key, parameter in beside.learned.items():
                parameter.copy_(saved["learned"][name][key])
            beside.folded = saved["folded"]
        self._ready(saved["drawn"])

    def _ready(self, step: int) -> None:
        """Set progress and noise for the step that follows `step`: functions of the seed and the step alone."""
        self._drawn = step
        generator = torch.Generator().manual_seed(derive(self._seed, type(self).__name__, step))
        for beside in self.besides.values():
            beside.progress = min(1.0, step / self.solve_at)
            if self.draws:
                beside.noise = torch.rand(beside.noise.shape, generator=generator).logit().to(beside.noise)

    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for beside in self.besides.values() for parameter in beside.learned.values()]


class _InPlaceOf(nn.Module):
    """What a method computes in the place of a weight."""

    def __init__(self, method: Relaxed, beside: Beside) -> None:
        super().__init__()
        self._method, self._beside = method, beside

    def forward(self, weight: Tensor) -> Tensor:
        if self._beside.folded:
            return weight
        return self._method.effective(weight, self._beside, training=self.training)
