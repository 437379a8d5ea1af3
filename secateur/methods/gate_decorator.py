"""Gate Decorator: every channel of a batch norm gets a gate, and gates whose closing would cost least are closed.

Z. You, K. Yan, J. Ye, M. Ma & P. Wang, Gate Decorator: Global Filter Pruning Method for Accelerating Deep Convolutional
Neural Networks (arXiv 1909.08174). With z the normalised input of a batch norm, gamma and beta its weight and bias,

    gated batch norm   out = phi (z + beta'),   phi := gamma,  beta' := beta / gamma, at first
    importance         Theta_i = sum over the steps of a Tick of |dL/dphi_i phi_i|              (equations 4 and 5)
    Tick               gates, biases and everything behind the last convolution train, convolutions rest; then the share
                       of channels with the least Theta leaves
    Tock               everything trains, with the penalty lambda sum |phi|; a Tock before the first Tick and after
                       every `ticks` of them

Channels that an addition ties share one decision: their Thetas are summed over the gates of their group. The groups
come from the graph. A removal policy fades the gates alone. In the end the gates melt back, exactly: weight := phi,
bias := phi beta'.

Differences from the public code (youzhonghui/gate-decorator-pruning): ties are found and not written down for each
architecture; channels without a gate stay; the budget decides when it is enough; Ticks and Tocks share the training
between `start` and `stop`; the learning rate is the loop's in Tocks, multiplied by `tick_lr` in Ticks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from secateur.criteria import Scores
from secateur.errors import InputError
from secateur.graph.units import Group, Groups, Slices
from secateur.methods.pruner import Pruner
from secateur.removal import Departure, Entries, Removal

if TYPE_CHECKING:
    from secateur.training.state import State

LIMIT = 10.0
"""The largest |beta'|, as in the paper's code: a channel whose gamma is nearly 0 has little to keep."""


class Gates:
    """Gates on the batch norms of `groups`: parameters named `gate` of the norms themselves, until `melt`.

    Raises `InputError` for a model in which no group passes a batch norm with weight and bias.
    """

    def __init__(self, groups: Groups) -> None:
        norms = dict.fromkeys(name for group in groups for name in _norms(group, groups.model))
        if not norms:
            raise InputError(
                "Gate Decorator needs batch norms with weight and bias in the groups to be pruned. There is none; take "
                "HESSO or Iterative."
            )
        self.norms: dict[str, _BatchNorm] = {name: _norm(groups.model, name) for name in norms}
        self.groups = replace(groups, items=tuple(_gated(g, groups.model) for g in groups if _norms(g, groups.model)))
        self._handles: list[RemovableHandle] = []
        for norm in self.norms.values():
            with torch.no_grad():
                gate = norm.weight.detach().clone()
                apart = torch.where(gate == 0, torch.full_like(gate, torch.finfo(gate.dtype).tiny), gate)
                norm.bias.copy_((norm.bias / apart).clamp(-LIMIT, LIMIT))
                norm.weight.fill_(1)
            norm.weight.requires_grad = False
            norm.register_parameter("gate", nn.Parameter(gate))
            self._handles.append(norm.register_forward_hook(_through_gate))

    def melt(self) -> None:
        """Give the gates back to the norms they came from; the model computes what it did with them."""
        for handle in self._handles:
            handle.remove()
        for norm in self.norms.values():
            with torch.no_grad():
                norm.weight.mul_(_gate(norm))
                norm.bias.mul_(_gate(norm))
            norm.weight.requires_grad = True
            del norm.gate


@dataclass(eq=False)
class OnGates:
    """A removal policy that sees the gates of units alone: what fades is a gate, what leaves is the unit."""

    inner: Removal
    gates: Groups

    @property
    def steps(self) -> int:
        """How many steps a gate takes."""
        return self.inner.steps

    def start(self, groups: Groups, leaving: Mapping[str, Tensor], *, certain: bool = False) -> None:  # noqa: ARG002
        """Let gates close."""
        self.inner.start(self.gates, leaving, certain=certain)

    def before_step(self, groups: Groups) -> None:  # noqa: ARG002
        """Look at the gates."""
        self.inner.before_step(self.gates)

    def after_step(self, groups: Groups, optimizer: Optimizer | None = None) -> dict[str, Departure]:  # noqa: ARG002
        """Move the gates."""
        return self.inner.after_step(self.gates, optimizer)

    def leaving(self) -> dict[str, Tensor]:
        """The units whose gates are closing."""
        return self.inner.leaving()

    def resting(self) -> dict[str, Tensor]:
        """The units whose gates were released."""
        return self.inner.resting()

    def round_over(self) -> None:
        """A round less to rest."""
        self.inner.round_over()

    def state_dict(self) -> dict[str, Any]:
        """That of the policy."""
        return self.inner.state_dict()

    def load_state_dict(self, groups: Groups, state: Mapping[str, Any]) -> None:  # noqa: ARG002
        """That of the policy."""
        self.inner.load_state_dict(self.gates, state)


@dataclass(eq=False, kw_only=True)
class GateDecorator(Pruner):
    """Tick-Tock pruning by gates; the other fields are those of `Pruner`.

    rounds     Ticks, one choice each: 20 of more channels each, where the paper's runs take 0.2 to 0.5 % in hundreds
    ticks      Ticks between two Tocks, 10
    tock       length of a Tock in Ticks, 10: its 10 epochs beside Ticks of one
    strength   lambda, 1e-3
    tick_lr    learning rate of Ticks over that of Tocks, the paper's 1e-3 over 1e-2

    While it trains the norms have gates; `finish` melts them back. Weight decay acts on gates too, as in the paper's
    code.

    >>> fit(model, data, epochs=60, methods=[GateDecorator(groups=groups, budget="30% macs", removal=Decay(100))])
    """

    start: float = 0.0
    stop: float = 0.75
    rounds: int = 20
    ticks: int = 10
    tock: float = 10.0
    strength: float = 1e-3
    tick_lr: float = 0.1

    def check(self) -> None:
        """See that the fields are in range."""
        super().check()
        self._require("ticks", "an integer of at least 1", isinstance(self.ticks, int) and self.ticks >= 1)
        for name in ("tock", "strength", "tick_lr"):
            self._require(name, "a float of at least 0", getattr(self, name) >= 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._theta: Tensor | None = None
        self._rates: list[float] = []

    def prepare(self, state: State) -> None:
        """Put gates on the norms; from now on the policy moves these."""
        self.gates = Gates(self.groups)
        self.policy = OnGates(self.policy, self.gates.groups)
        self._entries = Entries(self.gates.groups, {g.name: torch.arange(g.units) for g in self.gates.groups})
        self._resting = [
            p
            for module in state.model.modules()
            if isinstance(module, _ConvNd)
            for p in module.parameters(recurse=False)
        ]

    def times(self) -> list[int]:
        """The steps at which Ticks end."""
        tocks = -(-self.rounds // self.ticks)
        unit = (self.solve_at - self.first) / (self.rounds + self.tock * tocks)
        found = [self.first + unit * (k + 1 + self.tock * (k // self.ticks + 1)) for k in range(self.rounds)]
        self._unit = unit
        return [round(time) for time in found]

    def in_tick(self, step: int) -> bool:
        """Whether step number `step`, counted from 1, belongs to a Tick."""
        return any(end - max(1, self._unit) < step <= end for end in self.round_at)

    def penalty(self, state: State) -> Tensor | None:
        """`lambda sum |phi|` in Tocks."""
        if self.strength == 0 or state.step >= self.last or self.in_tick(state.step + 1):
            return None
        return self.strength * torch.stack([_gate(norm).abs().sum() for norm in self.gates.norms.values()]).sum()

    def look(self, state: State) -> None:
        """In a Tick: take in Theta, let the convolutions rest, and go on more slowly."""
        if not self.in_tick(state.step + 1):
            return
        theta = self._entries.sums((self._entries.weights() * self._entries.gradients()).abs())
        self._theta = theta if self._theta is None else self._theta + theta
        for parameter in self._resting:
            parameter.grad = None
        self._rates = [group["lr"] for group in state.optimizer.param_groups]
        for group in state.optimizer.param_groups:
            group["lr"] *= self.tick_lr

    def moved(self, state: State) -> None:
        """Put the learning rates back."""
        for group, rate in zip(state.optimizer.param_groups, self._rates, strict=False):
            group["lr"] = rate
        self._rates = []

    def scores(self, state: State) -> Mapping[str, Tensor]:  # noqa: ARG002 - taken in during the Tick
        """Theta of the Tick that ends; groups without gates stay."""
        theta, self._theta = self._theta, None
        assert theta is not None
        parts = dict(zip((g.name for g in self.gates.groups), theta.split(self._entries.sizes), strict=True))
        whole = {g.name: torch.full((g.units,), torch.inf) for g in self.groups}
        return Scores({**whole, **parts}, "gate decorator")

    def finish(self, state: State) -> None:
        """Melt the gates back, then go on with the slim model."""
        if state.average is not None:
            _melt_average(state.average.tensors, self.gates.norms)
        swapped = {_gate(norm): norm.weight for norm in self.gates.norms.values()}
        self.gates.melt()
        for group in state.optimizer.param_groups:
            group["params"] = [swapped.get(parameter, parameter) for parameter in group["params"]]
        for gate, weight in swapped.items():
            state.optimizer.state[weight] = state.optimizer.state.pop(gate, {})
        super().finish(state)

    def state_dict(self) -> dict[str, Any]:
        """Where the pruning stands, with the Theta taken in."""
        return {**super().state_dict(), "theta": self._theta}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        super().load_state_dict(saved)
        self._theta = saved["theta"]


def _norms(group: Group, model: nn.Module) -> dict[str, Slices]:
    """The batch norms with weight and bias that scale a group, with the member of their weight."""
    found = {}
    for member in group.producers:
        path, _, attribute = member.name.rpartition(".")
        norm = model.get_submodule(path)
        if attribute == "weight" and isinstance(norm, _BatchNorm) and norm.affine and isinstance(member, Slices):
            found[path] = member
    return found


def _gated(group: Group, model: nn.Module) -> Group:
    """The group of gates alone."""
    members = tuple(replace(member, name=f"{path}.gate") for path, member in _norms(group, model).items())
    return replace(group, members=members)


def _norm(model: nn.Module, name: str) -> _BatchNorm:
    norm = model.get_submodule(name)
    assert isinstance(norm, _BatchNorm)
    return norm


def _gate(norm: nn.Module) -> Tensor:
    gate = norm.gate
    assert isinstance(gate, Tensor)
    return gate


def _through_gate(norm: nn.Module, _inputs: Any, outputs: Tensor) -> Tensor:
    return outputs * _gate(norm).view(-1, *[1] * (outputs.dim() - 2))


def _melt_average(tensors: dict[str, Tensor], norms: Mapping[str, nn.Module]) -> None:
    """Let a moving average follow its model out of the gates."""
    for name in norms:
        gate = tensors.pop(f"{name}.gate")
        tensors[f"{name}.weight"].mul_(gate)
        tensors[f"{name}.bias"].mul_(gate)
