"""StochGradAdam: Adam itself at rate 1, the paper's rule below it, and nothing lost on the way to a file and back."""

from __future__ import annotations

import copy
import math
import pickle
from functools import partial

import pytest
import torch
from optim_support import SHAPES, give_gradients, parameters, run, same
from torch import nn
from torch.optim import Adam, AdamW

import secateur.optim.stoch_grad_adam as home
from secateur.errors import InputError, SecateurError
from secateur.graph.elements import elements
from secateur.hashing import Draw
from secateur.masks import Masks
from secateur.optim import StochGradAdam, StochGradAdamW
from secateur.optim.places import bases, place, whole_mask

PAIRS = [(StochGradAdam, Adam), (StochGradAdamW, AdamW)]
FORMS = [{}, {"foreach": True}, {"foreach": False}, {"fused": True}]


def expected_mask(optimizer: StochGradAdam, parameter: torch.Tensor, step: int) -> torch.Tensor:
    group = optimizer.param_groups[0]
    where = place(parameter, bases(optimizer.param_groups)[parameter], group["granularity"])
    mask = whole_mask(where, Draw(group["seed"], step, group["sampling_rate"]), torch.device("cpu"))
    return mask.expand(parameter.shape)


def adam_on_given_masks(kind, optimizer, steps: int, **options):
    """torch's own Adam on gradients that were multiplied by the masks beforehand."""
    params = parameters()
    plain = kind(params, **options)
    for step in range(steps):
        give_gradients(params, step)
        for ours, p in zip(optimizer.param_groups[0]["params"], params, strict=True):
            p.grad *= expected_mask(optimizer, ours, step + 1)
        plain.step()
    return params


