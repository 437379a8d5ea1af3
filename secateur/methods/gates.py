"""Gates that open and close while their network trains, as parametrisations of its weights.

How a gate is sampled is said in `secateur.methods.sampling`. In the form with two logits d = theta_0 - theta_1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from secateur.errors import InputError
from secateur.graph.units import Blocks, Group, Groups, Member
from secateur.hashing import Draw
from secateur.methods.sampling import Drawn, Gated, Marks, StraightThrough, draw_all, native_fits

if TYPE_CHECKING:
    from secateur.training.state import State

Mode = Literal["whole", "sampled", "fixed"]


class Gates:
    """Gates on the units of those `groups` that are exact, as parametrisations of the model's weights.

    A unit is gated where it is read: in its consumers, or in its producers where nothing in its group reads it, as
    single weights. So a closed gate leaves no trace in batch statistics and its gradient is that of the activation.

        "whole"      every gate is open
        "sampled"    in training mode a hard sample, the same until `draw` is called again; else what is most likely
        "fixed"      what `fix` said

    `keep` is the probability with which gates are open at first; `logits` how many numbers a gate has, 1 or 2. The
    parameters are not the model's: they are in `logits`, by the names of the groups. Raises `InputError` for weights
    that are not trained or used under several names.
    """

    def __init__(self, groups: Groups, *, keep: float = 0.9, logits: int = 1) -> None:
        self.groups = [group for group in groups if group.proof == "exact"]
        self.model = groups.model
        self.mode: Mode = "whole"
        self.temperature = 1.0
        self.fixed: dict[str, Tensor] = {}
        places = _places(self.groups, groups)
        first = torch.tensor(keep, dtype=torch.float64).logit().float()
        self.logits: dict[str, nn.Parameter] = {}
        for group in self.groups:
            device = groups.tensor(group.members[0].name).device
            start = (
                first.expand(group.units)
                if logits == 1
                else torch.stack([first / 2, -first / 2]).expand(group.units, 2)
            )
            self.logits[group.name] = nn.Parameter(start.clone().to(device))
        self._draw = Draw(0, 0, 1.0)
        self._drawn: dict[str, Drawn] = {}
        self._shared: dict[str, tuple[Tensor, Tensor]] = {}
        self._marks: Marks | None = None
        self._passed: _Passed | None = None
        for name, readers in places.items():
            path, _, attribute = name.rpartition(".")
            module = self.model.get_submodule(path)
            parametrize.register_parametrization(module, attribute, _Gate(self, readers))
        self.names = tuple(places)
        self._homes: dict[str, Any] = {n: self.model.get_submodule(gated(n).rpartition(".")[0]) for n in places}
        own = all(_own(readers) == name for name, readers in places.items()) and list(places) == list(self.logits)
        self.kernels = native_fits([p.detach() for p in self.logits.values()])
        self._native = own and self.kernels

    def remove(self) -> None:
        """Take the gates out of the model; the weights behind closed ones are what they were."""
        for name in self.names:
            path, _, attribute = name.rpartition(".")
            parametrize.remove_parametrizations(self.model.get_submodule(path), attribute, leave_parametrized=False)

    def draw(self, seed: int, step: int) -> None:
        """Make the next sample, of the gates as they are when it is first asked for: a function of seed and step."""
        self._draw = Draw(seed, step, 1.0)
        self._forget()

    def _forget(self) -> None:
        self._drawn, self._shared, self._marks, self._passed = {}, {}, None, None

    def __getstate__(self) -> dict[str, Any]:
        """All but the graphs of this step, which cannot be copied."""
        return {**vars(self), "_shared": {}, "_passed": None}

    def fix(self, opened: Mapping[str, Tensor]) -> None:
        """Let the gates be as they are told from now on: group name -> bool of shape `[units]`."""
        self.mode = "fixed"
        self.fixed = {name: opened[name].to(p.device) for name, p in self.logits.items()}

    def difference(self, name: str) -> Tensor:
        """The d of every gate of a group, shape `[units]`, with its graph."""
        parameter = self.logits[name]
        return parameter if parameter.dim() == 1 else parameter[:, 0] - parameter[:, 1]

    def differences(self) -> Iterator[tuple[str, Tensor]]:
        """The names of the groups, each with the d of its gates, without a graph."""
        for name in self.logits:
            yield name, self.difference(name).detach()

    @torch.no_grad()
    def set(self, name: str, difference: Tensor) -> None:
        """Give a group's gates another d; of two logits each moves by half."""
        parameter, before = self.logits[name], self.difference(name)
        if parameter.dim() == 1:
            parameter.copy_(difference)
        else:
            half = (difference - before) / 2
            parameter.add_(torch.stack([half, -half], dim=1))

    def sample(self, name: str) -> Tensor:
        """The present hard sample of a group, shape `[units]`, with its graph: one for all who ask."""
        return self._sampled(name)[0]

    def counts(self) -> Tensor:
        """How many gates of each group are open in the present sample, shape `[groups]`, with their graph."""
        if self._passed is not None and self._passed.counts.requires_grad == torch.is_grad_enabled():
            return self._passed.counts
        return torch.stack([self._sampled(name)[1] for name in self.logits])

    def through(self, weight: Tensor, name: str) -> Tensor:
        """A weight as the present sample of a group lets it through, whose gates are those of its entries, in order."""
        if self._native and (self._marks is not None or not self._drawn):
            if self._passed is None or self._passed.stale(name):
                self._passed = self._pass()
            if self._passed is not None and self._passed.weights[name] is weight:
                return self._passed.gated[name]
        return weight * self.sample(name).view_as(weight).to(weight.dtype)

    def _pass(self) -> _Passed | None:
        """All weights as the present sample lets them through; none from now on where kernels do not take them."""
        weights = {name: home.original for name, home in self._homes.items()}
        self._native = all(w.dtype == torch.float32 and w.is_contiguous() for w in weights.values())
        if not self._native:
            return None
        if self._marks is None:
            self._marks = Marks(self._draw, self.temperature)
        differences = [self.difference(name) for name in weights]
        *found, counts = Gated.apply(self._marks, *weights.values(), *differences)
        return _Passed(weights, dict(zip(weights, found, strict=True)), counts)

    def _present(self, name: str) -> Drawn:
        """The sample without a graph; gates stand still from one draw to the next."""
        if not self._drawn:
            differences = [d for _, d in self.differences()]
            if self._marks is not None:
                found = self._marks.drawn(differences)
            else:
                found = draw_all(differences, self._draw, self.temperature)
            self._drawn = dict(zip(self.logits, found, strict=True))
        return self._drawn[name]

    def _sampled(self, name: str) -> tuple[Tensor, Tensor]:
        if name in self._shared and torch.is_grad_enabled():
            return self._shared[name]
        sampled: tuple[Tensor, Tensor] = StraightThrough.apply(self.difference(name), *self._present(name))
        if sampled[0].requires_grad:
            self._shared[name] = sampled
        return sampled

    def value(self, name: str, *, training: bool) -> Tensor:
        """What the units of a group are multiplied by, shape `[units]`."""
        if self.mode == "fixed":
            return self.fixed[name].to(self.logits[name].dtype)
        return self.sample(name) if training else (self.difference(name) > 0).to(self.logits[name].dtype)


