"""Samples of gates by their kernels and by torch's operators: the same numbers, gradients and steps of Adam."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam

import secateur
from secateur.errors import TrainingError
from secateur.hashing import Draw, hashed
from secateur.methods import Constant, Gumbel, native, sampling
from secateur.methods.noise import logistic_noise
from secateur.methods.sampling import Marks, adam_step, draw_all, hard_sample
from secateur.training import Moments, State


@pytest.fixture
def kernels():
    if not native.there():
        pytest.skip("there is no compiler")


def eager(monkeypatch):
    monkeypatch.setattr("secateur.methods.sampling.native_fits", lambda logits: False)
    monkeypatch.setattr("secateur.methods.gates.native_fits", lambda logits: False)


def logits(*sizes):
    generator = torch.Generator().manual_seed(0)
    return [3 * torch.randn(size, generator=generator) for size in sizes]


def test_noise_is_logistic_and_a_function_of_seed_step_and_index():
    indices = torch.arange(200_000, dtype=torch.int32)
    noise = logistic_noise(indices, Draw(3, 5, 1.0))
    assert torch.equal(noise[1000:], logistic_noise(indices[1000:], Draw(3, 5, 1.0)))
    for other in (Draw(3, 6, 1.0), Draw(4, 5, 1.0)):
        again = logistic_noise(indices, other)
        assert abs(float(torch.corrcoef(torch.stack([noise, again]))[0, 1])) < 0.01
    uniform = noise.double().sigmoid().sort().values
    distance = (uniform - torch.linspace(0, 1, len(uniform), dtype=torch.float64)).abs().max()
    assert float(distance) < 1.63 / len(uniform) ** 0.5  # Kolmogorov and Smirnov, 1 %
    assert 11 < float(noise.abs().max()) < 16.7


@pytest.mark.parametrize("seed", [0, 1 << 40])
def test_noise_is_the_logarithm_of_the_odds_to_the_last_bits(seed):
    indices, draw = torch.arange(200_000, dtype=torch.int32), Draw(seed, 11, 1.0)
    odds = (2 * (hashed(indices, *draw.keys()) >> 8) + 1).double() / 2**24
    torch.testing.assert_close(logistic_noise(indices, draw).double(), odds.logit(), rtol=3e-7, atol=1e-7)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("weighed", [True, False])
@pytest.mark.parametrize("temperature", [0.1, 3.0])
@pytest.mark.parametrize("threads", [1, 2])
def test_kernels_draw_what_torch_draws(threads, temperature, weighed, monkeypatch):
    given, draw, before = logits(70_003, 30, 1, 700), Draw(1 << 40, 7, 1.0), torch.get_num_threads()
    weights = [torch.randn(d.shape) for d in given] if weighed else None
    marks = Marks(draw, temperature)
    torch.set_num_threads(threads)
    passed = marks.let_through(weights, given)
    torch.set_num_threads(before)
    again, by_kernel = marks.let_through(weights, given), marks.drawn(given)  # from what the first has found
    eager(monkeypatch)
    for number, drawn in enumerate(draw_all(given, draw, temperature)):
        expected = drawn.sample if weights is None else weights[number] * drawn.sample
        assert torch.equal(passed[number], expected)
        assert torch.equal(again[number], expected)
        assert torch.equal(by_kernel[number].sample, drawn.sample)
        torch.testing.assert_close(by_kernel[number].slope, drawn.slope, rtol=1e-5, atol=1e-30)
        assert by_kernel[number].opened == drawn.opened == drawn.sample.sum()


@pytest.mark.parametrize("small", [1, 60, 1000])
def test_samples_of_groups_are_those_of_all_gates_in_a_row(small, monkeypatch):
    eager(monkeypatch)
    monkeypatch.setattr(sampling, "SMALL", small)
    given, draw = logits(50, 7, 90), Draw(2, 3, 1.0)
    noise = logistic_noise(torch.arange(147, dtype=torch.int32), draw)
    whole = hard_sample(torch.cat(given), noise, 2.0)
    parts = draw_all(given, draw, 2.0)
    assert torch.equal(torch.cat([part.sample for part in parts]), whole.sample)
    assert torch.equal(torch.cat([part.slope for part in parts]), whole.slope)


def wide():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(200, 90), nn.ReLU(), nn.Linear(90, 3))


def started(**kw):
    """A method on its first step, and its training."""
    method = Gumbel(groups=secateur.elements(wide()), budget="50% weights", price=Constant(1e-3), keep=0.6, **kw)
    state = State(method.groups.model, epochs=2, steps_per_epoch=9, moments=Moments([method]))
    state.optimizer = SGD([{"params": state.model.parameters()}, *state.moments.setup(state)], lr=0.05)
    x = torch.randn(20, 200, generator=torch.Generator().manual_seed(1))
    state.begin_step((x, torch.arange(20) % 3))
    return method, state


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("numbers", [1, 2])
def test_a_gated_step_has_the_gradients_of_torch(numbers, monkeypatch):
    found = []
    for way in ("kernels", "torch"):
        if way == "torch":
            eager(monkeypatch)
        method, state = started(logits=numbers)
        state.backward(state.objective()[0])
        of_logits = [p.grad for p in method.gates.logits.values()]
        found.append([state.loss, *of_logits, *(p.grad for p in state.model.parameters())])
        assert method.gates._native == (way == "kernels")
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("way", ["kernels", "torch"])
def test_a_graph_of_gates_serves_several_losses(way, monkeypatch):
    if way == "torch":
        eager(monkeypatch)
    method, state = started()
    state.backward(state.objective()[0])
    once = {n: p.grad.clone() for n, p in method.gates.logits.items()}
    first, second = state.objective()[0], state.objective()[0]  # the price is asked for twice before a backward
    first.backward()
    second.backward()
    for name, parameter in method.gates.logits.items():
        torch.testing.assert_close(parameter.grad, 3 * once[name])
        parameter.grad = None
    method.penalty(state).backward()  # and once more when the network's graph is gone
    for name, parameter in method.gates.logits.items():
        torch.testing.assert_close(parameter.grad, 1e-3 * method.gates._present(name).slope)
    copied = copy.deepcopy(state.model)
    torch.testing.assert_close(copied(state.batch[0]), state.model(state.batch[0]))


@pytest.mark.parametrize("way", ["kernels", "torch"])
def test_weights_that_move_within_a_step_meet_the_same_gates(way, monkeypatch):
    if way == "torch":
        eager(monkeypatch)
    method, state = started()
    first, layer = state.model[0].weight, state.model[0]
    opened = (first != 0).clone()
    with torch.no_grad():
        layer.parametrizations.weight.original.mul_(2)
        method.gates.set("0.weight", -method.gates.difference("0.weight"))
        assert torch.equal(layer.weight, 2 * first)
        assert not layer.weight.requires_grad
    second = layer.weight
    assert torch.equal(second, 2 * first)
    assert method.gates.counts()[0] == opened.sum()
    assert torch.equal(method.gates.sample("0.weight").bool(), opened.flatten())
    second.sum().backward()
    assert torch.equal(layer.parametrizations.weight.original.grad, opened.float())


@pytest.mark.usefixtures("kernels")
def test_a_weight_that_moved_between_its_run_and_its_gradient_is_told():
    method, state = started()
    loss = state.objective()[0]
    with torch.no_grad():
        state.model[0].parametrizations.weight.original.mul_(2)
    with pytest.raises(TrainingError, match="A weight was changed after its network has run"):
        loss.backward()
    assert method.gates.kernels


@pytest.mark.usefixtures("kernels")
def test_the_kernel_moves_logits_as_torch_does():
    steps = {}
    for way in ("kernel", "torch"):
        given = [nn.Parameter(d) for d in logits(20_000, 33)]
        adam, generator = Adam(given, lr=0.05, eps=1e-12), torch.Generator().manual_seed(2)
        for _ in range(5):
            for d in given:
                d.grad = 1e-6 * torch.randn(d.shape, generator=generator)
            if way == "torch":
                adam.step()
            else:
                assert adam_step(adam, given, kernels=True)
        steps[way] = [*given, *(tensor for state in adam.state.values() for tensor in state.values())]
        if way == "kernel":
            before = [d.detach().clone() for d in given]
            given[1].grad[7] = torch.nan
            assert not adam_step(adam, given, kernels=True)
            assert all(torch.equal(d, old) for d, old in zip(given, before, strict=True))
    for one, other in zip(steps["kernel"], steps["torch"], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_without_a_compiler_torch_samples(monkeypatch):
    def missing():
        raise OSError("no compiler")

    monkeypatch.setattr(native, "_library", missing)
    native.there.cache_clear()
    try:
        assert not native.there()
        assert not sampling.native_fits(logits(20_000))
    finally:
        native.there.cache_clear()