class TestRateOne:
    @pytest.mark.parametrize(("kind", "plain"), PAIRS)
    @pytest.mark.parametrize("form", FORMS, ids=str)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
    @pytest.mark.parametrize(
        "options",
        [{}, {"amsgrad": True, "weight_decay": 0.1}, {"maximize": True, "betas": (0.8, 0.99)}, {"weight_decay": 0.02}],
        ids=str,
    )
    def test_it_is_torchs_adam_bit_for_bit(self, kind, plain, form, dtype, options) -> None:
        shapes = [shape for shape in SHAPES if 0 not in shape]
        ours, mine = run(partial(kind, sampling_rate=1.0, **form, **options), 4, parameters(shapes, dtype))
        theirs, other = run(partial(plain, **form, **options), 4, parameters(shapes, dtype))
        assert same(ours, theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert all(torch.equal(mine.state[a][name], value) for name, value in other.state[b].items())

    def test_also_with_a_tensor_for_a_learning_rate_and_complex_parameters(self) -> None:
        lr = {"lr": torch.tensor(0.01)}
        ours, _ = run(partial(StochGradAdam, sampling_rate=1.0, **lr), 3, parameters(dtype=torch.complex64))
        theirs, _ = run(partial(Adam, **lr), 3, parameters(dtype=torch.complex64))
        assert same(ours, theirs)

    def test_also_of_decoupled_adam(self) -> None:
        options = {"weight_decay": 0.1, "decoupled_weight_decay": True}
        assert same(
            run(partial(StochGradAdam, sampling_rate=1.0, **options), 3)[0], run(partial(Adam, **options), 3)[0]
        )


class TestTheRule:
    def test_a_trace_by_hand(self, monkeypatch) -> None:
        """Mask (1, 0, 1): moments decay on the step that is not sampled, and momentum moves the weight."""
        bits = iter([True, False, True])
        monkeypatch.setattr(home, "sample", lambda g, *_, **__: [g[0] if next(bits) else torch.zeros_like(g[0])])
        p = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
        optimizer = StochGradAdam([p], lr=0.1, betas=(0.9, 0.999), eps=0.0, sampling_rate=0.5)
        gradients, trace = (2.0, 5.0, -1.0), []
        for gradient in gradients:
            p.grad = torch.tensor([gradient], dtype=torch.float64)
            optimizer.step()
            trace.append((p.item(), optimizer.state[p]["exp_avg"].item(), optimizer.state[p]["exp_avg_sq"].item()))
        first = 1.0 - 0.1
        m, v = 0.2 * 0.9, 0.004 * 0.999
        second = first - 0.1 * (m / 0.19) / math.sqrt(v / (1 - 0.999**2))
        m3, v3 = m * 0.9 - 0.1, v * 0.999 + 0.001
        third = second - 0.1 * (m3 / (1 - 0.9**3)) / math.sqrt(v3 / (1 - 0.999**3))
        expected = [(first, 0.2, 0.004), (second, m, v), (third, m3, v3)]
        for found, wanted in zip(trace, expected, strict=True):
            assert found == pytest.approx(wanted, rel=1e-12)

    @pytest.mark.parametrize(("kind", "plain"), PAIRS)
    @pytest.mark.parametrize("form", FORMS, ids=str)
    @pytest.mark.parametrize("granularity", ["element", "row", "tensor"])
    def test_it_is_adam_on_masked_gradients(self, kind, plain, form, granularity) -> None:
        options = {"amsgrad": True, "weight_decay": 0.1, "lr": 0.01, **form}
        ours, optimizer = run(partial(kind, sampling_rate=0.5, granularity=granularity, **options), 5)
        assert same(ours, adam_on_given_masks(plain, optimizer, 5, **options))

    def test_complex_entries_have_one_bit_for_both_parts(self) -> None:
        p = torch.ones(1000, dtype=torch.complex64, requires_grad=True)
        optimizer = StochGradAdam([p], sampling_rate=0.5)
        p.grad = torch.full_like(p, 1 + 1j)
        optimizer.step()
        m = torch.view_as_real(optimizer.state[p]["exp_avg"])
        assert torch.equal(m[:, 0], m[:, 1])
        assert 400 < int(m[:, 0].count_nonzero()) < 600

    def test_gradients_are_left_alone(self) -> None:
        params = parameters()
        optimizer = StochGradAdam(params, sampling_rate=0.3)
        give_gradients(params, 0)
        before = [p.grad.clone() for p in params]
        optimizer.step()
        assert same([p.grad for p in params], before)

    def test_but_may_be_overwritten_to_save_memory(self) -> None:
        ours, optimizer = run(partial(StochGradAdam, sampling_rate=0.3, in_place=True), 4)
        assert same(ours, run(partial(StochGradAdam, sampling_rate=0.3), 4)[0])
        for p in ours:
            assert torch.equal(p.grad != 0, expected_mask(optimizer, p, 4))

    def test_what_is_not_finite_does_not_leak_from_entries_that_are_not_sampled(self) -> None:
        p = torch.zeros(4000, requires_grad=True)
        optimizer = StochGradAdam([p], sampling_rate=0.5)
        mask = expected_mask(optimizer, p, 1)
        p.grad = torch.where(mask, 1.0, torch.tensor([math.nan, math.inf]).repeat(2000))
        optimizer.step()
        assert bool(torch.isfinite(p).all())
        assert torch.equal(p != 0, mask)

    @pytest.mark.parametrize("form", FORMS, ids=str)
    def test_memory_layout_does_not_matter(self, form) -> None:
        """Channels-last weights, and gradients laid out otherwise than their weights."""
        results = []
        for weights, gradients in [(0, 0), (1, 1), (0, 1), (1, 0)]:
            formats = (torch.contiguous_format, torch.channels_last)
            p = parameters([(6, 4, 3, 3)])[0].detach().contiguous(memory_format=formats[weights]).requires_grad_()
            optimizer = StochGradAdam([p], sampling_rate=0.6, **form)
            for step in range(3):
                give_gradients([p], step)
                p.grad = p.grad.contiguous(memory_format=formats[gradients])
                optimizer.step()
            results.append(p.detach())
        assert all(torch.equal(results[0], other) for other in results[1:])

    def test_closed_form_of_drift_and_noise(self) -> None:
        """Mean update sqrt(s) r, mean square s r^2 (1 - kappa) + kappa, kappa = (1 - b1) / (1 + b1)."""
        kappa = 1 / 19
        for s, r in [(0.8, 0.7), (0.5, 1.0), (0.5, 0.0), (0.3, 0.5)]:
            mean, deviation = r, math.sqrt(1 - r * r)
            p = torch.zeros(10_000, requires_grad=True)
            optimizer = StochGradAdam([p], lr=1.0, betas=(0.9, 0.9995), sampling_rate=s, fused=True, eps=1e-12)
            generator = torch.Generator().manual_seed(1)
            total, squared, count = 0.0, 0.0, 0
            before = p.detach().clone()
            for step in range(500):
                p.grad = torch.randn(10_000, generator=generator).mul_(deviation).add_(mean)
                optimizer.step()
                if step >= 300 and step % 5 == 0:
                    before.copy_(p.detach())
                elif step >= 300 and step % 5 == 1:
                    move = before - p.detach()
                    total, squared, count = total + move.mean().item(), squared + move.square().mean().item(), count + 1
            assert total / count == pytest.approx(math.sqrt(s) * r, rel=0.02, abs=0.005)
            assert squared / count == pytest.approx(s * r * r * (1 - kappa) + kappa, rel=0.02)

    def test_no_regret_on_quadratics_against_adam_with_a_smaller_rate(self) -> None:
        """0.5 a x^2 in 50 dimensions: as good as Adam with lr sqrt(s), and both converge under a falling rate."""
        scales = torch.linspace(0.1, 10, 50)
        losses = []
        for make in (partial(StochGradAdam, sampling_rate=0.5), partial(Adam)):
            p = torch.ones(50, requires_grad=True)
            optimizer = make([p], lr=0.05 * (1 if make.func is StochGradAdam else math.sqrt(0.5)))
            scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=400)
            for _ in range(400):
                optimizer.zero_grad()
                (0.5 * scales * p.square()).sum().backward()
                optimizer.step()
                scheduler.step()
            losses.append((0.5 * scales * p.detach().square()).sum().item())
        assert losses[0] < 1e-3
        assert losses[1] < 1e-3

    def test_rosenbrocks_valley_is_walked_to_its_end(self) -> None:
        """(1 - x)^2 + 100 (y - x^2)^2 from (-1.2, 1): the minimum is at (1, 1)."""
        p = torch.tensor([-1.2, 1.0], dtype=torch.float64, requires_grad=True)
        optimizer = StochGradAdam([p], lr=0.05, sampling_rate=0.8)
        for _ in range(1500):
            x, y = p.tolist()
            p.grad = torch.tensor([2 * (x - 1) - 400 * x * (y - x * x), 200 * (y - x * x)], dtype=torch.float64)
            optimizer.step()
        assert p.tolist() == pytest.approx([1.0, 1.0], abs=0.05)

    def test_the_rate_moves_with_a_schedule_and_one_leaves_a_group_out(self) -> None:
        a, b = parameters([(2000,), (2000,)])
        optimizer = StochGradAdam([{"params": [a]}, {"params": [b], "sampling_rate": 1.0}], sampling_rate=0.25)
        give_gradients([a, b], 0)
        optimizer.step()
        moments = [optimizer.state[p]["exp_avg"] for p in (a, b)]
        assert 0.2 < float((moments[0] != 0).float().mean()) < 0.3
        assert bool((moments[1] != 0).all())
        optimizer.param_groups[0]["sampling_rate"] = 1.0
        optimizer.step()
        assert bool((optimizer.state[a]["exp_avg"] != 0).all())


