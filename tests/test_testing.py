"""The probe of rules: every rule of ours passes it, and rules that claim too much do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from graph.test_rules import CHANNELS, FREE, FROZEN, PLACED, WEIGHTS
from laws.networks import network
from torch import Tensor, nn

from secateur.graph.rules import RULES, base, rule
from secateur.testing import RuleError, check_model, check_rule

X = torch.randn(2, CHANNELS, 4, 4)


@pytest.mark.parametrize("name", FREE)
def test_operators_between_layers(name: str) -> None:
    operator, _ = FREE[name]
    claim = check_rule(operator, X)
    assert claim.free["0[1]"] == CHANNELS
    assert claim.trials > 0 or claim.statistics


@pytest.mark.parametrize("name", PLACED)
def test_operators_with_a_place(name: str) -> None:
    assert check_rule(PLACED[name][0], X, 6).free["0[1]"] == CHANNELS


@pytest.mark.parametrize("name", [name for name in FROZEN if FROZEN[name][1] != "no rule"])
def test_what_is_frozen_is_told(name: str) -> None:
    operator, reason = FROZEN[name]
    claim = check_rule(operator, X)
    assert any(word in claim.frozen["0[1]"] for word in reason.split("|"))


@pytest.mark.parametrize("name", WEIGHTS)
def test_layers_with_weights(name: str) -> None:
    build, shape, _ = WEIGHTS[name]
    layer = build().eval()
    tensors = {key: t for key, t in [*layer.named_parameters(), *layer.named_buffers()] if t.dim()}

    def call(x: Tensor, **own: Tensor) -> Any:
        return torch.func.functional_call(layer, own, (x,))

    assert check_rule(call, torch.randn(2, *shape), **tensors).free


OPERATORS: dict[str, tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = {
    "matrix product": (torch.matmul, (torch.randn(3, 6, 5), torch.randn(3, 5, 7)), {}),
    "matrix and vector": (torch.mv, (torch.randn(6, 5), torch.randn(5)), {}),
    "added product": (torch.baddbmm, (torch.randn(3, 6, 7), torch.randn(3, 6, 5), torch.randn(3, 5, 7)), {}),
    "bilinear form": (F.bilinear, (torch.randn(3, 6), torch.randn(3, 5), torch.randn(4, 6, 5), torch.randn(4)), {}),
    "outer sum": (torch.add, (torch.randn(6, 1), torch.randn(5)), {"alpha": 2}),
    "attention": (F.scaled_dot_product_attention, (torch.randn(2, 4, 6, 8),) * 3, {"scale": 0.3}),
    "attention with groups": (
        F.scaled_dot_product_attention,
        (torch.randn(2, 4, 6, 8), torch.randn(2, 2, 6, 8), torch.randn(2, 2, 6, 8)),
        {"scale": 0.3, "enable_gqa": True},
    ),
    "embedding": (F.embedding, (torch.tensor([[0, 2], [5, 1]]), torch.randn(6, 4)), {}),
    "gathered": (torch.gather, (torch.randn(4, 6), 1, torch.tensor([[0, 5, 2]] * 4)), {}),
    "layer norm": (F.layer_norm, (torch.randn(3, 6), (6,), torch.randn(6), torch.randn(6)), {}),
    "two dimensions normed": (F.layer_norm, (torch.randn(3, 4, 6), (4, 6), torch.randn(4, 6)), {}),
    "concatenated": (torch.cat, ([torch.randn(2, 3), torch.randn(2, 5)], 1), {}),
    "stacked": (torch.stack, ([torch.randn(2, 3), torch.randn(2, 3)], 1), {}),
    "strided as it is": (lambda x: x.as_strided(x.shape, x.stride()), (torch.randn(4, 6),), {}),
    "rows selected": (torch.index_select, (torch.randn(4, 6), 0, torch.tensor([0, 3, 3])), {}),
    "rows put": (lambda x, y: x.index_put((torch.tensor([2, 0]),), y), (torch.randn(4, 6), torch.randn(2, 6)), {}),
    "zeros like": (lambda x: torch.zeros_like(x) + x, (torch.randn(4, 6),), {}),
    "weight norm": (lambda v, g: torch._weight_norm(v, g, 0), (torch.randn(4, 6), torch.rand(4, 1)), {}),
    "pooled volumes": (F.max_pool3d, (torch.randn(2, 6, 4, 4, 4), 2), {}),
    "lines made longer": (lambda x: F.interpolate(x, scale_factor=2, mode="linear"), (torch.randn(2, 6, 5),), {}),
    "regions": (torchvision.ops.roi_align, (torch.randn(1, 6, 8, 8), torch.tensor([[0.0, 0, 0, 4, 4]]), 2), {}),
    "new": (lambda x: x.new_zeros(x.shape[0], 4) + x, (torch.randn(6, 4),), {}),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_of_several_tensors(name: str) -> None:
    function, args, kwargs = OPERATORS[name]
    assert check_rule(function, *args, **kwargs).free


ELSEWHERE = {  # rules that whole models show: what they need is no call on tensors that could be cut at random
    "grouped_mm": "its widths are multiples of eight",
    "choice": "its results depend on values",
    "unpack": "it reads packed sequences",
    "linear": "it is recorded as a product",
}


@pytest.mark.slow
def test_every_rule_is_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The calls above reach all functions that are registered as rules."""
    probed: set[Any] = set()

    def watched(function: Any) -> Any:
        return lambda terms, call: (probed.add(function), function(terms, call))[1]

    monkeypatch.setattr(base, "RULES", {name: watched(function) for name, function in RULES.items()})
    for table, check in (
        (FREE, test_operators_between_layers),
        (PLACED, test_operators_with_a_place),
        ([name for name in FROZEN if FROZEN[name][1] != "no rule"], test_what_is_frozen_is_told),
        (WEIGHTS, test_layers_with_weights),
        (OPERATORS, test_operators_of_several_tensors),
    ):
        for name in table:
            check(name)
    assert {function.__name__ for function in set(RULES.values()) - probed} == set(ELSEWHERE)