class _Passed:
    """`weights` as a sample let them through, both by name, and how many gates of each are open."""

    def __init__(self, weights: dict[str, Tensor], found: dict[str, Tensor], counts: Tensor) -> None:
        self.weights, self.gated, self.counts = weights, found, counts
        self._versions = {name: weight._version for name, weight in weights.items()}

    def stale(self, name: str) -> bool:
        """Whether a weight has moved since, or the graph is not the one that is due."""
        moved = self.weights[name]._version != self._versions[name]
        return moved or self.counts.requires_grad != torch.is_grad_enabled()


class _Gate(nn.Module):
    """A weight as the gates of its units let it through."""

    def __init__(self, gates: Gates, readers: list[tuple[str, Member]]) -> None:
        super().__init__()
        self._gates, self._readers, self._own = gates, readers, _own(readers)

    def forward(self, weight: Tensor) -> Tensor:
        if self._gates.mode == "whole":
            return weight
        if self._own is not None and self._gates.mode == "sampled" and self.training:
            return self._gates.through(weight, self._own)
        for name, member in self._readers:
            weight = weight * member.expand(self._gates.value(name, training=self.training).to(weight.dtype))
        return weight


def _own(readers: list[tuple[str, Member]]) -> str | None:
    """The group of which every gate is that of one entry of a weight, in order, if there is one."""
    (name, member), single = readers[0], len(readers) == 1
    return name if single and isinstance(member, Blocks) and member.block == (1, 1) else None


def _places(gated: list[Group], groups: Groups) -> dict[str, list[tuple[str, Member]]]:
    """The name of every tensor that gates act on -> the groups whose units it holds, each with its member."""
    places: dict[str, list[tuple[str, Member]]] = {}
    for group in gated:
        for member in group.consumers or group.producers:
            if not member.buffer:
                places.setdefault(member.name, []).append((group.name, member))
    require_own(groups, places)
    return places


def require_own(groups: Groups, names: Iterable[str]) -> None:
    """Raise `InputError` for the first of the named weights that is not trained or is used under several names."""
    known: dict[int, list[str]] = {}
    for name, parameter in groups.model.named_parameters(remove_duplicate=False):
        known.setdefault(id(parameter), []).append(name)
    for name in names:
        tensor = groups.tensor(name)
        others = [other for other in known.get(id(tensor), []) if other != name]
        if others:
            raise InputError(
                f"A gate acts on one use of a weight. '{name}' is also '{others[0]}'; exclude it from the groups."
            )
        if not tensor.requires_grad:
            raise InputError(
                f"Gates are learned together with their weights. '{name}' is not trained (requires_grad is False); "
                "exclude it from the groups."
            )


def gated(name: str) -> str:
    """The name of a tensor while gates are on it."""
    path, _, attribute = name.rpartition(".")
    return f"{path}.parametrizations.{attribute}.original".lstrip(".")


def take_leave(state: State, parameters: Iterable[nn.Parameter], names: Iterable[str]) -> None:
    """Take parameters out of the training's optimizer, and let its average follow the weights to their own `names`."""
    own = {id(p) for p in parameters}
    groups = state.optimizer.param_groups
    groups[:] = [group for group in groups if not any(id(p) in own for p in group["params"])]
    if state.average is not None:
        state.average.follow(state.model, {name: gated(name) for name in names})
