"""The rules of each paper by hand."""

from __future__ import annotations

import pytest
import torch
from method_nets import METHODS, PLAIN, Residual, batches, found, trained
from torch import nn

import secateur
from secateur.errors import InputError
from secateur.methods import DHSPG, HESSO, GateDecorator, GroupSparse
from secateur.methods.dhspg import penalties, redundancy
from secateur.methods.gate_decorator import Gates
from secateur.methods.group_sparse import strengths
from secateur.methods.hesso import saliency
from secateur.removal import Decay
from secateur.training import State, fit


def test_hesso_sums_five_normalised_criteria():
    torch.manual_seed(0)
    x, g = torch.randn(4, 3).double(), torch.randn(4, 3).double()
    score = saliency(x.norm(dim=1), torch.full((4,), 3), (x * g).sum(1), g.norm(dim=1), [0.2] * 5)
    pushes = (x * g).sum(1)
    parts = [x.norm(dim=1), x.norm(dim=1) / 3, torch.cosine_similarity(x, g) + 1, pushes.abs(), pushes**2 / 2]
    torch.testing.assert_close(score, sum(0.2 * part / part.norm() for part in parts))


def test_cycles_are_taken_back_and_judge_what_fades():
    after = {}

    class Watch:
        def after_step(self, state):
            after[state.step] = state.model.conv3.weight.detach().clone()

    method = METHODS["cric"](groups=found(), removal=Decay(4), planning={"round_to": 1})
    fit(method.groups.model, batches(), epochs=5, methods=[method, Watch()], **PLAIN)
    chosen = method.story.events[0].step
    assert method._done >= 1
    assert chosen == method.first + method._done * method.sampling
    kept = method.plan.keep[next(g.name for g in method.groups if g.units == 32)]
    assert torch.equal(after[chosen][kept], after[method.first][kept])
    assert not torch.equal(after[chosen - 1][kept], after[method.first][kept])
    assert method._count == 1 + method._done * method.sampling


def test_a_unit_whose_trial_costs_much_is_kept():
    groups = found()
    method = METHODS["cric"](groups=groups, sensitivity=1.0)
    state = State(groups.model, epochs=5, steps_per_epoch=8)
    state.optimizer = torch.optim.SGD(groups.model.parameters(), lr=0.1)
    method.setup(state)
    state.begin_step(batches(1)[0])
    before = {name: value.clone() for name, value in groups.model.state_dict().items()}
    method._sum = torch.zeros(48, dtype=torch.float64)
    losses = method._tried(state, {g.name: torch.arange(g.units).double() for g in groups})
    assert all(torch.equal(value, before[name]) for name, value in groups.model.state_dict().items())
    torch.testing.assert_close(losses.norm(), torch.ones((), dtype=torch.float64))
    assert [len(part.unique()) for part in losses.split([16, 32])] == [3, 3]
    masked_net = secateur.masked(groups, {groups[1].name: torch.arange(8, 32)}).train()
    x, y = batches(1)[0]
    ratio = nn.functional.cross_entropy(masked_net(x), y) / nn.functional.cross_entropy(groups.model(x), y)
    lowest, next_lowest = losses[16], losses[16 + 8]
    masked_more = secateur.masked(groups, {groups[1].name: torch.arange(16, 32)}).train()
    more = nn.functional.cross_entropy(masked_more(x), y) / nn.functional.cross_entropy(groups.model(x), y)
    torch.testing.assert_close(lowest / next_lowest, (ratio / more).double(), rtol=1e-5, atol=0)


def test_redundancy_is_cosine_and_smallness():
    x = torch.tensor([[3.0, 4.0], [0.1, 0.0]]).double()
    g = torch.tensor([[-3.0, -4.0], [1.0, 0.0]]).double()
    found_scores = redundancy(x.norm(dim=1), torch.tensor([2, 2]), (x * g).sum(1), g.norm(dim=1))
    cosine, small = torch.tensor([-1.0, 1.0]).double(), 1 / (torch.tensor([2.5, 0.05]).double() + 1e-6)
    torch.testing.assert_close(found_scores, cosine / 2 / cosine.norm() + small / 2 / small.norm())


def test_a_penalty_outweighs_growth_and_still_descends():
    sizes, lengths = torch.tensor([1.0, 1.0, 2.0, 1.0]), torch.tensor([1.0, 1.0, 1.0, 1.0])
    pushes = torch.tensor([0.5, -0.2, -1e-5, -0.999])
    lam = penalties(sizes, pushes, lengths, least=0.1, amplify=2.0, most=100.0)
    low, high = 0.999, 1 / 0.999
    torch.testing.assert_close(lam, torch.tensor([0.1, 0.4, 0.1, (low + high) / 2]))
    grows = pushes < 0
    assert (lam[grows] >= -pushes[grows] / sizes[grows]).all()
    assert (lam[grows] <= -(lengths**2 * sizes / pushes)[grows]).all()


def test_a_redundant_unit_that_crosses_leaves_and_one_that_does_not_waits():
    method = METHODS["dhspg"](groups=found(), planning={"round_to": 1})
    trained(method)
    early = [e for e in method.story.events if e.what == "gone" and e.step < method.last]
    assert early
    slow = DHSPG(groups=found(), strength=0.0, start=0.1, stop=0.7, planning={"round_to": 1})
    trained(slow)
    assert {e.step for e in slow.story.events if e.what == "gone"} == {slow.last}