@torch.library.custom_op("secateur_testing::scale_channels", mutates_args=())
def scale_channels(x: Tensor, scale: Tensor) -> Tensor:
    return x * scale[:, None]


@scale_channels.register_fake
def _(x: Tensor, scale: Tensor) -> Tensor:
    return torch.empty_like(x)


@pytest.fixture(autouse=True)
def own_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "RULES", dict(RULES))


ARGUMENTS = {"x": torch.randn(2, 8, 4), "scale": torch.randn(8)}


def test_a_users_rule_in_five_lines() -> None:
    with pytest.raises(RuleError, match=r"no rule for secateur_testing\.scale_channels"):
        check_rule(scale_channels, **ARGUMENTS)

    @rule("secateur_testing::scale_channels")
    def scaled(terms: Any, call: Any) -> Any:
        terms.unify(call["x"].dims[1], call["scale"].dims[0])
        return [call["x"].dims]

    assert check_rule(scale_channels, **ARGUMENTS).free == {"x[0]": 2, "x[1]": 8, "x[2]": 4, "scale[0]": 8}

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv1d(3, 8, 1), nn.Conv1d(8, 5, 1)
            self.scale = nn.Parameter(torch.randn(8))

        def forward(self, x: Tensor) -> Tensor:
            return self.last(scale_channels(self.first(x), self.scale))

    found = check_model(Net().eval(), torch.randn(2, 3, 4))
    assert [(g.name, g.units) for g in found] == [("first", 8)]
    assert {m.name for m in found[0].members} == {"first.weight", "first.bias", "scale", "last.weight"}


def test_a_rule_that_ties_too_little_is_caught() -> None:
    @rule("secateur_testing::scale_channels")
    def loose(terms: Any, call: Any) -> Any:
        return [call["x"].dims]

    with pytest.raises(RuleError, match=r"raised .*Error|kept entries differ"):
        check_rule(scale_channels, **ARGUMENTS)


def test_a_rule_that_tells_another_order_is_caught() -> None:
    @rule("secateur_testing::scale_channels")
    def turned(terms: Any, call: Any) -> Any:
        terms.unify(call["x"].dims[1], call["scale"].dims[0])
        n, c, w = call["x"].dims
        return [[n, w, c]]

    with pytest.raises(RuleError, match="gives dimensions of other sizes"):
        check_rule(scale_channels, **ARGUMENTS)


def test_a_rule_that_forgets_a_statistic_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    @rule("_softmax", "softmax")
    def passed(terms: Any, call: Any) -> Any:
        return [call["self"].dims]

    with pytest.raises(RuleError, match="kept entries differ"):
        check_rule(torch.softmax, torch.randn(3, 8), dim=1)


def test_a_rule_that_lets_a_reversed_order_pass_is_caught() -> None:
    @rule("flip")
    def passed(terms: Any, call: Any) -> Any:
        return [call["self"].dims]

    with pytest.raises(RuleError, match="kept entries differ"):
        check_rule(torch.flip, torch.randn(3, 8), dims=[1])


@torch.library.custom_op("secateur_testing::divided", mutates_args=())
def divided(x: Tensor) -> Tensor:
    return x / x.shape[1]


@divided.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def test_a_model_that_cannot_be_proven_is_told() -> None:
    @rule("secateur_testing::divided")
    def passed(terms: Any, call: Any) -> Any:
        return [call["x"].dims]

    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(divided(self.first(x)))

    with pytest.raises(RuleError, match="kept entries differ"):
        check_rule(divided, x=torch.randn(3, 16))
    with pytest.raises(RuleError, match=r"1 of 1 groups could not be proven. first: "):
        check_model(Counted().eval(), torch.randn(3, 6))


def test_a_model_is_checked() -> None:
    model, example = network("Residual")
    assert len(check_model(model, example)) > 0
