"""The recording of one run, and that it leaves the model as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from laws.networks import Auxiliary, Caching, Flatten, Tied, Transformer
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

import secateur
from secateur.errors import InputError
from secateur.graph.trace import named_tensors, normalise, record, tensors_of


def snapshot(model: nn.Module) -> dict[str, dict[str, Any]]:
    return {path: {**vars(m), "cache": dict(vars(m).get("cache", {}))} for path, m in model.named_modules()}


def assert_untouched(model: nn.Module, before: dict[str, dict[str, Any]]) -> None:
    for path, module in model.named_modules():
        now = {**vars(module), "cache": dict(vars(module).get("cache", {}))}
        assert now.keys() == before[path].keys()
        assert all(now[key] is value or now[key] == value for key, value in before[path].items())
        for value in (*vars(module).values(), *module._buffers.values(), *module._parameters.values()):
            parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
            assert not any(isinstance(part, FakeTensor) for part in parts)


def test_calls_carry_their_operator_and_module() -> None:
    recording = record(Transformer().eval(), normalise(torch.zeros(2, 5, 7)))
    where = {(call.op, call.module) for call in recording.calls}
    assert ("native_layer_norm", "blocks.0.norm") in where
    assert ("_softmax", "blocks.2") in where
    assert any(op in ("addmm", "linear") and module == "head" for op, module in where)
    assert recording.calls[-1].stack == ("", "head")
    assert [value.shape for value in recording.outputs] == [(2, 5)]


def test_caches_written_in_forward_are_taken_back() -> None:
    model, example = Caching().eval(), torch.randn(3, 6)
    before = snapshot(model)
    groups = secateur.groups(model, example)
    assert_untouched(model, before)
    slim = secateur.slim(groups, secateur.plan(groups, budget="70% macs", round_to=1))
    assert_untouched(model, before)
    assert model.seen == []
    assert slim.seen == []
    assert secateur.record(slim).proof.holds
    slim(example)


def test_a_stale_cache_of_the_model_does_not_break_the_cut() -> None:
    model, example = Caching().eval(), torch.randn(3, 6)
    with torch.no_grad():
        model(example)
    groups = secateur.groups(model, example)
    slim = secateur.slim(groups, secateur.plan(groups, budget="70% macs", round_to=1))
    assert slim(example).shape == (3, 4)
    assert len(model.seen) == 1


@pytest.mark.parametrize("training", [True, False])
def test_modes_and_state_survive(training: bool) -> None:
    model = Auxiliary().train(training)
    model.bn.eval()
    modes = [m.training for m in model.modules()]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    secateur.prune(model, torch.randn(2, 3, 8, 8), budget="70% macs", round_to=1)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


class Stubborn(nn.Sequential):
    """Parts that stay in training mode whatever is asked, as some code keeps its norms."""

    def train(self, mode: bool = True) -> Stubborn:
        return self


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_whatever_the_mode(training: bool) -> None:
    model = nn.Sequential(Stubborn(nn.Linear(6, 12), nn.Dropout(0.5)), nn.Linear(12, 4))
    calls = record(model, normalise(torch.randn(2, 6)), training=training).calls
    assert not any(torch.Tag.nondeterministic_seeded in call.func.tags for call in calls)
    assert model[0][1].training


def test_hooks_of_the_user_stay_and_none_are_left() -> None:
    model = Flatten().eval()
    seen: list[int] = []
    model.conv1.register_forward_hook(lambda *_: seen.append(1))
    secateur.groups(model, torch.zeros(1, 3, 8, 8))
    assert [len(m._forward_hooks) for m in model.modules()] == [1 if m is model.conv1 else 0 for m in model.modules()]
    assert seen == [1] * len(seen)


class Listening(nn.Module):
    """Hooks that its first run puts in hear what a layer says, as outputs are captured in Transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.side = nn.Linear(6, 12), nn.Linear(12, 4), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        if not getattr(self, "listens", False):
            self.a.register_forward_hook(lambda *call: HEARD.append(call[-1]))
            self.listens = True
        HEARD.clear()
        return self.b(self.a(x).relu()) + self.side(sum(HEARD))


HEARD: list[Tensor] = []


def test_a_hook_that_a_run_puts_in_is_there_once_in_a_slim_model() -> None:
    model, x = Listening().eval(), torch.randn(3, 6)
    groups = secateur.groups(model, x)
    assert not model.a._forward_hooks
    model(x)  # now the model holds its hook
    slim = secateur.slim(groups, secateur.plan(groups, budget="50% macs", round_to=1))
    slim(x)
    assert (len(model.a._forward_hooks), len(slim.a._forward_hooks)) == (1, 1)


def test_data_dependent_control_flow_runs_on_real_values() -> None:
    class Choosy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 12), nn.Linear(12, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            return self.b(x if float(x.sum()) > -1e9 else -x)

    groups = secateur.groups(Choosy().eval(), torch.randn(3, 6))
    assert [g.units for g in groups] == [12]


def test_examples_of_every_kind() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 12), nn.Linear(12, 4)

        def forward(self, x: Tensor, scale: float = 1.0, *, more: Tensor | None = None) -> dict[str, Any]:
            y = self.b(torch.relu(self.a(x)) * scale)
            return {"y": y if more is None else y + more, "parts": [y], "note": "text"}

    x, model = torch.randn(3, 6), Two().eval()
    for example in (x, (x,), [x, 2.0], {"x": x, "more": torch.randn(3, 4)}):
        groups = secateur.groups(model, example)
        assert [g.name for g in groups] == ["a"]
        slim = secateur.slim(groups, secateur.plan(groups, budget="50% macs", round_to=1))
        assert secateur.record(slim).proof.holds
    assert normalise({"x": x}) == ((), {"x": x})
    with pytest.raises(InputError, match=r"Got int instead"):
        normalise(3)


def test_tensors_have_one_name_however_often_they_are_held() -> None:
    tensors = named_tensors(Tied())
    assert "table.weight" in tensors
    assert "out.weight" not in tensors
    assert tensors["table.weight"][0] == "parameter"


def test_outputs_are_found_in_any_nesting() -> None:
    class Result:
        def __init__(self) -> None:
            self.logits, self.hidden = torch.zeros(1), (torch.zeros(2), [torch.zeros(3)])

    found = tensors_of({"a": Result(), "b": None, "c": torch.zeros(4)})
    assert sorted(t.numel() for t in found) == [1, 2, 3, 4]
