"""Laws of every method that prunes while training, with every removal policy."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from method_nets import METHODS, PLAIN, Attending, Residual, batches, found, trained
from torch import nn
from torch.optim import SGD, AdamW

import secateur
from secateur.criteria import magnitude
from secateur.errors import BudgetError, InputError
from secateur.graph.elements import blocks, elements
from secateur.masks import masked
from secateur.methods import Iterative
from secateur.removal import Adaptive, Decay, Immediate, Multiplicative, Rectify
from secateur.training import Moments, State, fit

LOOSE = Rectify(rate=-0.5, length=0.0, after=2, memory=0.5)
REMOVALS = {
    "its own": lambda: None,
    "immediate": Immediate,
    "decay": lambda: Decay(6),
    "rectified": lambda: Decay(6, LOOSE),
    "multiplicative": lambda: Multiplicative(6),
    "adaptive": lambda: Adaptive(8, LOOSE),
}


@pytest.mark.parametrize("removal", REMOVALS)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_ends_within_the_budget_in_a_proven_slim_model(name, removal):
    groups = found()
    method = METHODS[name](groups=groups, budget="50% macs", removal=REMOVALS[removal](), planning={"round_to": 4})
    history = trained(method)
    plan = method.plan
    assert plan.reached.macs <= 0.5 * plan.dense.macs
    assert all(count % 4 == 0 for count in plan.counts.values())
    assert secateur.record(history.model).proof.holds
    x = torch.randn(3, 1, 5, 5)
    torch.testing.assert_close(history.model.eval()(x), groups.model.eval()(x))
    for name, kept in plan.keep.items():
        gone = [u for u in range(plan.units[name]) if u not in kept.tolist()]
        for m in groups[name].members:
            if not m.name.endswith("running_var"):
                assert not m.reduce(groups.tensor(m.name).detach().abs())[gone].any(), m.name


@pytest.mark.parametrize("name", METHODS)
def test_what_happened_is_told(name):
    method = METHODS[name](groups=found(), budget="50% macs", removal=Decay(6, LOOSE), planning={"round_to": 1})
    trained(method)
    events, plan = method.story.events, method.plan
    for group, kept in plan.keep.items():
        rows = method.story.over_time(group)
        assert all(leaving >= 0 for _, leaving, _, _ in rows)
        leaving, gone = (rows[-1][1], rows[-1][3]) if rows else (0, 0)
        assert leaving == 0
        assert gone == plan.units[group] - len(kept)
    assert [e.step for e in events] == sorted(e.step for e in events)
    assert max(e.step for e in events if e.what == "gone") <= method.last
    assert not any(e.step > method.solve_at + 1 for e in events if e.what == "released")
    released = [(e.group, unit) for e in events if e.what == "released" for unit in e.units]
    assert bool(released) == (name != "gumbel")  # gates are decided once, for good
    assert {(group, unit) for group, unit, *_ in method.story.fought_for()} == set(released)
    for group, unit, times, kept, stayed in method.story.fought_for():
        assert times == released.count((group, unit)) <= LOOSE.releases
        assert 0 < kept < 1.5
        assert stayed == (unit in plan.keep[group].tolist())


@pytest.mark.parametrize("name", METHODS)
def test_one_step_of_decay_is_immediate_removal(name):
    one, other = (
        trained(METHODS[name](groups=found(), removal=removal)).model.state_dict()
        for removal in (Decay(1), Immediate())
    )
    assert all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("name", METHODS)
def test_a_run_broken_off_in_mid_decay_ends_with_the_same_bits(name, optimizer, tmp_path):
    kinds = {"sgd": PLAIN["optimizer"], "adamw": partial(AdamW, lr=0.01)}

    def method():
        return METHODS[name](groups=found(), removal=Decay(7, LOOSE), planning={"round_to": 1})

    class Stop(Exception):
        pass

    def stop(row):
        if row.epoch == 2:
            raise Stop

    whole = method()
    expected = trained(whole, optimizer=kinds[optimizer])
    with pytest.raises(Stop):
        trained(method(), optimizer=kinds[optimizer], checkpoint=tmp_path, on_epoch=stop)
    resumed = method()
    history = trained(resumed, optimizer=kinds[optimizer], checkpoint=tmp_path)
    assert resumed.story.events == whole.story.events
    assert len({e.step for e in whole.story.events if e.step > 16}) > 1
    one, other = history.model.state_dict(), expected.model.state_dict()
    assert all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.parametrize("name", METHODS)
def test_a_loop_of_ones_own_does_the_same_as_fit(name):
    first, second = (METHODS[name](groups=found(), removal=Decay(4)) for _ in range(2))
    by_fit = trained(first, epochs=4, schedule="constant", channels_last=False, validate=False).model
    state = State(second.groups.model, epochs=4, steps_per_epoch=8, moments=Moments([second]))
    added = state.moments.setup(state)
    weights = {"params": state.model.parameters()}
    state.optimizer = SGD([weights, *added], lr=0.05, momentum=0.9, weight_decay=1e-3, fused=True)  # as fit makes it
    while state.epoch < state.epochs:
        state.begin_epoch()
        for batch in batches():
            state.begin_step(batch)
            state.backward(state.objective()[0])
            state.moments("before_step", state)
            state.optimizer_step()
            state.step, state.position = state.step + 1, state.position + 1
            state.moments("after_step", state)
        state.end_epoch()
        state.moments("epoch_end", state)
    state.moments("finish", state)
    assert state.model.state_dict().keys() == by_fit.state_dict().keys()
    for key, value in state.model.state_dict().items():
        assert torch.equal(value, by_fit.state_dict()[key]), key


@pytest.mark.parametrize("name", ["magnitude", "gate_decorator"])
def test_the_average_of_the_weights_is_cut_along(name):
    method = METHODS[name](groups=found(), removal=Decay(5))
    history = trained(method, ema=0.5)
    shapes = {key: value.shape for key, value in history.model.state_dict().items()}
    assert {key: value.shape for key, value in history.ema.items()} == shapes
    for key, value in history.model.state_dict().items():
        if value.is_floating_point():  # after the fine-tuning's small steps the average is near
            torch.testing.assert_close(history.ema[key], value, atol=0.2, rtol=0.2)


def test_half_precision_changes_nothing_of_the_law():
    method = Iterative(groups=found(), removal=Decay(5, LOOSE), planning={"round_to": 1})
    history = trained(method, precision="bf16")
    assert method.plan.reached.macs <= 0.5 * method.plan.dense.macs
    assert secateur.record(history.model).proof.holds


@pytest.mark.parametrize("kind", [elements, partial(blocks, r=4, c=1)], ids=["weights", "blocks"])
def test_single_weights_and_blocks_fade_under_the_same_budget(kind):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        groups = kind(Residual())
    method = Iterative(groups=groups, budget="20% weights", rounds=2, removal=Decay(5, LOOSE))
    history = trained(method)
    dense = sum(p.numel() for p in groups.model.parameters())
    assert sum(int(p.count_nonzero()) for p in history.model.parameters()) <= 0.2 * dense


def test_heads_fade():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        groups = secateur.groups(Attending(), torch.zeros(1, 1, 5, 5))
    heads = [g.name for g in groups if g.units == 4 and g.multiple > 1]
    assert heads

    def of_heads(found):  # everything else stays
        scores = magnitude(found)
        return {name: scores[name] if name in heads else torch.full_like(scores[name], torch.inf) for name in scores}

    method = Iterative(groups=groups, budget="80% macs", rounds=1, removal=Decay(5), criterion=of_heads)
    history = trained(method)
    assert method.plan.counts[heads[0]] < 4
    assert secateur.record(history.model).proof.holds


class Normed(nn.Module):
    """A width that passes a layer norm, and one that does not."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(25, 16), nn.LayerNorm(16)
        self.up, self.down, self.head = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 3)

    def forward(self, x):
        x = self.embed(x.flatten(1))
        return self.head(x + self.down(self.up(self.norm(x)).relu()))


