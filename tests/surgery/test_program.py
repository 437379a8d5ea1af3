"""Programs: what the model's own code cannot follow is cut all the same, and is the masked model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from laws.networks import NETWORKS, Scaled, network
from laws.odd import ODD
from laws.reference import difference, exact, masked_outputs, outputs, random_plan, redraw
from torch import Tensor, fx, nn

import secateur
from secateur.errors import CheckpointError, InputError, ProofError
from secateur.graph.rules import RULES
from secateur.surgery.program import FIXED


class Literal(nn.Module):
    """Attention whose heads are literals of its forward, and a stream whose width is one too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv, self.proj, self.head = (
            nn.Linear(6, 16),
            nn.Linear(16, 48),
            nn.Linear(16, 16),
            nn.Linear(16, 5),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).view(-1, 5, 16)
        q, k, v = self.qkv(x).view(x.shape[0], 5, 3, 4, 4).permute(2, 0, 3, 1, 4)
        y = (q @ k.mT / 16**0.5).softmax(-1) @ v
        return self.head(x + self.proj(y.transpose(1, 2).reshape(-1, 5, 16)))


def found(model: nn.Module, example: Any) -> secateur.Groups:
    return secateur.groups(redraw(model), example, follow="program")


def made(name: str) -> tuple[nn.Module, Any]:
    if name in NETWORKS:
        return network(name)
    torch.manual_seed(0)
    return ODD[name].kind(), ODD[name].example()


def test_what_code_cannot_follow_is_cut() -> None:
    torch.manual_seed(0)
    model, example = Literal(), torch.randn(2, 5, 6)
    assert len(secateur.groups(redraw(model), example)) == 0
    groups = found(model, example)
    assert {g.name: g.units for g in groups} == {"embed": 16, "qkv": 4}
    plan = random_plan(groups)
    small = secateur.slim_program(groups, plan)
    assert isinstance(small, fx.GraphModule)
    assert (small.qkv.weight.shape, small.proj.weight.shape) == ((24, 8), (8, 8))
    assert difference(outputs(small, groups.inputs), masked_outputs(groups, plan.keep)) < 1e-9
    entry = secateur.record(small)
    assert entry is not None
    assert entry.proof is not None
    assert entry.proof.holds
    assert entry.after["params"] == sum(p.numel() for p in small.parameters()) == plan.reached.params


@pytest.mark.parametrize("name", [*NETWORKS, *(n for n in ODD if n != "Packed")])
def test_programs_are_the_masked_model(name: str) -> None:
    groups = found(*made(name))
    assert {g.name for g in secateur.groups(groups.model, made(name)[1])} - {g.name for g in groups} <= {"aux"}
    plan = random_plan(groups, only=exact if name == "FunctionalWeights" else None)
    small = secateur.slim_program(groups, plan)
    assert difference(outputs(small, groups.inputs), masked_outputs(groups, plan.keep)) < 1e-9
    names = dict(groups.model.named_parameters(remove_duplicate=False))
    assert {n for n, _ in small.named_parameters()} <= set(names)


@pytest.mark.parametrize("name", ["Flatten", "Multihead", "C2f", "SeveralEnds"])
def test_other_batches_exported_saved_and_loaded(name: str, tmp_path: Path) -> None:
    groups = found(*made(name))
    small = secateur.slim_program(groups, random_plan(groups))
    assert FIXED not in secateur.record(small).notes
    args, kwargs = groups.inputs
    torch.export.save(torch.export.export(small, args, kwargs), tmp_path / "slim.pt2")
    back = torch.export.load(tmp_path / "slim.pt2").module()
    for ours, theirs in zip(outputs_of(back, args, kwargs), outputs_of(small, args, kwargs), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)
    if kwargs:
        return
    wider = torch.cat([*args, *args, *args])
    assert torch.allclose(small(wider)[: len(args[0])], small(*args), atol=1e-5)
    free = torch.export.export(small, args, dynamic_shapes=({0: torch.export.Dim("batch", min=2)},))
    assert torch.allclose(free.module()(wider), small(wider), atol=1e-5)


def outputs_of(module: nn.Module, args: Any, kwargs: Any) -> list[Tensor]:
    return [t for t in torch.utils._pytree.tree_leaves(module(*args, **kwargs)) if isinstance(t, Tensor)]


def test_results_keep_their_nesting_and_programs_train() -> None:
    groups = found(*made("SeveralEnds"))
    small = secateur.slim_program(groups, random_plan(groups))
    result = small(**groups.inputs[1])
    assert set(result) == {"answer", "pair", "rest"}
    assert set(result["answer"]) == {"scores", "boxes", "name"}
    assert result["rest"][0] is None is result["answer"]["name"]
    sum(t.square().mean() for t in outputs_of(small, *groups.inputs)).backward()
    assert all(p.grad is not None for p in small.parameters())


def test_branches_and_numbers_stay_as_they_were_recorded() -> None:
    groups = found(*made("ShapeBranches"))
    assert {g.name for g in groups} == {"stem", "wide", "extra"}
    torch.manual_seed(0)
    scaled, example = Scaled(), torch.randn(3, 6)
    assert [g.name for g in secateur.groups(redraw(scaled), example)] == ["middle"]
    groups = found(scaled, example)
    plan = random_plan(groups)
    small = secateur.slim_program(groups, plan)
    assert small.first.weight.shape == (8, 6)
    assert difference(outputs(small, groups.inputs), masked_outputs(groups, plan.keep)) < 1e-9


class Rows(nn.Module):
    """A forward that mixes the examples of a batch of two."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 12), nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)).reshape(1, -1))


def test_a_batch_that_is_fixed_is_told() -> None:
    groups = found(Rows(), torch.randn(2, 6))
    small = secateur.slim_program(groups, random_plan(groups))
    assert FIXED in secateur.record(small).notes
    assert small(torch.randn(2, 6)).shape == (1, 4)


def test_a_wrong_program_is_not_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, "flip", lambda terms, call: [list(call["self"].dims)])

    class Flipped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 12), nn.Linear(12, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x).flip(1))

    groups = found(Flipped(), torch.randn(3, 6))
    with pytest.raises(ProofError, match="not proven"):
        secateur.slim_program(groups, random_plan(groups))


def test_what_is_no_program_is_refused_in_words(tmp_path: Path) -> None:
    model, example = made("Flatten")
    groups = found(model, example)
    plan = random_plan(groups)
    with pytest.raises(InputError, match="pass them to slim_program"):
        secateur.slim(groups, plan)
    with pytest.raises(CheckpointError, match=r"torch\.export\.save"):
        secateur.save(secateur.slim_program(groups, plan), tmp_path)
    single = secateur.elements(model)
    with pytest.raises(InputError, match="must be channels and heads"):
        secateur.slim_program(single, secateur.plan(single, budget="50% weights"))
    groups = found(*made("Packed"))
    with pytest.raises(InputError, match="depends on values"):
        secateur.slim_program(groups, random_plan(groups))
