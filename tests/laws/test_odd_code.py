"""The laws of a cut over code as people write it, and that what ought to be prunable is: nothing stays on the quiet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from laws.networks import Caching, Flatten, network
from laws.odd import ODD, Answer, C2f, SeveralEnds, several
from laws.reference import check_laws, exact, masked_outputs, random_plan, redraw
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import secateur
from secateur.graph.units import Groups


def made(name: str) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    return ODD[name].kind(), ODD[name].example()


def check_groups(name: str, found: Groups) -> None:
    odd = ODD[name]
    assert {g.name: g.units for g in found} == odd.groups
    why = {f.name: f.reason for f in found.frozen}
    assert all(reason in why[place] for place, reason in odd.left.items())
    assert found.unknown == ()


@pytest.mark.parametrize("name", ODD)
def test_half_of_every_group_leaves_and_the_rest_is_the_masked_model(name: str) -> None:
    only = exact if name == "FunctionalWeights" else None  # the test's own reference knows no norms of weights
    found, small = check_laws(*made(name), only=only)
    check_groups(name, found)
    entry = secateur.record(small)
    assert entry is not None
    assert all(g.after <= (g.before + 1) // 2 for g in entry.groups if only is None or g.proof == "exact")


def test_norms_of_weights_are_proven_over_kept_entries() -> None:
    model, example = made("FunctionalWeights")
    found = secateur.groups(redraw(model), example)
    small = secateur.slim(found, random_plan(found))
    check_groups("FunctionalWeights", found)
    entry = secateur.record(small)
    assert entry is not None
    assert entry.proof is not None
    assert entry.proof.statistics is not None
    assert [g.after for g in entry.groups] == [g.units // 2 for g in found]


@pytest.mark.parametrize("name", ["BiasCache", "C2f", "Einops", "Packed", "SharedModules", "Stubs"])
def test_slim_ones_train_load_and_take_other_batches(name: str, tmp_path: Path) -> None:
    model, example = made(name)
    found = secateur.groups(redraw(model), example)
    small = secateur.slim(found, random_plan(found))
    small.train()(example).square().mean().backward()
    assert all(p.grad is not None for p in small.parameters())
    secateur.save(small.eval(), tmp_path)
    back = secateur.load(ODD[name].kind, tmp_path)
    other = example.flip(0) if name == "Packed" else torch.cat([example, example.flip(0), example])
    assert torch.equal(back(other), small(other))


def test_caches_of_an_earlier_run_are_no_obstacle() -> None:
    model, example = Caching(), torch.randn(3, 6)
    check_laws(model, example)
    model(example)  # leaves tensors with gradients in its caches
    found = secateur.groups(model, example)
    assert {g.name: g.units for g in found} == {"first": 12}
    small = secateur.slim(found, random_plan(found))
    assert len(found) == 1
    small(example)
    assert small.cache["bias"].shape == small.latest.shape[1:] == (6,)


def test_results_keep_their_types() -> None:
    model, example = made("SeveralEnds")
    found = secateur.groups(redraw(model), example)
    result = secateur.slim(found, random_plan(found))(**example)
    assert type(model) is SeveralEnds
    assert type(result["answer"]) is Answer
    assert result["answer"].name == "answer"
    assert result["pair"]._fields == ("mean", "spread")
    assert result["rest"][0] is None


def test_inputs_in_a_tuple_or_by_name_are_the_same() -> None:
    model, _ = made("SeveralEnds")
    example = several()
    names = {g.name: g.units for g in secateur.groups(model, example)}
    assert {g.name: g.units for g in secateur.groups(model, tuple(example.values()))} == names


def test_parameters_that_are_not_trained_stay_so() -> None:
    model, example = made("Frozen")
    found = secateur.groups(redraw(model), example)
    small = secateur.slim(found, random_plan(found))
    assert {n: p.requires_grad for n, p in small.named_parameters()} == {
        n: p.requires_grad for n, p in model.named_parameters()
    }
    small(example).sum().backward()
    assert small.teacher.weight.grad is None
    assert small.head.weight.grad is not None


def test_a_branch_that_a_width_decides_is_taken_as_it_was() -> None:
    model, example = made("ShapeBranches")
    found = secateur.groups(redraw(model), example)
    small = secateur.prune(model, example, budget="60% params", round_to=1)
    assert small.extra.weight.shape == (16, 16, 1, 1)
    assert small.stem.out_channels < 12
    assert "wide" not in {g.name for g in found}


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of one, over gloo."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("order", ["ddp", "compile of ddp", "ddp of compile"])
def test_data_parallel_and_compiled_modules_are_unwrapped(order: str) -> None:
    model, example = network("Flatten")
    names = {g.name: g.units for g in secateur.groups(model, example)}
    inner = torch.compile(model) if order == "ddp of compile" else model
    wrapped: Any = DistributedDataParallel(inner)
    wrapped = torch.compile(wrapped) if order == "compile of ddp" else wrapped
    found = secateur.groups(wrapped, example)
    assert {g.name: g.units for g in found} == names
    small = secateur.slim(found, random_plan(found))
    assert type(small) is Flatten
    again = DistributedDataParallel(small)
    again(example).sum().backward()
    assert all(p.grad is not None for p in small.parameters())


def test_a_module_compiled_inside_is_pruned_with_the_others() -> None:
    torch.manual_seed(0)
    compiled = torch.compile(C2f(), backend="eager")
    model = redraw(nn.Sequential(compiled, nn.Conv2d(5, 8, 1), nn.ReLU(), nn.Conv2d(8, 3, 1)))
    example = torch.randn(1, 3, 8, 8)
    model(example)
    found = secateur.groups(model, example)
    assert {g.name.removeprefix("0._orig_mod."): g.units for g in found} == {**ODD["C2f"].groups, "head": 5, "1": 8}
    plan = random_plan(found)
    small = secateur.slim(found, plan)
    assert len(found) == len(ODD["C2f"].groups) + 2
    expected = masked_outputs(found, plan.keep)[0]
    assert torch.allclose(small(example).double(), expected, atol=1e-5)


def test_a_compiled_forward_is_pruned() -> None:
    model, example = redraw(C2f()), ODD["C2f"].example()
    model.compile(backend="eager")
    model(example)
    found = secateur.groups(model, example)
    check_groups("C2f", found)
    small = secateur.slim(found, random_plan(found))
    assert small(example).shape == model(example).shape
