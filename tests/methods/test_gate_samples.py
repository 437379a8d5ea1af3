"""Samples of gates by their kernels and by torch's operators: the same numbers, gradients and steps of Adam."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam

import secateur
from secateur.hashing import Draw
from secateur.methods import Constant, Gumbel, native, sampling
from secateur.methods.sampling import adam_step, draw_all, hard_sample, logistic_noise
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


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("threads", [1, 2])
def test_kernels_draw_what_torch_draws(threads, monkeypatch):
    given, draw, before = logits(70_003, 30, 1, 700), Draw(1 << 40, 7, 1.0), torch.get_num_threads()
    torch.set_num_threads(threads)
    by_kernel = draw_all(given, draw, 3.0)
    torch.set_num_threads(before)
    eager(monkeypatch)
    for one, other in zip(by_kernel, draw_all(given, draw, 3.0), strict=True):
        assert torch.equal(one.sample, other.sample)
        torch.testing.assert_close(one.slope, other.slope, rtol=1e-4, atol=1e-7)
        assert one.opened == other.opened == one.sample.sum()


def test_samples_of_groups_are_those_of_all_gates_in_a_row(monkeypatch):
    eager(monkeypatch)
    given, draw = logits(50, 7), Draw(2, 3, 1.0)
    noise = logistic_noise(torch.arange(57, dtype=torch.int32), draw)
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
                assert adam_step(adam, given)
        steps[way] = [*given, *(tensor for state in adam.state.values() for tensor in state.values())]
        if way == "kernel":
            before = [d.detach().clone() for d in given]
            given[1].grad[7] = torch.nan
            assert not adam_step(adam, given)
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
