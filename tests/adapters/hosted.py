"""What the tests of all hosts share: small methods that look, push, hold and cut."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import secateur
from secateur.training import MOMENTS


class Recorder:
    """Notes every moment with the step, epoch and position it saw."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, int, int]] = []

    def __getattr__(self, name: str) -> Any:
        if name not in MOMENTS:
            raise AttributeError(name)
        return lambda state: self.seen.append((name, state.step, state.epoch, state.position))

    def names(self) -> list[str]:
        return [name for name, *_ in self.seen]


class Ridge:
    """Half the sum of squared weights, and the mean square of the last outputs if asked."""

    def __init__(self, outputs: bool = False) -> None:
        self.outputs = outputs

    def penalty(self, state) -> Tensor:
        total = sum(parameter.square().sum() for parameter in state.model.parameters())
        return 0.015 * total + (0.1 * logits(state.outputs).square().mean() if self.outputs else 0)


class Gradients:
    """The gradients that the optimizer is about to see, step by step, and the objective."""

    def __init__(self) -> None:
        self.steps: list[list[Tensor]] = []
        self.losses: list[float] = []

    def before_step(self, state) -> None:
        self.steps.append([parameter.grad.clone() for parameter in state.model.parameters()])
        self.losses.append(float("nan") if state.loss is None else float(state.loss))


class Look:
    """Calls the closure where methods may, and keeps what it gave beside what the step had."""

    def __init__(self) -> None:
        self.pairs: list[tuple[float, float]] = []
        self.equal: list[bool] = []

    def before_step(self, state) -> None:
        before = [parameter.grad.clone() for parameter in state.model.parameters()]
        buffers = [buffer.clone() for buffer in state.model.buffers()]
        stream, own = torch.get_rng_state(), state.generator.get_state()
        loss = state.closure()
        self.pairs.append((float(loss), float(state.loss)))
        self.equal.append(
            all(torch.allclose(p.grad, g, atol=1e-7) for p, g in zip(state.model.parameters(), before, strict=True))
            and all(torch.equal(now, then) for now, then in zip(state.model.buffers(), buffers, strict=True))
            and torch.equal(torch.get_rng_state(), stream)
            and torch.equal(state.generator.get_state(), own)
        )


class Hold:
    """Masks a quarter of the units of some groups and holds them."""

    def __init__(self, example: Any, *names: str) -> None:
        self.example, self.names = example, names
        self.checked = 0

    def setup(self, state) -> None:
        groups = secateur.groups(state.model, self.example)
        self.masks = secateur.Masks(groups)
        chosen = [group for group in groups if not self.names or any(name in group.name for name in self.names)]
        self.masks.remove({group.name: torch.arange(max(1, group.units // 4)) for group in chosen})
        assert self.masks.tensor_masks()

    def before_step(self, state) -> None:
        self.masks.before_step()

    def after_step(self, state) -> None:
        self.masks.after_step(state.optimizer)
        for name, mask in self.masks.tensor_masks().items():
            tensor = self.masks.groups.tensor(name)
            if isinstance(tensor, nn.Parameter):
                assert not tensor.masked_select(~mask).any(), name
                self.checked += 1


class CutAt:
    """Cuts the model to half its MACs after a step, the optimizer's state along with it."""

    def __init__(self, example: Any, step: int) -> None:
        self.example, self.step = example, step
        self.plan: secateur.Plan | None = None
        self.before: dict[str, Tensor] = {}

    def setup(self, state) -> None:
        self.state = state

    def after_step(self, state) -> None:
        if state.step == self.step:
            groups = secateur.groups(state.model, self.example)
            self.plan = secateur.plan(groups, budget="50% macs", round_to=1)
            key = "momentum_buffer" if isinstance(state.optimizer, torch.optim.SGD) else "exp_avg"
            self.before = {n: state.optimizer.state[p][key].clone() for n, p in state.model.named_parameters()}
            self.old = state.model
            self.cut(groups, state)

    def cut(self, groups, state) -> None:
        optimizer = state.optimizer if state.step else None
        small = secateur.slim(groups, self.plan, optimizer=optimizer)
        state.replace(small, optimizer=optimizer)
        if optimizer is not None:
            self.check(state, small)

    def check(self, state, small) -> None:
        kept = secateur.record(small).kept
        key = "momentum_buffer" if isinstance(state.optimizer, torch.optim.SGD) else "exp_avg"
        for name, parameter in small.named_parameters():
            expected = self.before[name]
            for dim, line in kept.get(name, {}).items():
                expected = expected.index_select(dim, line)
            assert torch.equal(state.optimizer.state[parameter][key], expected), name

    def state_dict(self) -> dict[str, Any]:
        return {} if self.plan is None else {"keep": dict(self.plan.keep)}

    def load_state_dict(self, saved) -> None:
        if saved:
            groups = secateur.groups(self.state.model, self.example)
            self.plan = secateur.plan(groups, budget="50% macs", round_to=1)
            self.plan.keep.clear()
            self.plan.keep.update(saved["keep"])
            self.cut(groups, self.state)


class Own:
    """Brings a parameter that is in no module, and pulls it to a target by its penalty."""

    def setup(self, state) -> list[dict[str, Any]]:
        self.gate = nn.Parameter(torch.zeros(3, device=state.device))
        return [{"params": [self.gate], "lr": 0.5}]

    def penalty(self, state) -> Tensor:
        return (self.gate - 1).square().sum()


def logits(outputs: Any) -> Tensor:
    return outputs if isinstance(outputs, Tensor) else outputs["logits"]


def moved_by(optimizer) -> set[int]:
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}


def same_tensors(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