def test_groups_under_kept_statistics_stay_whole():
    groups = secateur.groups(Normed(), torch.zeros(1, 1, 5, 5))
    assert {g.proof for g in groups} == {"exact", "kept statistics"}
    method = Iterative(groups=groups, budget="70% macs", rounds=1, planning={"round_to": 1})
    trained(method)
    for g in groups:
        assert (method.plan.counts[g.name] == g.units) == (g.proof != "exact")


def test_two_methods_on_parts_of_one_model():
    groups = found()
    first, second = (
        Iterative(groups=secateur.groups(groups.model, torch.zeros(1, 1, 5, 5)), removal=Immediate()) for _ in range(2)
    )
    with pytest.raises(InputError, match=r"Two methods must not prune the same parameters. Iterative and Iterative"):
        fit(groups.model, batches(), epochs=2, methods=[first, second], **PLAIN)
    shared = Decay(3)
    pair = [Iterative(groups=found(), removal=shared) for _ in range(2)]
    pair[1].groups.model = pair[0].groups.model
    with pytest.raises(InputError, match=r"'removal' of Iterative must be its own"):
        fit(pair[0].groups.model, batches(), epochs=2, methods=pair, **PLAIN)


def test_bad_input_is_told_before_the_first_step():
    with pytest.raises(InputError, match=r"takes 50 steps and there are 5 rounds; 'start' and 'stop' leave 20 of 40"):
        trained(Iterative(groups=found(), removal=Decay(50)))
    with pytest.raises(InputError, match=r"'groups' of Iterative must be those of the model that is trained"):
        fit(Residual(), batches(), epochs=2, methods=[Iterative(groups=found())], **PLAIN)
    with pytest.raises(BudgetError, match=r"budget '1% macs' cannot be reached"):
        trained(Iterative(groups=found(), budget="1% macs"))
    with pytest.raises(BudgetError, match=r"is above the .* of the dense model"):
        trained(Iterative(groups=found(), budget="900M macs"))
    net = nn.Sequential(nn.Flatten(), nn.Linear(25, 3))
    with pytest.raises(InputError, match=r"has no group that can be pruned"):
        trained(Iterative(groups=secateur.groups(net, torch.zeros(1, 1, 5, 5))))
    for field, value in (("start", 1.0), ("stop", 0.05), ("rounds", 0), ("criterion", "weight")):
        with pytest.raises(InputError, match=f"'{field}' parameter of Iterative must be"):
            Iterative(groups=found(), **{field: value})


def test_a_budget_that_is_met_removes_nothing():
    method = Iterative(groups=found(), budget="100% macs", removal=Decay(3))
    history = trained(method, epochs=2)
    assert method.plan.counts == method.plan.units
    assert not method.story.events
    assert history.model.conv1.weight.shape[0] == 16


def test_masked_is_what_the_plan_says():
    method = Iterative(groups=found(), removal=Decay(4))
    trained(method)
    expected = masked(method.groups, method.plan).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in method.groups.model.state_dict().items())
