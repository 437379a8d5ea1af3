"""From a plan to a slim module: optimizers cut along, masks of single weights, budgets through prune."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from laws.networks import Flatten, Transformer, network
from laws.reference import difference, masked_outputs, outputs, random_keep, random_plan, redraw
from torch import Tensor, nn

import secateur
from secateur.graph.cutting import cut_tensor
from secateur.planning import Plan

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "momentum": partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "nesterov": partial(torch.optim.SGD, lr=0.05, momentum=0.9, nesterov=True),
    "adam": partial(torch.optim.Adam, lr=1e-3, amsgrad=True),
    "adamw": partial(torch.optim.AdamW, lr=1e-3),
    "rmsprop": partial(torch.optim.RMSprop, lr=1e-3, momentum=0.5),
}


def plain() -> nn.Module:
    """A network without batch norm: masked and slim training are the same."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1), nn.Tanh(), nn.Conv2d(12, 10, 3), nn.Tanh(), nn.Flatten(), nn.Linear(160, 7)
    ).double()


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> float:
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def batch(seed: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(8, 3, 6, 6, generator=draw, dtype=torch.float64), torch.randint(0, 7, (8,), generator=draw)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_state_of_an_optimizer_is_cut_along(name: str) -> None:
    model = plain()
    head, rest = list(model[5].parameters()), [p for i in (0, 2) for p in model[i].parameters()]
    optimizer = OPTIMIZERS[name]([{"params": head, "lr": 0.01}, {"params": rest}])
    for seed in range(3):
        step(model, optimizer, *batch(seed))
    before = {n: {k: copy.deepcopy(v) for k, v in optimizer.state[p].items()} for n, p in model.named_parameters()}
    groups = secateur.groups(model.eval(), batch(0)[0])
    plan = random_plan(groups)
    slim = secateur.slim(groups, plan, optimizer=optimizer)
    kept = secateur.record(slim).kept
    own = dict(slim.named_parameters())
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {id(p) for p in own.values()}
    assert optimizer.param_groups[0]["lr"] == 0.01
    assert len(optimizer.state) == len(own)
    for path, parameter in own.items():
        state = optimizer.state[parameter]
        assert state.keys() == before[path].keys()
        for key, value in state.items():
            then = before[path][key]
            if isinstance(then, Tensor) and then.dim():
                assert value.shape == parameter.shape
                for dim, line in kept.get(path, {}).items():
                    then = then.index_select(dim, line)
                assert torch.equal(value, then)
            else:
                assert value == then
    losses = [step(slim.train(), optimizer, *batch(seed)) for seed in range(4)]
    assert all(torch.isfinite(torch.tensor(losses)))
    assert not optimizer.state[own["0.weight"]].keys() - before["0.weight"].keys()


def test_masked_training_is_slim_training() -> None:
    """SGD with momentum: gradients of removed units held at zero against the parameters being gone."""
    model = plain()
    make = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-2)
    optimizer = make(model.parameters())
    for seed in range(3):
        step(model, optimizer, *batch(seed))
    groups = secateur.groups(model, batch(0)[0])
    plan = random_plan(groups)
    masked = copy.deepcopy(model)
    masked_optimizer = make(masked.parameters())
    masked_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    slim = secateur.slim(groups, plan, optimizer=optimizer).train()
    stays = masks(groups, plan)

    def hold() -> None:
        with torch.no_grad():
            for name, parameter in masked.named_parameters():
                parameter.mul_(stays.get(name, 1.0))
                state = masked_optimizer.state.get(parameter, {})
                if "momentum_buffer" in state:
                    state["momentum_buffer"].mul_(stays.get(name, 1.0))

    hold()
    for seed in range(5):
        ours, theirs = step(slim, optimizer, *batch(seed)), step(masked, masked_optimizer, *batch(seed))
        hold()
        assert ours == pytest.approx(theirs, rel=1e-9)
    kept = secateur.record(slim).kept
    for name, parameter in masked.named_parameters():
        assert torch.allclose(
            cut_tensor(parameter, kept.get(name, {})), slim.get_parameter(name), rtol=1e-9, atol=1e-12
        )


def masks(groups: secateur.Groups, plan: Plan) -> dict[str, Tensor]:
    result: dict[str, Tensor] = {}
    for group in groups:
        for member in group.members:
            line = member.expand(plan.mask(group.name).double())
            result[member.name] = result.get(member.name, torch.ones(member.shape, dtype=torch.float64)) * line
    return result


