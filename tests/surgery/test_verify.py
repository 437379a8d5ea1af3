"""The proof catches what is wrong: negative controls, and groups that cannot be proven."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import torchvision
from laws.networks import ConvNext, Scaled, network
from laws.reference import check_laws, difference, masked_outputs, outputs, random_plan, redraw
from numpy.typing import NDArray
from torch import Tensor, nn

import secateur
from secateur.errors import ProofError
from secateur.graph import solution as solutions
from secateur.graph import terms
from secateur.graph.solution import Solution
from secateur.graph.terms import Atom, Dim, norm
from secateur.graph.units import Groups
from secateur.surgery import verify
from secateur.surgery.record import Proof


def vit() -> nn.Module:
    return torchvision.models.VisionTransformer(16, 4, 1, 4, 32, 48, num_classes=7)


def small_vgg() -> nn.Module:
    """VGG11 with an eighth of its channels; its classifier still reads a flattened 7 x 7 map."""
    layers: list[nn.Module] = []
    before = 3
    for entry in (8, "M", 16, "M", 32, 32, "M", 64, 64, "M"):
        if isinstance(entry, int):
            layers += [nn.Conv2d(before, entry, 3, padding=1), nn.ReLU()]
            before = entry
        else:
            layers.append(nn.MaxPool2d(2))
    head = nn.Sequential(nn.Linear(64 * 4, 48), nn.ReLU(), nn.Linear(48, 7))
    return nn.Sequential(*layers, nn.Flatten(), head)


CONTROLS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "vgg11": (small_vgg, 32),
    "shufflenet": (lambda: torchvision.models.ShuffleNetV2([1, 1, 1], [8, 16, 24, 32, 40], num_classes=7), 32),
    "vit": (vit, 16),
}


def traced(name: str) -> Groups:
    build, side = CONTROLS[name]
    return secateur.groups(redraw(build()), torch.randn(1, 3, side, side))


@pytest.mark.parametrize("name", CONTROLS)
def test_a_consumer_cut_at_other_indices_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = traced(name)
    plan = random_plan(groups)
    member = next(m for g in groups for m in g.consumers if plan.counts[g.name] < g.units)
    kept = Solution.kept

    def wrong(self: Solution, by_name: Mapping[str, Tensor]) -> dict[str, dict[int, Tensor]]:
        lines = kept(self, by_name)
        if member.name in lines and member.dim in lines[member.name]:
            line = lines[member.name][member.dim]
            lines[member.name][member.dim] = (line + 1) % member.shape[member.dim]
        return lines

    monkeypatch.setattr(Solution, "kept", wrong)
    with proof_fails(groups):
        secateur.slim(groups, plan)


@contextmanager
def proof_fails(groups: Groups) -> Iterator[None]:
    """Holds if the block freezes a group because its cut could not be proven."""
    before = len(groups)
    yield
    assert len(groups) < before
    assert "could not be proven" in groups.frozen[-1].reason


@pytest.mark.parametrize("name", ["vgg11", "vit"])
def test_an_exchanged_factor_order_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = traced(name)

    def exchanged(dim: Dim, keep: Mapping[Atom, NDArray[np.bool_]]) -> NDArray[np.bool_]:
        result = np.ones(1, dtype=bool)
        for factor in reversed(norm(dim)):
            result = np.kron(result, terms.mask((factor,), keep)).astype(bool)
        return result

    monkeypatch.setattr(solutions, "mask", exchanged)
    with proof_fails(groups):
        secateur.slim(groups, random_plan(groups))


def test_a_swapped_index_in_a_group_under_a_norm_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = secateur.groups(redraw(ConvNext()), torch.randn(2, 3, 8, 8))
    group = next(g for g in groups if g.proof == "kept statistics")
    plan = random_plan(groups, only=lambda g: g is group)
    kept = Solution.kept

    def wrong(self: Solution, by_name: Mapping[str, Tensor]) -> dict[str, dict[int, Tensor]]:
        lines = kept(self, by_name)
        if "norm.weight" in lines:
            line = lines["norm.weight"][0]
            gone = next(i for i in range(group.units) if i not in line.tolist())
            lines["norm.weight"][0] = torch.cat([torch.tensor([gone]), line[1:]])
        return lines

    monkeypatch.setattr(Solution, "kept", wrong)
    with proof_fails(groups):
        secateur.slim(groups, plan)


def test_a_zero_initialised_layer_hides_no_wrong_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(nn.Module):
        """A residual branch whose last layer is zero, as many initialise it."""

        def __init__(self) -> None:
            super().__init__()
            self.stem, self.up, self.down, self.head = (
                nn.Linear(6, 12), nn.Linear(12, 20), nn.Linear(20, 12), nn.Linear(12, 4),
            )  # fmt: skip
            nn.init.zeros_(self.down.weight)
            nn.init.zeros_(self.down.bias)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.head(x + self.down(torch.relu(self.up(x))))

    model = Silent().eval()
    groups = secateur.groups(model, torch.randn(3, 6))
    plan = random_plan(groups)
    assert secateur.record(secateur.slim(groups, plan)).proof.holds
    kept = Solution.kept

    def wrong(self: Solution, by_name: Mapping[str, Tensor]) -> dict[str, dict[int, Tensor]]:
        lines = kept(self, by_name)
        if 1 in lines.get("down.weight", {}):
            lines["down.weight"][1] = (lines["down.weight"][1] + 1) % 20
        return lines

    monkeypatch.setattr(Solution, "kept", wrong)
    with proof_fails(groups):
        secateur.slim(groups, plan)
    assert [f.name for f in groups.frozen if "proven" in f.reason] == ["up"]
    assert not model.down.weight.any(), "the proof redraws a copy, never the model"


@pytest.mark.parametrize("how", ["power", "root"])
def test_a_width_that_goes_into_a_number_is_frozen_and_the_rest_is_pruned(how: str) -> None:
    groups = secateur.groups(redraw(Scaled(how)), torch.randn(3, 6))
    assert [g.name for g in groups] == ["middle"]
    stop = next(f for f in groups.frozen if f.name == "first")
    assert stop.units == 16
    assert "number is computed from this width" in stop.reason
    assert stop.operator.startswith("aten.")
    plan = random_plan(groups)
    slim = secateur.slim(groups, plan)
    assert secateur.record(slim).proof.holds
    assert slim.middle.out_features == 10
    assert difference(outputs(slim, groups.inputs), masked_outputs(groups, plan.keep)) < 1e-9


@pytest.mark.parametrize("how", ["tensor", "divide"])
def test_a_width_that_only_the_proof_can_see_is_frozen_by_it(how: str) -> None:
    """`torch.tensor(width)` leaves no number in the recorded calls."""
    groups = secateur.groups(redraw(Scaled(how)), torch.randn(3, 6))
    slim = secateur.slim(groups, random_plan(groups))
    assert secateur.record(slim).proof.holds
    assert slim.first.out_features == 16
    assert slim.middle.out_features == 10
    assert "first" in {f.name for f in groups.frozen}
    pruned = secateur.prune(Scaled(how).eval(), torch.randn(3, 6), budget="80% macs", round_to=1)
    assert pruned.first.out_features == 16
    assert secateur.record(pruned).proof.holds
    assert secateur.record(pruned).after["macs"] <= 0.81 * secateur.record(pruned).before["macs"]


def test_a_random_forward_cannot_be_proven() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 12), nn.Linear(12, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x) + torch.rand(1))

    with pytest.raises(ProofError, match=r"Nothing can be proven about Noisy.*Is its forward random"):
        secateur.prune(Noisy(), torch.randn(3, 6), budget="60% macs")


def test_without_proof_nothing_is_claimed() -> None:
    model, example = network("Residual")
    groups = secateur.groups(model, example)
    slim = secateur.slim(groups, random_plan(groups), verify=False)
    assert secateur.record(slim).proof is None


def test_half_precision_models_are_proven_in_float64() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        model, example = network("Residual")
        groups = secateur.groups(model.to(dtype), example.to(dtype))
        slim = secateur.slim(groups, random_plan(groups))
        assert secateur.record(slim).proof.dtype == "float64"
        assert slim.stem.weight.dtype == dtype


def test_a_norm_that_takes_its_epsilon_from_the_precision_is_proven() -> None:
    """`nn.RMSNorm` without an epsilon uses that of its numbers, which is another in float64."""
    model = nn.Sequential(nn.Linear(6, 20), nn.RMSNorm(20), nn.Linear(20, 5))
    slim = secateur.prune(redraw(model), torch.randn(2, 6), budget="60% macs", round_to=1)
    assert secateur.record(slim).proof.holds
    assert slim[1].eps is None


def test_a_proof_with_a_nan_does_not_hold() -> None:
    assert not Proof(float("nan"), 0.0, None, 1e-9, "float64").holds
    assert not Proof(None, 0.0, 1e-8, 1e-9, "float64").holds
    assert Proof(1e-12, 0.0, None, 1e-9, "float64").holds
    nan = [torch.tensor([1.0, float("nan")])]
    assert not verify.error(nan, nan) <= 1e-9
    assert verify.error([torch.ones(2)], [torch.ones(3)]) == float("inf")
    assert verify.error([torch.ones(2)], []) == float("inf")
    assert verify.error([torch.tensor([2.0, 1.0])], [torch.tensor([2.0, 0.5])]) == pytest.approx(0.25)


def test_culprits_are_found_by_halving() -> None:
    asked: list[int] = []

    def fails(names: object) -> bool:
        asked.append(len(names))  # type: ignore[arg-type]
        return bool({"c", "f"} & set(names))  # type: ignore[call-overload]

    assert verify.culprits(list("abcdefgh"), fails) == ["c", "f"]
    assert verify.culprits(list("ab"), lambda names: len(names) == 2) == ["a", "b"]


def test_hand_written_transformer_block_sees_kept_statistics() -> None:
    """A pre-norm block written out by hand, its norms over the kept channels, against the slim module."""
    model, example = network("Transformer")
    groups, slim = check_laws(model, example, seed=5)
    plan = random_plan(groups, seed=5)
    width = next(g for g in groups if g.units == 24)
    stream = plan.keep[width.name]
    own = {k: v.double() for k, v in model.state_dict().items()}
    x = (example.double() @ own["embed.weight"].T + own["embed.bias"] + own["position"])[..., stream]

    def normed(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * own[f"{name}.weight"][stream] + own[f"{name}.bias"][stream]

    for block in (0, 2):
        heads = next(g for g in groups if g.name == f"blocks.{block}.qkv")
        y = normed(x, f"blocks.{block}.norm")
        w, b = own[f"blocks.{block}.qkv.weight"][:, stream], own[f"blocks.{block}.qkv.bias"]
        out = own[f"blocks.{block}.proj.weight"][stream]
        branch = own[f"blocks.{block}.proj.bias"][stream]
        for head in plan.keep[heads.name].tolist():
            rows = [slice(24 * part + 6 * head, 24 * part + 6 * head + 6) for part in range(3)]
            q, k, v = (y @ w[r].T + b[r] for r in rows)
            branch = branch + ((q @ k.transpose(1, 2) * 0.4).softmax(-1) @ v) @ out[:, 6 * head : 6 * head + 6].T
        x = x + branch
        hidden = plan.keep[f"blocks.{block + 1}.up"]
        y = normed(x, f"blocks.{block + 1}.norm")
        up = f"blocks.{block + 1}.up"
        y = nn.functional.gelu(y @ own[f"{up}.weight"][hidden][:, stream].T + own[f"{up}.bias"][hidden])
        down = f"blocks.{block + 1}.down"
        x = x + y @ own[f"{down}.weight"][stream][:, hidden].T + own[f"{down}.bias"][stream]
    expected = normed(x, "norm").mean(1) @ own["head.weight"][:, stream].T + own["head.bias"]
    assert difference(outputs(slim, groups.inputs), [expected]) < 1e-9


def test_hand_written_convnext_block_sees_kept_statistics() -> None:
    model, example = network("ConvNext")
    groups, slim = check_laws(model, example, seed=6)
    plan = random_plan(groups, seed=6)
    stream = plan.keep[next(g.name for g in groups if g.units == 16)]
    hidden = plan.keep["up"]
    own = {k: v.double() for k, v in model.state_dict().items()}
    conv = nn.functional.conv2d
    x = conv(example.double(), own["stem.weight"][stream], own["stem.bias"][stream], stride=2)
    y = conv(x, own["dw.weight"][stream], own["dw.bias"][stream], padding=1, groups=len(stream)).permute(0, 2, 3, 1)
    centred = y - y.mean(-1, keepdim=True)
    y = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
    y = y * own["norm.weight"][stream] + own["norm.bias"][stream]
    y = nn.functional.gelu(y @ own["up.weight"][hidden][:, stream].T + own["up.bias"][hidden])
    y = y @ own["down.weight"][stream][:, hidden].T + own["down.bias"][stream]
    x = x + own["scale"][stream] * y.permute(0, 3, 1, 2)
    expected = x.mean((2, 3)) @ own["fc.weight"][:, stream].T + own["fc.bias"]
    assert difference(outputs(slim, groups.inputs), [expected]) < 1e-9


@pytest.mark.parametrize("name", CONTROLS)
def test_a_proof_operator_by_operator_says_the_same(name: str) -> None:
    groups = traced(name)
    plan = random_plan(groups)
    keep = {name: kept for name, kept in plan.keep.items() if len(kept) < plan.units[name]}
    module = secateur.slim(groups, plan, verify=False)
    for whole in (True, False):
        proof = verify.Verifier(groups, whole=whole).prove(module, keep)
        assert proof.holds
        assert max(e for e in (proof.masked, proof.statistics) if e is not None) < 1e-12


@pytest.mark.parametrize("dtype", [None, torch.float64])
def test_numbers_that_code_makes_tensors_of_keep_their_precision(dtype: torch.dtype | None) -> None:
    class Normalises(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))

        def forward(self, x: Tensor) -> Tensor:
            mean = torch.as_tensor([0.485, 0.456, 0.406], dtype=x.dtype)
            return self.net(x - mean) * torch.tensor(0.1, dtype=dtype).to(x.dtype)

    torch.manual_seed(0)
    found = secateur.groups(Normalises(), torch.randn(2, 3))
    small = secateur.slim(found, secateur.plan(found, budget="50% channels", round_to=1))
    assert secateur.record(small).proof.replayed == 0
    assert secateur.record(small).proof.holds
