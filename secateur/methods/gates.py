"""Gates that open and close while their network trains: hard samples with the gradient of soft ones.

E. Jang, S. Gu & B. Poole, Categorical Reparameterization with Gumbel-Softmax (arXiv 1611.01144), for two categories.
The difference of two Gumbel variables is logistic, so one number a gate is enough. With logit d, temperature tau and
L = log u - log(1 - u), u uniform in (0, 1),

    forward     z = 1 if d + L > 0 else 0           P(z = 1) = sigmoid(d), whatever tau
    backward    dz/dd := s (1 - s) / tau,           s = sigmoid((d + L) / tau)

In the form with two logits d = theta_0 - theta_1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from secateur.errors import InputError
from secateur.graph.units import Group, Groups, Member

if TYPE_CHECKING:
    from secateur.training.state import State

Mode = Literal["whole", "sampled", "fixed"]


def logistic_noise(count: int, generator: torch.Generator) -> Tensor:
    """`count` logistic numbers L = log u - log(1 - u), float32 `[count]`, from a generator on the CPU.

    u has 16 bits, four of them out of one draw, since drawing is what costs: (k + 1/2) / 2^16. So chances are exact to
    2^-17, and |L| is at most 11.8.
    """
    words = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None, generator=generator)
    return words.view(torch.int16)[:count].float().mul_(2**-16).add_(0.5 + 2**-17).logit_()


def hard_sample(logits: Tensor, noise: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Gates of 0 and 1 from logits and logistic noise, and the soft sample, all of one shape."""
    lifted = logits + noise
    sample = torch.gt(lifted, 0, out=torch.empty_like(lifted))  # in the type of the logits, without a bool between
    return sample, lifted.div_(temperature).sigmoid_()


class StraightThrough(torch.autograd.Function):
    """A hard sample that passes gradients to its logits by the slope of the soft one.

    >>> StraightThrough.apply(logits, *hard_sample(logits.detach(), noise, 3.0), 3.0)
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, sample: Tensor, soft: Tensor, temperature: float) -> Tensor:  # noqa: ARG004
        """The sample as it is."""
        ctx.save_for_backward(soft)
        ctx.temperature = temperature
        return sample.view_as(sample)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        """The gradient of the soft sample, with the same noise: s (1 - s) / tau."""
        (soft,) = ctx.saved_tensors
        slope = torch.ops.aten.sigmoid_backward(gradients[0], soft)
        return slope.div_(ctx.temperature), None, None, None


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
        self._drawn: dict[str, tuple[Tensor, Tensor]] = {}
        self._shared: dict[str, Tensor] = {}
        self.noise = {name: torch.zeros(len(p), device=p.device) for name, p in self.logits.items()}
        for name, readers in places.items():
            path, _, attribute = name.rpartition(".")
            module = self.model.get_submodule(path)
            parametrize.register_parametrization(module, attribute, _Gated(self, readers))
        self.names = tuple(places)

    def remove(self) -> None:
        """Take the gates out of the model; the weights behind closed ones are what they were."""
        for name in self.names:
            path, _, attribute = name.rpartition(".")
            parametrize.remove_parametrizations(self.model.get_submodule(path), attribute, leave_parametrized=False)

    def draw(self, generator: torch.Generator) -> None:
        """Make the next sample, of the gates as they are now: noise anew, from a generator on the CPU."""
        self._drawn.clear()
        self._shared.clear()
        drawn = logistic_noise(sum(map(len, self.noise.values())), generator)
        parts = drawn.split([len(noise) for noise in self.noise.values()])
        self.noise = {n: part.to(noise.device) for (n, noise), part in zip(self.noise.items(), parts, strict=True)}

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
        """The present hard sample of a group, shape `[units]`; before a backward all who ask share one graph."""
        if name in self._shared and torch.is_grad_enabled():
            return self._shared[name]
        difference = self.difference(name)
        if name not in self._drawn:  # gates stand still from one draw to the next
            self._drawn[name] = hard_sample(difference.detach(), self.noise[name], self.temperature)
        sampled: Tensor = StraightThrough.apply(difference, *self._drawn[name], self.temperature)
        if sampled.requires_grad:
            self._shared[name] = sampled
            sampled.register_hook(partial(self._used_up, name))
        return sampled

    def _used_up(self, name: str, gradient: Tensor) -> None:  # noqa: ARG002 - a hook that leaves it as it is
        """A backward has gone through the sample: its graph is freed, so the next who asks gets one of their own."""
        self._shared.pop(name, None)

    def value(self, name: str, *, training: bool) -> Tensor:
        """What the units of a group are multiplied by, shape `[units]`."""
        if self.mode == "fixed":
            return self.fixed[name].to(self.logits[name].dtype)
        return self.sample(name) if training else (self.difference(name) > 0).to(self.logits[name].dtype)


class _Gated(nn.Module):
    """A weight as the gates of its units let it through."""

    def __init__(self, gates: Gates, readers: list[tuple[str, Member]]) -> None:
        super().__init__()
        self._gates, self._readers = gates, readers

    def forward(self, weight: Tensor) -> Tensor:
        if self._gates.mode == "whole":
            return weight
        for name, member in self._readers:
            weight = weight * member.expand(self._gates.value(name, training=self.training).to(weight.dtype))
        return weight


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