class TestDecayOfBeta1:
    def test_constant_gradients_give_an_unbiased_first_moment(self) -> None:
        """The update of Adam under a constant gradient is lr at every step, whatever beta1 does."""
        p = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        optimizer = StochGradAdam([p], lr=0.1, beta1_decay=0.9, sampling_rate=1.0, eps=0.0)
        for step in range(1, 8):
            p.grad = torch.full_like(p, 4.0)
            optimizer.step()
            assert p.detach() == pytest.approx(torch.full_like(p, -0.1 * step).detach(), rel=1e-12)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
    def test_without_decay_its_rule_is_adams(self, monkeypatch, dtype) -> None:
        """The rule that decay needs, run with next to none, against torch's."""
        options = {"amsgrad": True, "weight_decay": 0.1, "maximize": True}
        for kind, plain in PAIRS:
            ours, _ = run(
                partial(kind, sampling_rate=1.0, beta1_decay=1 - 1e-15, **options), 5, parameters(dtype=dtype)
            )
            theirs, _ = run(partial(plain, **options), 5, parameters(dtype=dtype))
            for a, b in zip(ours, theirs, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


class TestStored:
    @pytest.mark.parametrize("form", FORMS, ids=str)
    def test_a_resumed_run_is_the_run(self, form) -> None:
        make = partial(StochGradAdamW, sampling_rate=0.7, seed=3, **form)
        straight, _ = run(make, 20)
        half, optimizer = run(make, 10)
        saved = pickle.loads(pickle.dumps(optimizer.state_dict()))
        again = [p.detach().clone().requires_grad_() for p in half]
        resumed = make(again)
        resumed.load_state_dict(saved)
        torch.rand(7)  # the global generator has no say
        for step in range(10, 20):
            give_gradients(again, step)
            resumed.step()
        assert same(again, straight)

    def test_copies_go_on_alike(self) -> None:
        _, optimizer = run(partial(StochGradAdam, sampling_rate=0.5), 3)
        for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
            params = other.param_groups[0]["params"]
            original = copy.deepcopy(optimizer)
            for one in (original, other):
                give_gradients(one.param_groups[0]["params"], 3)
                one.step()
            assert same(params, original.param_groups[0]["params"])

    def test_its_state_loads_into_torchs_adamw_and_back(self) -> None:
        params, ours = run(partial(StochGradAdamW, sampling_rate=0.5, seed=9), 3)
        theirs = AdamW(params)
        theirs.load_state_dict(ours.state_dict())
        give_gradients(params, 3)
        theirs.step()
        back = StochGradAdamW(params, sampling_rate=0.4, seed=5)
        back.load_state_dict(theirs.state_dict())
        assert back.param_groups[0]["sampling_rate"] == 0.5  # carried along
        give_gradients(params, 4)
        back.step()
        assert [float(s["step"]) for s in back.state.values()] == [5.0] * len(params)

    def test_a_plain_state_leaves_the_sampling_as_it_is(self) -> None:
        params, plain = run(AdamW, 2)
        ours = StochGradAdamW(params, sampling_rate=0.4, seed=5)
        ours.load_state_dict(plain.state_dict())
        group = ours.param_groups[0]
        assert (group["sampling_rate"], group["seed"], group["sampling_step"]) == (0.4, 5, 0)

    def test_a_group_that_joins_shifts_no_mask(self) -> None:
        a, extra = parameters([(500,), (300,)])
        b = a.detach().clone().requires_grad_()
        alone, joined = StochGradAdam([a], sampling_rate=0.5), StochGradAdam([b], sampling_rate=0.5)
        for step in range(6):
            if step == 3:
                joined.add_param_group({"params": [extra]})
            give_gradients([a], step)
            give_gradients([b, extra], step)
            alone.step()
            joined.step()
        assert torch.equal(a, b)
        assert joined.param_groups[1]["sampling_rate"] == 0.5
        assert not torch.equal(extra, parameters([(500,), (300,)])[1])


class TestParametersOfAllKinds:
    def test_without_gradients_frozen_and_tied(self) -> None:
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
        model[2].weight = model[0].weight
        model[1].weight.requires_grad_(False)
        frozen = model[1].weight.clone()
        optimizer = StochGradAdam(model.parameters(), lr=0.1, sampling_rate=0.5)
        model(torch.ones(2, 4)).sum().backward()
        model[2].bias.grad = None
        before = model[2].bias.detach().clone()
        tied = model[0].weight.detach().clone()
        optimizer.step()
        assert torch.equal(model[1].weight, frozen)
        assert torch.equal(model[2].bias, before)
        assert not torch.equal(model[0].weight, tied)
        StochGradAdam(model.parameters(), sampling_rate=0.5).step()  # gradients or none
        optimizer.zero_grad()
        optimizer.step()

    def test_parameters_that_are_views_with_gaps(self) -> None:
        storage = torch.randn(6, 10)
        p, q = storage[:, ::2].detach().requires_grad_(), storage[:, ::2].contiguous().requires_grad_()
        for one in (p, q):
            give_gradients([one], 1)
            StochGradAdam([one], sampling_rate=0.5).step()
        assert torch.equal(p, q)

    def test_a_closure_is_called_once_and_its_gradients_are_sampled(self) -> None:
        p = torch.zeros(1000, requires_grad=True)
        optimizer = StochGradAdam([p], sampling_rate=0.5)
        calls = []

        def closure():
            calls.append(1)
            optimizer.zero_grad()
            loss = p.sum()
            loss.backward()
            return loss

        assert optimizer.step(closure).item() == 0.0
        assert len(calls) == 1
        assert 400 < int((p != 0).sum()) < 600

    def test_hooks_run_once_a_step(self) -> None:
        params = parameters()
        Adam(params)  # torch patches the step of a class when the first of its kind is made
        optimizer = StochGradAdam(params)
        calls = []
        optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
        optimizer.register_step_post_hook(lambda *_: calls.append("after"))
        give_gradients(params, 0)
        optimizer.step()
        assert calls == ["before", "after"]

    def test_a_step_with_infinite_gradients_is_skipped_by_the_scaler(self) -> None:
        for options in ({"fused": True}, {}, {"fused": True, "beta1_decay": 0.9}):
            p = torch.ones(100, requires_grad=True)
            optimizer = StochGradAdam([p], sampling_rate=0.5, **options)
            scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
            for gradient, moves in ((math.inf, False), (1.0, True)):
                scaler.scale(p.sum()).backward()
                p.grad.fill_(gradient)
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
                assert bool((p == 1).all()) is not moves


def test_what_a_pruning_removed_stays_zero_under_momentum() -> None:
    model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 5))
    optimizer = StochGradAdamW(model.parameters(), lr=0.05, sampling_rate=0.5)

    def train(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.randn(8, 20)).square().mean().backward()
            optimizer.step()

    train(3)  # momentum is there before the weights leave
    groups = elements(model)
    masks = Masks(groups)
    masks.remove({g.name: torch.arange(0, g.units, 2) for g in groups})
    zero = {name: ~mask for name, mask in masks.tensor_masks().items()}
    with masks.hold(optimizer):
        for _ in range(4):
            train(1)
            for name, gone in zero.items():
                p = model.get_parameter(name)
                assert not bool(p[gone].any())
                assert not bool(optimizer.state[p]["exp_avg"][gone].any())
                assert bool(p[~gone].all())


