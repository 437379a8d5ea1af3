"""Decay: a straight line to exactly zero whatever the optimizer does, and releases of what resists."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support import small_groups
from torch import nn
from torch.nn import functional as F

import secateur
from secateur.errors import CheckpointError, InputError
from secateur.graph.elements import blocks, elements
from secateur.masks import Masks, masked
from secateur.removal import Adaptive, Decay, Entries, Immediate, Multiplicative, Rectify
from secateur.removal.rectify import measure

LEAVING = {"conv1": torch.tensor([1, 6]), "conv2": torch.tensor([0, 9, 31])}
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, weight_decay=1e-2),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
}


class Training:
    """Steps of a small network under masks and a removal, on random data."""

    def __init__(self, groups, removal, optimizer="momentum"):
        self.groups, self.removal, self.masks = groups, removal, Masks(groups)
        self.optimizer = OPTIMIZERS[optimizer](groups.model.train().parameters())
        self.generator = torch.Generator().manual_seed(1)

    def step(self):
        x, y = torch.randn(8, 1, 8, 8, generator=self.generator), torch.arange(8)
        self.optimizer.zero_grad()
        F.cross_entropy(self.groups.model(x), y).backward()
        self.masks.before_step()
        self.removal.before_step(self.groups)
        self.optimizer.step()
        return self.masks.advance(self.removal, self.optimizer)


def norms(groups, units=LEAVING, side="producers"):
    entries = Entries(groups, units, side)
    return entries.norms(entries.weights())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_norm_falls_on_a_straight_line_to_exactly_zero(optimizer):
    groups, steps = small_groups(), 7
    run = Training(groups, Decay(steps), optimizer)
    run.step()
    start = norms(groups)
    run.removal.start(groups, LEAVING)
    for n in range(1, steps + 1):
        ended = run.step()
        torch.testing.assert_close(norms(groups), start * (steps - n) / steps, rtol=1e-6, atol=0)
        assert bool(ended) == (n == steps)
    assert ended["conv2"].gone.nonzero().flatten().tolist() == [0, 9, 31]
    for name, units in LEAVING.items():
        for m in groups[name].members:
            if not m.name.endswith("running_var"):
                assert not m.reduce(groups.tensor(m.name).detach().abs())[units].any(), m.name
    run.step()
    assert not norms(groups).any()
    for parameter, state in run.optimizer.state.items():
        if parameter is groups.model.conv1.weight:
            assert not any(v[[1, 6]].any() for v in state.values() if v.dim())


@pytest.mark.parametrize("policy", [Decay, Multiplicative])
def test_one_step_is_immediate_removal(policy):
    runs = [Training(small_groups(), removal) for removal in (policy(1, Rectify(rate=-1, length=0)), Immediate())]
    for run in runs:
        run.removal.start(run.groups, LEAVING)
        run.step()
        run.step()
    one, other = (run.groups.model.state_dict() for run in runs)
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_without_gradients_both_rules_are_the_same_line():
    for policy in (Decay, Multiplicative):
        groups = small_groups()
        start, removal = norms(groups), policy(5)
        removal.start(groups, LEAVING)
        for n in range(1, 6):
            removal.after_step(groups)
            torch.testing.assert_close(norms(groups), start * (5 - n) / 5, rtol=1e-6, atol=0)


def test_multiplicative_leaves_the_norm_that_the_optimizer_made():
    groups = small_groups()
    removal = Multiplicative(4)
    removal.start(groups, {"fc1": torch.tensor([0])})
    groups.model.fc1.weight.data[0] *= 10
    groups.model.fc1.bias.data[0] *= 10
    before = norms(groups, {"fc1": torch.tensor([0])})
    removal.after_step(groups)
    torch.testing.assert_close(norms(groups, {"fc1": torch.tensor([0])}), before * 3 / 4)


def test_a_unit_of_zero_stays_zero():
    groups = small_groups()
    groups.model.fc1.weight.data[2] = 0
    groups.model.fc1.bias.data[2] = 0
    run = Training(groups, Decay(3, Rectify(after=1)))
    run.removal.start(groups, {"fc1": torch.tensor([2])})
    for _ in range(3):
        ended = run.step()
        assert all(p.isfinite().all() for p in groups.model.parameters())
    assert ended["fc1"].gone[2]
    assert not groups.model.fc1.weight[2].any()


@pytest.mark.parametrize("kind", ["elements", "blocks"])
def test_single_weights_and_blocks_decay(kind):
    net = small_groups().model
    groups = elements(net) if kind == "elements" else blocks(net, 4, 2)
    units = {"fc1.weight": torch.tensor([0, 7, 20]), "conv1.weight": torch.tensor([3])}
    expected = masked(
        groups, {n: torch.tensor([u for u in range(groups[n].units) if u not in i]) for n, i in units.items()}
    )
    removal, masks = Decay(4), Masks(groups)
    start = norms(groups, units)
    removal.start(groups, units)
    for n in range(1, 5):
        masks.advance(removal)
        torch.testing.assert_close(norms(groups, units), start * (4 - n) / 4, rtol=1e-6, atol=0)
    assert all(torch.equal(value, expected.state_dict()[name]) for name, value in net.state_dict().items())


def test_units_that_start_later_end_later_and_started_ones_go_on():
    groups = small_groups()
    removal = Decay(4)
    removal.start(groups, {"fc1": torch.tensor([0])})
    removal.after_step(groups)
    removal.start(groups, {"fc1": torch.tensor([0, 5])})
    ended = [removal.after_step(groups) for _ in range(4)]
    assert [e["fc1"].gone.nonzero().flatten().tolist() if e else [] for e in ended] == [[], [], [0], [5]]
    assert not removal.leaving()["fc1"].any()


class Pushed(nn.Module):
    """Ten channels of which one carries the answer: it alone is read."""

    def __init__(self, normed: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 10, 3, padding=1)
        self.norm = nn.BatchNorm2d(10) if normed else nn.Identity()
        self.head = nn.Conv2d(10, 1, 1, bias=False)
        self.head.weight.data.zero_()
        self.head.weight.data[:, 4] = 1
        self.head.requires_grad_(requires_grad=False)

    def forward(self, x):
        return self.head(self.norm(self.conv(x)).relu())


@pytest.mark.parametrize("variant", ["both", "cosine", "by step", "product"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("normed", [True, False])
def test_a_necessary_channel_is_released_and_useless_ones_are_not(normed, optimizer, variant):
    torch.manual_seed(0)
    net = Pushed(normed)
    groups = secateur.groups(net.eval(), torch.randn(1, 3, 8, 8))
    (name,) = [g.name for g in groups]
    run_x = torch.randn(16, 3, 8, 8)
    with torch.no_grad():
        target = net.train()(run_x)
    moving = OPTIMIZERS[optimizer]([p for p in net.parameters() if p.requires_grad])
    rates = {"both": 0.1, "cosine": 0.1, "by step": 0.02, "product": 0.1}
    removal = Decay(40, Rectify(variant=variant, rate=rates[variant], length=0.5))
    masks = Masks(groups)
    removal.start(groups, {name: torch.tensor([1, 4, 7])})
    kept = None
    for _ in range(40):
        moving.zero_grad()
        F.mse_loss(net(run_x), target).backward()
        masks.before_step()
        removal.before_step(groups)
        moving.step()
        ended = masks.advance(removal, moving)
        if ended:
            kept = ended[name]
    assert kept.gone.nonzero().flatten().tolist() == [1, 7]
    assert kept.released.nonzero().flatten().tolist() == [4]
    assert 5 <= int(kept.steps[4]) < 40
    assert 0 < float(kept.kept[4]) < 1


OUTWARD = Rectify(rate=-1.0, length=0.0, after=2, memory=0.0)
"""Releases everything that moves at all, after two steps."""


def test_a_released_unit_keeps_what_it_has_and_rests():
    groups = small_groups()
    run = Training(groups, Decay(6, OUTWARD))
    unit = {"fc1": torch.tensor([3])}
    run.removal.start(groups, unit)
    start = norms(groups, unit)
    for _ in range(2):
        run.step()
    shrunk = norms(groups, unit)
    torch.testing.assert_close(shrunk, start * 4 / 6, rtol=1e-6, atol=0)
    ended = [run.step() for _ in range(4)][-1]
    assert ended["fc1"].released.nonzero().flatten().tolist() == [3]
    assert int(ended["fc1"].steps[3]) == 2
    assert abs(float(ended["fc1"].kept[3]) - 4 / 6) < 0.1  # one step of the optimizer beside it
    assert shrunk / 2 < norms(groups, unit) < start
    assert run.masks.counts["fc1"] == 24
    assert run.removal.resting()["fc1"].nonzero().flatten().tolist() == [3]
    run.removal.start(groups, {"fc1": torch.tensor([8])})  # in its place
    assert run.removal.resting()["fc1"][3]
    run.removal.round_over()
    assert not run.removal.resting()["fc1"].any()


@pytest.mark.parametrize("policy", [Decay, Multiplicative, Adaptive])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_from_its_release_on_a_unit_is_what_the_optimizer_makes_of_it(policy, optimizer):
    """Its magnitude in particular: nothing is restored and nothing more is taken."""
    groups = small_groups()
    run = Training(groups, policy(8, OUTWARD), optimizer)
    run.removal.start(groups, LEAVING)
    for _ in range(OUTWARD.after):
        run.step()
    before = Entries(groups, LEAVING).weights()
    made, step = [], run.optimizer.step
    run.optimizer.step = lambda: (step(), made.append(Entries(groups, LEAVING).weights()))
    run.step()
    assert torch.equal(Entries(groups, LEAVING).weights(), made[-1])
    assert not torch.equal(made[-1], before)
    while not (ended := run.step()):
        assert torch.equal(Entries(groups, LEAVING).weights(), made[-1])
    assert ended["conv1"].released.nonzero().flatten().tolist() == [1, 6]


def test_releases_are_bounded_so_that_every_run_ends():
    groups = small_groups()
    run = Training(groups, Decay(4, OUTWARD))
    for flight in range(2):
        run.removal.start(groups, LEAVING)
        ended = [run.step() for _ in range(4)][-1]
        what = "released" if flight == 0 else "gone"
        assert getattr(ended["conv2"], what).nonzero().flatten().tolist() == [0, 9, 31]


@pytest.mark.parametrize(("most", "many"), [(0.19, 1), (0.4, 2), (0.7, 4)])
def test_a_share_of_those_that_start_is_released_which_resist_most(most, many):
    groups = small_groups()
    run = Training(groups, Decay(6, replace(OUTWARD, rate=-0.999, most=most, until=0.5, after=3)))
    run.removal.start(groups, LEAVING)
    everyone = Entries(groups, {name: torch.arange(groups[name].units) for name in LEAVING})
    seen, step = [], run.optimizer.step
    run.optimizer.step = lambda: (seen.append(everyone.weights()), step(), seen.append(everyone.weights()))
    ended = [run.step() for _ in range(6)][-1]
    before, after = seen[4:6]  # the third step, the one at which units can be released
    moved = everyone.norms(after - before)
    rate, length = measure(everyone.norms(before), everyone.norms(after), moved, moved, everyone.sizes)
    scores = torch.split(rate * length, everyone.sizes)
    resisting = sorted(
        ((float(scores[i][unit]), name, int(unit)) for i, name in enumerate(LEAVING) for unit in LEAVING[name]),
        reverse=True,
    )
    released = {(name, unit) for name in LEAVING for unit in ended[name].released.nonzero().flatten().tolist()}
    assert released == {(name, unit) for _, name, unit in resisting[:many]}
    run.removal.start(groups, {"conv1": torch.tensor([3])})  # a start more, and so room for one more release
    again = [run.step() for _ in range(6)][-1]
    assert again["conv1"].released.nonzero().flatten().tolist() == [3]


def test_nothing_is_released_late_in_its_decay():
    groups = small_groups()
    run = Training(groups, Decay(6, replace(OUTWARD, until=0.5, after=4)))
    run.removal.start(groups, LEAVING)
    ended = [run.step() for _ in range(6)][-1]
    assert not any(departure.released.any() for departure in ended.values())
    assert ended["conv2"].gone.nonzero().flatten().tolist() == [0, 9, 31]


def test_a_certain_start_ends_releases_and_tells_those_there_were():
    groups = small_groups()
    run = Training(groups, Decay(6, OUTWARD))
    run.removal.start(groups, LEAVING)
    for _ in range(3):
        run.step()
    run.removal.start(groups, {"fc1": torch.tensor([2])}, certain=True)
    assert not run.removal.leaving()["conv1"].any()
    first = run.step()
    assert first["conv1"].released.nonzero().flatten().tolist() == [1, 6]
    last = [run.step() for _ in range(5)][-1]
    assert last["fc1"].gone.nonzero().flatten().tolist() == [2]


@pytest.mark.parametrize(
    "policy", [Decay(6, OUTWARD), Decay(6, Rectify()), Multiplicative(6)], ids=["out", "both", "x"]
)
@pytest.mark.parametrize("at", [1, 3])
def test_a_decay_resumed_in_the_middle_is_bit_equal(policy, at):
    def made():
        return Training(small_groups(), type(policy)(policy.steps, policy.rectify))

    whole, first, second = made(), made(), made()
    whole.removal.start(whole.groups, LEAVING)
    first.removal.start(first.groups, LEAVING)
    for _ in range(8):
        whole.step()
    for _ in range(at):
        first.step()
    second.masks.load_state_dict(first.masks.state_dict())
    second.removal.load_state_dict(second.groups, first.removal.state_dict())
    second.groups.model.load_state_dict(first.groups.model.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.generator.set_state(first.generator.get_state())
    for _ in range(8 - at):
        second.step()
    one, other = whole.groups.model.state_dict(), second.groups.model.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_the_state_of_another_model_is_refused():
    removal = Decay(3)
    removal.start(small_groups(), LEAVING)
    with pytest.raises(CheckpointError, match=r"made for a model of 72 units. This one has 64"):
        Decay(3).load_state_dict(small_groups(a=8), removal.state_dict())


def test_bad_parameters_are_named():
    for steps in (0, 2.5, -1):
        with pytest.raises(InputError, match=r"'steps' parameter of Decay must be an integer of at least 1. Got"):
            Decay(steps)
    with pytest.raises(InputError, match="'side' parameter of Multiplicative must be 'producers' or 'both'"):
        Multiplicative(3, side="consumers")
    with pytest.raises(InputError, match="units of group 'conv1' are numbered 0 to 15"):
        Decay(3).start(small_groups(), {"conv1": torch.tensor([16])})