def test_prune_is_the_three_lines_in_one() -> None:
    model, example = network("Residual")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model.train()(example).sum().backward()
    optimizer.step()
    groups = secateur.groups(model, example)
    plan = secateur.plan(groups, budget="60% macs", round_to=1)
    expected = secateur.slim(groups, plan)
    ours = secateur.prune(model, example, budget="60% macs", round_to=1, optimizer=optimizer)
    assert all(
        torch.equal(a, b) for a, b in zip(expected.state_dict().values(), ours.state_dict().values(), strict=True)
    )
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == {id(p) for p in ours.parameters()}
    entry = secateur.record(ours)
    assert entry.budget == "60% macs"
    assert entry.after["macs"] <= 0.61 * entry.before["macs"]
    assert {g.name for g in entry.groups} == {g.name for g in groups}
    assert all(g.after == len(plan.keep[g.name]) for g in entry.groups)


def test_the_slim_module_is_an_ordinary_one() -> None:
    model, example = network("Flatten")
    model.conv1.weight.requires_grad_(False)
    model.train()
    groups = secateur.groups(model, example)
    slim = secateur.slim(groups, random_plan(groups))
    assert type(slim) is Flatten
    assert not slim.conv1.weight.requires_grad
    assert slim.fc1.weight.requires_grad
    assert slim.training
    shared = {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in slim.parameters()}
    assert not shared
    assert set(slim.state_dict()) == set(model.state_dict())
    again = copy.deepcopy(slim)
    assert secateur.record(again) is secateur.record(slim)
    torch.manual_seed(0)
    slim(example).sum().backward()
    assert slim.fc1.weight.grad.shape == slim.fc1.weight.shape


def test_a_plan_that_keeps_everything_gives_an_equal_copy() -> None:
    model, example = network("Transformer")
    groups = secateur.groups(model, example)
    slim = secateur.slim(groups, random_plan(groups, share=1.0))
    assert torch.equal(slim(example), model(example))
    assert slim is not model
    assert secateur.record(slim).kept == {}


@pytest.mark.parametrize("kind", ["elements", "blocks"])
def test_masks_of_weights_keep_the_shapes(kind: str) -> None:
    model, example = network("Flatten")
    redraw(model)
    groups = secateur.elements(model) if kind == "elements" else secateur.blocks(model, 2, 4)
    plan = secateur.plan(groups, budget="30% weights")
    slim = secateur.slim(groups, plan)
    entry = secateur.record(slim)
    assert entry.kind == kind
    assert entry.masks.keys() >= {"conv1.weight", "fc1.weight"}
    zeros = kept = 0
    for name, parameter in slim.named_parameters():
        assert parameter.shape == model.get_parameter(name).shape
        mask = entry.masks.get(name)
        if mask is not None:
            assert torch.equal(parameter, torch.where(mask, model.get_parameter(name), torch.zeros(())))
            zeros, kept = zeros + int((~mask).sum()), kept + int(mask.sum())
    assert zeros > kept
    assert slim(example).shape == model(example).shape


def test_factors_rescale_what_reads_a_kept_unit() -> None:
    model, example = network("Flatten")
    redraw(model)
    groups = secateur.groups(model, example)
    keep = random_keep(groups)
    factors = {"fc1": torch.linspace(0.5, 2, len(keep["fc1"]))}
    plain_plan, scaled_plan = Plan.of(groups, keep), Plan.of(groups, keep, factors=factors)
    slim, scaled = secateur.slim(groups, plain_plan), secateur.slim(groups, scaled_plan)
    assert torch.allclose(scaled.fc2.weight, slim.fc2.weight * factors["fc1"])
    assert torch.equal(scaled.fc1.weight, slim.fc1.weight)
    assert torch.equal(scaled.conv2.weight, slim.conv2.weight)


def test_an_optimizer_of_another_model_is_left_as_it_is() -> None:
    model, example = network("Flatten")
    other = nn.Linear(3, 3)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    groups = secateur.groups(model, example)
    secateur.slim(groups, random_plan(groups), optimizer=optimizer)
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == {id(p) for p in other.parameters()}


def test_another_batch_size_and_length_run() -> None:
    model = redraw(Transformer())
    groups = secateur.groups(model, torch.randn(2, 5, 7))
    plan = random_plan(groups)
    slim = secateur.slim(groups, plan)
    inputs = ((torch.randn(7, 5, 7),), {})
    groups.inputs = inputs
    assert difference(outputs(slim, inputs), masked_outputs(groups, plan.keep)) < 1e-9


def test_a_slim_model_scripts_into_an_exported_program() -> None:
    model, example = network("Residual")
    groups = secateur.groups(redraw(model), example)
    slim = secateur.slim(groups, random_plan(groups)).eval()
    exported = torch.export.export(slim, (example,)).module()
    assert torch.allclose(exported(example), slim(example), atol=1e-6)