class TestBadInput:
    @pytest.mark.parametrize("rate", [0, 0.0, -0.1, 1.1, math.nan, math.inf, "half", True, None])
    def test_rates(self, rate) -> None:
        with pytest.raises(InputError, match=r"'sampling_rate'.*\(0, 1\]"):
            StochGradAdam(parameters(), sampling_rate=rate)
        params = parameters()
        with pytest.raises(InputError, match="'sampling_rate'"):
            StochGradAdam([{"params": params, "sampling_rate": rate}])
        optimizer = StochGradAdam(params)
        optimizer.param_groups[0]["sampling_rate"] = rate
        give_gradients(params, 0)
        with pytest.raises(InputError, match="'sampling_rate'"):
            optimizer.step()

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"beta1_decay": 0.0}, "'beta1_decay'"),
            ({"beta1_decay": 1.5}, "'beta1_decay'"),
            ({"beta1_decay": math.nan}, "'beta1_decay'"),
            ({"seed": 1.5}, "'seed'"),
            ({"granularity": "filter"}, "'granularity'.*'row'"),
            ({"compiled": True}, "'compiled'.*'step'"),
            ({"differentiable": True}, "differentiated"),
            ({"capturable": True, "compiled": "step"}, "'capturable'"),
        ],
        ids=str,
    )
    def test_options(self, options, words) -> None:
        for kind in (StochGradAdam, StochGradAdamW):
            with pytest.raises(SecateurError, match=words):
                kind(parameters(), **options)

    def test_sparse_gradients(self) -> None:
        table = nn.Embedding(10, 3, sparse=True)
        optimizer = StochGradAdam(table.parameters())
        table(torch.tensor([1, 2])).sum().backward()
        before = table.weight.detach().clone()
        with pytest.raises(InputError, match=r"dense gradients.*sparse=False"):
            optimizer.step()
        assert torch.equal(table.weight, before)
        assert not optimizer.state
