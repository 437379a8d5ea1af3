"""sample_gradients: the same for any optimizer, in four modes."""

from __future__ import annotations

import copy
import math
from functools import partial

import pytest
import torch
from optim_support import give_gradients, parameters, run, same
from torch import nn
from torch.optim import LBFGS, SGD, Adam, AdamW, RMSprop

from secateur.errors import InputError
from secateur.graph.elements import elements
from secateur.hashing import Draw
from secateur.masks import Masks
from secateur.optim import StochGradAdam, sample_gradients, sampled
from secateur.optim.places import bases, place, whole_mask

OPTIMIZERS = {
    "sgd": partial(SGD, lr=0.1),
    "momentum": partial(SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": partial(Adam, lr=0.01, amsgrad=True),
    "adamw": partial(AdamW, lr=0.01, weight_decay=0.1),
    "rmsprop": partial(RMSprop, lr=0.01, momentum=0.5),
}
MODES = ("gradient", "update", "lazy", "aligned")
every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
every_mode = pytest.mark.parametrize("mode", MODES)


def with_sampling(make, **options):
    return lambda params: sample_gradients(make(params), **options).optimizer


def mask_of(optimizer, parameter, step: int, granularity="element") -> torch.Tensor:
    group = optimizer.param_groups[0]
    where = place(parameter, bases(optimizer.param_groups)[parameter], granularity)
    mask = whole_mask(where, Draw(group["seed"], step, group["sampling_rate"]), torch.device("cpu"))
    return mask.expand(parameter.shape)


@every_optimizer
@every_mode
def test_at_rate_one_nothing_changes(make, mode) -> None:
    assert same(run(with_sampling(make, rate=1.0, mode=mode), 4)[0], run(make, 4)[0])


@every_optimizer
@every_mode
def test_a_resumed_run_is_the_run(make, mode) -> None:
    sampling = with_sampling(make, rate=0.5, mode=mode, seed=4)
    straight, _ = run(sampling, 8)
    half, optimizer = run(sampling, 4)
    again = [p.detach().clone().requires_grad_() for p in half]
    resumed = sampling(again)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for step in range(4, 8):
        give_gradients(again, step)
        resumed.step()
    assert same(again, straight)


def test_the_gradient_mode_of_adam_is_stoch_grad_adam() -> None:
    ours, _ = run(partial(StochGradAdam, sampling_rate=0.4, seed=6), 6)
    assert same(run(with_sampling(Adam, rate=0.4, seed=6), 6)[0], ours)
    assert same(run(partial(sampled, Adam, sampling_rate=0.4, sampling={"seed": 6}), 6)[0], ours)
    assert same(run(with_sampling(Adam, rate=0.4, seed=6, in_place=True), 6)[0], ours)


def test_rescaling_does_nothing_to_adam_and_makes_sgd_unbiased() -> None:
    tiny = partial(Adam, eps=1e-30)
    plain, rescaled = (run(with_sampling(tiny, rate=0.5, rescale=r), 6)[0] for r in (False, True))
    for a, b in zip(plain, rescaled, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    p = torch.zeros(50_000, requires_grad=True)
    optimizer = sample_gradients(SGD([p], lr=1.0), 0.25, rescale=True).optimizer
    for _ in range(10):
        p.grad = torch.ones_like(p)
        optimizer.step()
    assert p.detach().mean().item() == pytest.approx(-10, rel=0.01)


@every_optimizer
@pytest.mark.parametrize("granularity", ["element", "row", "tensor"])
def test_update_mode_keeps_dense_moments_and_moves_what_is_sampled(make, granularity) -> None:
    params, optimizer = run(with_sampling(make, rate=0.5, mode="update", granularity=granularity), 1)
    dense, plain = run(make, 1)
    for p, d, start in zip(params, dense, parameters(), strict=True):
        mask = mask_of(optimizer, p, 1, granularity)
        torch.testing.assert_close(p, torch.where(mask, start + 2 * (d - start), start))
        kept = {name: v for name, v in plain.state[d].items() if isinstance(v, torch.Tensor)}
        assert all(torch.equal(optimizer.state[p][name], value) for name, value in kept.items())


def test_closed_form_of_update_masking() -> None:
    """Mean update r, mean square (r^2 (1 - kappa) + kappa) / p."""
    p = torch.zeros(20_000, requires_grad=True)
    optimizer = sample_gradients(Adam([p], lr=1.0, betas=(0.9, 0.9995), fused=True), 0.5, mode="update").optimizer
    r, kappa = 0.3, 1 / 19
    means, squares = [], []
    for step in range(450):
        p.grad = torch.randn(20_000).mul_(math.sqrt(1 - r * r)).add_(r)
        before = p.detach().clone()
        optimizer.step()
        if step >= 300:
            means.append((before - p.detach()).mean().item())
            squares.append((before - p.detach()).square().mean().item())
    assert sum(means) / len(means) == pytest.approx(r, rel=0.02)
    assert sum(squares) / len(squares) == pytest.approx((r * r * (1 - kappa) + kappa) / 0.5, rel=0.02)


@every_optimizer
def test_lazy_mode_skips_what_is_not_sampled(make) -> None:
    params, optimizer = run(with_sampling(make, rate=0.5, mode="lazy"), 2)
    before = [p.detach().clone() for p in params]
    states = [{n: v.clone() for n, v in optimizer.state[p].items() if isinstance(v, torch.Tensor)} for p in params]
    give_gradients(params, 2)
    optimizer.step()
    for p, start, state in zip(params, before, states, strict=True):
        out = ~mask_of(optimizer, p, 3)
        assert torch.equal(p[out], start[out])
        for name, value in state.items():
            if value.shape == p.shape and name != "step":
                assert torch.equal(optimizer.state[p][name][out], value[out])


@pytest.mark.parametrize("make", [OPTIMIZERS["adam"], OPTIMIZERS["adamw"], partial(Adam, maximize=True)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_lazy_adam_is_adam_on_the_gradients_each_entry_saw(make, dtype) -> None:
    """Entry by entry: a fresh Adam that is given only the sampled steps."""
    p = parameters([(6,)], dtype)[0]
    optimizer = sample_gradients(make([p]), 0.5, mode="lazy").optimizer
    alone = [p.detach()[i : i + 1].clone().requires_grad_() for i in range(6)]
    each = [make([one]) for one in alone]
    for step in range(8):
        give_gradients([p], step)
        optimizer.step()
        for i, bit in enumerate(mask_of(optimizer, p, step + 1).tolist()):
            if bit:
                alone[i].grad = p.grad[i : i + 1].clone()
                each[i].step()
    torch.testing.assert_close(p.detach(), torch.cat(alone).detach(), rtol=1e-12, atol=1e-14)


def test_aligned_mode_weighs_moves_by_momentum_and_gradient() -> None:
    """One tensor, two steps, by hand: alignment sigmoid(cos(m, g) / 2), smoothed by 0.9."""
    p = torch.zeros(2, requires_grad=True)
    optimizer = SGD([p], lr=1.0)
    sampler = sample_gradients(optimizer, 1 - 1e-9, mode="aligned")  # all are sampled, but the mode is at work
    p.grad = torch.tensor([1.0, 0.0])
    optimizer.step()
    first = 1 / (1 + math.exp(-0.5))
    assert p[0].item() == pytest.approx(-first, rel=1e-6)
    p.grad = torch.tensor([0.0, 1.0])
    optimizer.step()
    m = torch.tensor([0.09, 0.1])
    smoothed = 0.9 * first + 0.1 / (1 + math.exp(-(0.1 / m.norm().item()) / 2))
    assert p[1].item() == pytest.approx(-smoothed, rel=1e-5)
    assert sampler.granularity == "tensor"


def test_aligned_mode_moves_whole_tensors_or_rows() -> None:
    for granularity, shape in (("tensor", (40,)), ("row", (40, 6))):
        p = torch.zeros(shape, requires_grad=True)
        optimizer = sample_gradients(Adam([p]), 0.5, mode="aligned", granularity=granularity).optimizer
        moved = []
        for step in range(12):
            before = p.detach().clone()
            give_gradients([p], step)
            optimizer.step()
            moved.append(p.detach() != before)
        whole = [m.flatten(1) if granularity == "row" else m.view(1, -1) for m in moved]
        assert all(bool((m.all(1) | ~m.any(1)).all()) for m in whole)
        assert {bool(m.any(1)[0]) for m in whole} == {True, False}


@every_mode
def test_gradients_are_put_back(mode) -> None:
    params = parameters()
    optimizer = sample_gradients(SGD(params, lr=0.1), 0.5, mode=mode).optimizer
    give_gradients(params, 0)
    gradients = [p.grad for p in params]
    before = [g.clone() for g in gradients]
    optimizer.step()
    assert all(p.grad is g for p, g in zip(params, gradients, strict=True))
    assert same(gradients, before)


@pytest.mark.parametrize("mode", ["gradient", "lazy"])
def test_what_is_not_finite_does_not_leak(mode) -> None:
    for make in (partial(SGD, lr=0.1, momentum=0.9), Adam):
        p = torch.zeros(3000, requires_grad=True)
        optimizer = sample_gradients(make([p]), 0.5, mode=mode).optimizer
        mask = mask_of(optimizer, p, 1)
        p.grad = torch.where(mask, 1.0, math.nan)
        optimizer.step()
        assert torch.equal(p != 0, mask)
        assert bool(torch.isfinite(p).all())


def test_a_closure_that_is_called_often_has_one_mask_a_step() -> None:
    p = torch.full((400,), 3.0, requires_grad=True)
    optimizer = sample_gradients(LBFGS([p], max_iter=4), 0.5).optimizer
    seen = []

    def closure():
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        seen.append(p.detach() != 3)
        return loss

    for call in ({"closure": closure}, closure):
        optimizer.step(**call) if isinstance(call, dict) else optimizer.step(call)
    assert len(seen) > 3
    assert torch.equal(seen[1], mask_of(optimizer, p, 1))
    assert bool((p.grad != 0).all())  # what the closure left is dense


def test_excluded_groups_and_groups_that_join() -> None:
    a, b, c = parameters([(1000,), (1000,), (1000,)])
    optimizer = SGD([{"params": [a]}, {"params": [b]}], lr=0.1)
    sample_gradients(optimizer, 0.5, exclude=[1])
    optimizer.add_param_group({"params": [c]})
    starts = [p.detach().clone() for p in (a, b, c)]
    give_gradients([a, b, c], 0)
    optimizer.step()
    shares = [float((p != start).float().mean()) for p, start in zip((a, b, c), starts, strict=True)]
    assert shares == pytest.approx([0.5, 1.0, 0.5], abs=0.06)
    give_gradients([a, b, c], 1)
    optimizer.param_groups[0]["params"].clear()  # a group that lost its parameters
    optimizer.step()


def test_removing_it_leaves_the_optimizer_as_it_was() -> None:
    params = parameters()
    optimizer = SGD(params, lr=0.1)
    before = copy.deepcopy(optimizer.state_dict())
    with sample_gradients(optimizer, 0.5):
        pass
    assert optimizer.state_dict() == before
    give_gradients(params, 0)
    optimizer.step()
    other, _ = run(partial(SGD, lr=0.1), 1)
    assert same(params, other)


@every_mode
def test_what_a_pruning_removed_stays_zero(mode) -> None:
    for first in ("masks", "sampling"):
        model = nn.Linear(30, 20)
        optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(2):
            model(torch.randn(8, 30)).square().mean().backward()
            optimizer.step()
        groups = elements(model)
        masks = Masks(groups)
        masks.remove({"weight": torch.arange(0, 600, 3)})
        attach = [partial(masks.hold, optimizer), partial(sample_gradients, optimizer, 0.5, mode=mode)]
        for act in attach if first == "masks" else reversed(attach):
            act()
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.randn(8, 30)).square().mean().backward()
            optimizer.step()
            assert not bool(model.weight.flatten()[::3].any())
        assert bool(model.weight.flatten()[1::3].all())


class TestBadInput:
    @pytest.mark.parametrize("rate", [0, -1, 1.01, math.nan, "all"])
    def test_rates(self, rate) -> None:
        with pytest.raises(InputError, match="'sampling_rate'"):
            sample_gradients(SGD(parameters(), lr=0.1), rate)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"mode": "dropout"}, "'mode'.*'lazy'"),
            ({"granularity": "channel"}, "'granularity'"),
            ({"seed": "x"}, "'seed'"),
            ({"exclude": [3]}, "'exclude'.*0 to 0"),
            ({"mode": "update", "in_place": True}, "'in_place'"),
        ],
        ids=str,
    )
    def test_options(self, options, words) -> None:
        optimizer = SGD(parameters(), lr=0.1)
        with pytest.raises(InputError, match=words):
            sample_gradients(optimizer, 0.5, **options)
        assert "sampling_rate" not in optimizer.param_groups[0]

    @every_mode
    def test_groups_that_join_and_parameters_without_gradients(self, mode) -> None:
        """A group that joins in mid-run is sampled too, and shifts no mask of the others."""
        a, extra, idle = parameters([(400,), (300,), (5,)])
        b = a.detach().clone().requires_grad_()
        alone = sample_gradients(SGD([a], lr=0.1), 0.5, mode=mode).optimizer
        joined = sample_gradients(SGD([b], lr=0.1), 0.5, mode=mode).optimizer
        start, still = extra.detach().clone(), idle.detach().clone()
        for step in range(8):
            if step == 2:
                joined.add_param_group({"params": [extra, idle]})
            give_gradients([a], step)
            give_gradients([b, extra], step)
            alone.step()
            joined.step()
        assert torch.equal(a, b)
        assert joined.param_groups[1]["sampling_rate"] == 0.5
        assert bool((extra != start).any())
        assert torch.equal(idle, still)

    def test_a_state_of_other_groups_is_refused(self) -> None:
        first, second = parameters([(4,), (3,)])
        for make in (StochGradAdam, with_sampling(Adam, rate=0.5)):
            two = make([{"params": [first]}, {"params": [second]}])
            with pytest.raises(ValueError, match="group"):
                make([first]).load_state_dict(two.state_dict())

    def test_twice(self) -> None:
        optimizer = SGD(parameters(), lr=0.1)
        sample_gradients(optimizer, 0.5)
        for taken in (optimizer, StochGradAdam(parameters())):
            with pytest.raises(InputError, match="samples its gradients already"):
                sample_gradients(taken, 0.5)

    def test_sparse_gradients(self) -> None:
        table = nn.Embedding(10, 3, sparse=True)
        optimizer = sample_gradients(SGD(table.parameters(), lr=1.0), 0.5).optimizer
        table(torch.tensor([1])).sum().backward()
        with pytest.raises(InputError, match="dense gradients"):
            optimizer.step()