def test_small_units_decay_fastest():
    assert strengths(torch.tensor([0.0, 1.0, 2.0])).tolist() == [16, 4, 1]
    assert strengths(torch.tensor([3.0, 3.0])).tolist() == [1, 1]


def test_group_sparse_adds_its_gradient_to_rows_columns_and_norms():
    groups = found()
    method = GroupSparse(groups=groups, reg=0.1)
    state = State(groups.model, epochs=10, steps_per_epoch=10)
    method.setup(state)
    net = groups.model
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    method.look(state)
    parts = [
        net.conv3.weight.detach().square().sum((1, 2, 3)),
        net.norm3.weight.detach().square(),
        net.head.weight.detach().square().sum(0),
    ]
    gamma = strengths(torch.stack(parts).mean(0).sqrt())
    torch.testing.assert_close(net.head.weight.grad, 0.1 * gamma * net.head.weight.detach())
    torch.testing.assert_close(net.norm3.weight.grad, 0.1 * gamma * net.norm3.weight.detach())
    assert not any(p.grad.any() for n, p in net.named_parameters() if n.endswith("bias"))


def test_gates_change_nothing_and_melt_back_exactly():
    groups = found()
    net = groups.model.double().train()
    for norm in (net.norm1, net.norm2, net.norm3):
        nn.init.uniform_(norm.weight, 0.2, 2)
        nn.init.uniform_(norm.bias, -1, 1)
    x = batches(1)[0][0].double()
    names = list(dict(net.named_parameters()))
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    expected = net(x)
    gates = Gates(groups)
    assert [len(g.members) for g in gates.groups] == [2, 1]  # the addition ties the gates of two norms
    torch.testing.assert_close(net(x), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(net.norm2.weight, torch.ones(16).double())
    assert not net.norm2.weight.requires_grad
    with torch.no_grad():
        net.norm2.gate.mul_(0.5)
        net.norm3.gate[4] = 0
    gated = net.eval()(x)
    gates.melt()
    torch.testing.assert_close(net(x), gated, rtol=1e-12, atol=1e-12)
    assert list(dict(net.named_parameters())) == names
    assert all(p.requires_grad for p in net.parameters())
    torch.testing.assert_close(net.norm2.weight.detach(), before["norm2.weight"] / 2)
    torch.testing.assert_close(net.norm1.bias.detach(), before["norm1.bias"])
    assert not net.norm3._forward_hooks


def test_a_gate_of_zero_loses_its_bias_and_no_number_is_lost():
    groups = found()
    groups.model.norm3.weight.data[2] = 0
    groups.model.norm3.bias.data[2] = 0.3
    gates = Gates(groups)
    gates.melt()
    assert groups.model.norm3.weight[2] == 0
    assert all(p.isfinite().all() for p in groups.model.parameters())


def test_convolutions_rest_in_ticks_and_move_in_tocks():
    seen = []

    class Watch:
        def before_step(self, state):
            self.before = state.model.conv1.weight.detach().clone()
            self.lr = state.optimizer.param_groups[0]["lr"]

        def after_step(self, state):
            moved = not torch.equal(self.before, state.model.conv1.weight)
            seen.append((method.in_tick(state.step), moved, self.lr))

    method = GateDecorator(groups=found(), rounds=2, ticks=1, tock=2, removal=Decay(4), stop=0.8)
    fit(
        method.groups.model, batches(), epochs=5, methods=[method, Watch()], progress=False, precision="fp32",
        optimizer=lambda groups: torch.optim.SGD(groups, lr=0.05), schedule="constant",
    )  # fmt: skip
    ticks = [moved for tick, moved, _ in seen if tick]
    assert ticks
    assert not any(ticks)
    assert all(moved for tick, moved, _ in seen if not tick)
    assert {round(lr, 6) for tick, _, lr in seen if tick} == {0.005}
    assert {round(lr, 6) for tick, _, lr in seen if not tick} == {0.05}


def test_what_has_no_gates_cannot_be_gated():
    net = nn.Sequential(nn.Flatten(), nn.Linear(25, 8), nn.ReLU(), nn.Linear(8, 3))
    groups = secateur.groups(net, torch.zeros(1, 1, 5, 5))
    with pytest.raises(InputError, match="needs batch norms with weight and bias"):
        trained(GateDecorator(groups=groups, rounds=1))


def test_parameters_out_of_range_are_named():
    groups = found()
    for kind, field, value in (
        (HESSO, "weights", (1, 1)),
        (DHSPG, "rounds", 2),
        (DHSPG, "half_space", 1.0),
        (GroupSparse, "reg", -1.0),
        (GateDecorator, "ticks", 0),
    ):
        with pytest.raises(InputError, match=f"'{field}' parameter of {kind.__name__} must be"):
            kind(groups=groups, **{field: value})


def test_residual_networks_tie_by_themselves():
    assert [g.units for g in secateur.groups(Residual(), torch.zeros(1, 1, 5, 5))] == [16, 32]
