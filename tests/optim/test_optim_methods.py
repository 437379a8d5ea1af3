"""The methods for fit: each rule by hand, and each in a training that resumes."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.optim import SGD

from secateur.errors import InputError
from secateur.optim import (
    SAM,
    VAR,
    CrAM,
    Factorised,
    Hoyer,
    PNormDecay,
    Powerprop,
    StochGradAdam,
    StochGradAdamW,
    effective_number,
    sampled,
)
from secateur.optim.cram import compress
from secateur.training import Moments, State, fit
from secateur.training.optimisers import build_optimizer

METHODS = {
    "sam": partial(SAM, rho=0.1),
    "asam": partial(SAM, rho=0.5, adaptive=True),
    "cram": partial(CrAM, rho=0.1),
    "var": partial(VAR, strength=1e-4),
    "hoyer": partial(Hoyer, strength=1e-3),
    "hoyer-rows": partial(Hoyer, strength=1e-3, rows=True),
    "p-norm": partial(PNormDecay, strength=0.01, p=0.8),
    "powerprop": partial(Powerprop, alpha=2.0),
    "factorised": partial(Factorised, factors=3, strength=1e-3),
}
every_method = pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)


class Net(nn.Module):
    """Convolution, batch norm, dropout, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.25)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.drop(self.norm(self.conv(x)).relu().mean((2, 3))))


def data(count: int = 4):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(8, 1, 5, 5, generator=generator), torch.randint(3, (8,), generator=generator))
        for _ in range(count)
    ]


def net() -> Net:
    torch.manual_seed(0)
    return Net()


QUIET = {"progress": False, "precision": "fp32", "optimizer": partial(SGD, lr=0.05, momentum=0.9)}


def quadratic(values: list[float], methods=(), lr: float = 0.1) -> State:
    """A state at half the square of one weight matrix times (1, 4), about to step, with its gradients."""

    class Bowl(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([values]))

        def forward(self, x):
            return (self.weight.square() * x).sum() / 2

    state = State(
        Bowl(), epochs=1, steps_per_epoch=1, moments=Moments([*methods, _Quiet()]), loss_function=lambda out, _: out
    )
    state.optimizer = SGD(state.model.parameters(), lr=lr)
    state.begin_epoch()
    state.begin_step((torch.tensor([[1.0, 4.0]]), torch.zeros(1)))
    loss, _ = state.objective()
    loss.backward()
    return state


class _Quiet:
    def epoch_end(self, state) -> None:
        """There, so that a closure may be asked for."""


@every_method
def test_a_training_ends_with_plain_finite_weights_and_resumes(make, tmp_path: Path) -> None:
    straight = net()
    fit(straight, data(), epochs=3, methods=[make()], **QUIET)
    assert {name for name, _ in straight.named_parameters()} == {name for name, _ in net().named_parameters()}
    assert all(bool(torch.isfinite(p).all()) for p in straight.parameters())
    assert not any(parametrize.is_parametrized(module) for module in straight.modules())

    class Stop(Exception):
        pass

    def stop(row) -> None:
        if row.epoch == 2:
            raise Stop

    with pytest.raises(Stop):
        fit(net(), data(), epochs=3, methods=[make()], checkpoint=tmp_path, on_epoch=stop, **QUIET)
    resumed = net()
    fit(resumed, data(), epochs=3, methods=[make()], checkpoint=tmp_path, **QUIET)
    for (name, a), (_, b) in zip(straight.state_dict().items(), resumed.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


@every_method
def test_it_changes_the_training(make) -> None:
    with_it, without = net(), net()
    fit(with_it, data(), epochs=1, methods=[make()], **QUIET)
    fit(without, data(), epochs=1, **QUIET)
    assert not torch.equal(with_it.conv.weight, without.conv.weight)


@pytest.mark.parametrize(
    "optimizer",
    [partial(StochGradAdam, sampling_rate=0.5, fused=True), partial(sampled, SGD, lr=0.1, sampling_rate=0.5)],
    ids=["adam", "sgd"],
)
def test_sampling_optimizers_train_under_fit_and_resume(optimizer, tmp_path: Path) -> None:
    settings = {**QUIET, "optimizer": optimizer}
    straight, resumed = net(), net()
    fit(straight, data(), epochs=2, channels_last=True, **settings)

    class Stop(Exception):
        pass

    def stop(row) -> None:
        raise Stop

    with pytest.raises(Stop):
        fit(net(), data(), epochs=2, channels_last=True, checkpoint=tmp_path, on_epoch=stop, **settings)
    fit(resumed, data(), epochs=2, channels_last=True, checkpoint=tmp_path, **settings)
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters(), strict=True))


def test_fit_chooses_the_fused_form_of_sampling_optimizers() -> None:
    for kind in (StochGradAdam, StochGradAdamW):
        made = build_optimizer(partial(kind, lr=0.1), [{"params": list(net().parameters())}])
        assert made.param_groups[0]["fused"] is True
        plain = build_optimizer(partial(kind, foreach=True), [{"params": list(net().parameters())}])
        assert not plain.param_groups[0]["fused"]


def test_sam_takes_the_gradient_uphill() -> None:
    state = quadratic([3.0, 1.0])
    SAM(rho=0.5).before_step(state)  # g = (3, 4): w~ = (3.3, 1.4)
    assert torch.equal(state.model.weight.detach(), torch.tensor([[3.0, 1.0]]))
    assert state.model.weight.grad == pytest.approx(torch.tensor([[3.3, 5.6]]), rel=1e-5)


def test_asam_scales_by_the_weights() -> None:
    state = quadratic([3.0, 1.0])
    SAM(rho=0.5, adaptive=True).before_step(state)  # |w| g = (9, 4), w^2 g = (27, 4)
    norm = math.hypot(9, 4)
    moved = torch.tensor([[3 + 0.5 * 27 / norm, 4 * (1 + 0.5 * 4 / norm)]])
    assert state.model.weight.grad == pytest.approx(moved, rel=1e-5)


@pytest.mark.parametrize(("plus", "expected"), [(False, [0.0, 5.6]), (True, [0.3, 9.6])])
def test_cram_takes_the_gradient_of_the_compressed_step(plus: bool, expected: list[float]) -> None:
    state = quadratic([0.3, 1.0])  # g = (0.3, 4), w~ = C(0.33, 1.4) = (0, 1.4)
    CrAM(sparsities=[0.5], rho=0.1, plus=plus).before_step(state)
    assert state.model.weight.grad == pytest.approx(torch.tensor([expected]), rel=1e-5)
    assert torch.equal(state.model.weight.detach(), torch.tensor([[0.3, 1.0]]))


def test_compressing_removes_the_share_over_all_weights_also_with_ties() -> None:
    one, other = torch.ones(4, 5), torch.full((3, 4), 2.0)
    kept = compress([one, other], 0.25)
    assert int((one == 0).sum()) == 8
    assert bool((other == 2).all())
    assert torch.equal(kept[one], one != 0)


def test_var_is_the_inverse_variance_of_sizes() -> None:
    state = quadratic([3.0, -1.0])
    assert VAR(strength=2.0).penalty(state).item() == pytest.approx(2.0, rel=1e-6)  # sizes 3 and 1 have variance 1


def test_hoyer_counts_weights_whatever_their_scale() -> None:
    assert effective_number(torch.full((3, 5), -0.2)).item() == pytest.approx(15)
    assert effective_number(torch.tensor([[0.0, 7.0]])).item() == pytest.approx(1)
    assert effective_number(torch.tensor([[3.0, 4.0], [0.0, 0.0], [5.0, 0.0]]), rows=True).item() == pytest.approx(2)
    assert effective_number(torch.zeros(2, 2)).item() == 0.0
    weight = torch.tensor([[3.0, -1.0]], requires_grad=True)
    effective_number(weight).backward()
    assert weight.grad[0, 0] < 0  # descent lets the large one grow
    assert weight.grad[0, 1] < 0 < -weight[0, 1]  # and takes the small one towards zero
    assert Hoyer(0.5).penalty(quadratic([3.0, -1.0])).item() == pytest.approx(0.5 * 1.6)


@pytest.mark.parametrize("p", [0.5, 1.0, 2.0])
def test_p_norm_decay_divides(p: float) -> None:
    state = quadratic([3.0, 0.0], lr=0.1)
    PNormDecay(0.5, p=p).after_step(state)
    assert state.model.weight[0].tolist() == pytest.approx([3 / (1 + 0.05 * 3 ** (p - 2)), 0.0])


def test_p_norm_decay_makes_exact_zeros() -> None:
    state = quadratic([1.0, 0.01], lr=0.1)
    for _ in range(8):
        PNormDecay(0.5, p=0.5, snap=1e-4).after_step(state)
    assert state.model.weight[0, 1] == 0
    assert state.model.weight[0, 0] > 0.3


def test_powerprop_keeps_the_function_and_lets_the_rich_grow() -> None:
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[4.0, -0.25]]))
    state = State(model, epochs=1, steps_per_epoch=1)
    Powerprop(alpha=2.0).setup(state)
    theta = model.parametrizations.weight.original
    assert theta.tolist() == [[2.0, -0.5]]
    assert model.weight.tolist() == [[4.0, -0.25]]
    model(torch.ones(1, 2)).sum().backward()
    assert theta.grad.tolist() == [[4.0, 1.0]]  # alpha |theta|
    Powerprop().finish(state)
    assert model.weight.tolist() == [[4.0, -0.25]]
    assert isinstance(model.weight, nn.Parameter)


@pytest.mark.parametrize("factors", [2, 3])
def test_factors_keep_the_weights_and_their_decay_bounds_the_sparse_penalty(factors: int) -> None:
    model = nn.Linear(3, 1, bias=False)
    weight = torch.tensor([[4.0, -0.25, 0.0]])
    with torch.no_grad():
        model.weight.copy_(weight)
    method = Factorised(factors=factors, strength=0.5, snap=0.5)
    state = State(model, epochs=1, steps_per_epoch=1)
    method.setup(state)
    torch.testing.assert_close(model.weight, weight)
    assert len(list(model.parameters())) == factors
    assert method.penalty(state).item() > 0.5 * weight.abs().pow(2 / factors).sum().item()
    balanced = weight.abs().pow(1 / factors)
    with torch.no_grad():
        for number, factor in enumerate(model.parameters()):
            factor.copy_(balanced * weight.sign() if number == 0 else balanced)
    assert method.penalty(state).item() == pytest.approx(0.5 * weight.abs().pow(2 / factors).sum().item(), rel=1e-5)
    method.finish(state)
    torch.testing.assert_close(model.weight.detach(), torch.tensor([[4.0, 0.0, 0.0]]))


def test_spred_solves_the_lasso() -> None:
    """min (w - 1)^2 / 2 + (w' - 0.1)^2 / 2 + 0.3 |w|_1 is soft thresholding: (0.7, 0), also from a wrong sign."""
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-0.2, 0.5]]))
    method = Factorised(strength=0.3, snap=1e-3)
    state = State(model, epochs=1, steps_per_epoch=1)
    method.setup(state)
    optimizer = SGD(model.parameters(), lr=0.1)
    for _ in range(500):
        optimizer.zero_grad()
        loss = (model.weight - torch.tensor([[1.0, 0.1]])).square().sum() / 2 + method.penalty(state)
        loss.backward()
        optimizer.step()
    method.finish(state)
    assert model.weight[0].tolist() == pytest.approx([0.7, 0.0], abs=1e-3)


class TestBadInput:
    @pytest.mark.parametrize(
        "make",
        [
            lambda: SAM(rho=-1),
            lambda: SAM(rho=math.nan),
            lambda: CrAM(sparsities=[]),
            lambda: CrAM(sparsities=[1.5]),
            lambda: VAR(-1),
            lambda: Hoyer("big"),
            lambda: PNormDecay(p=3),
            lambda: PNormDecay(p=0),
            lambda: Powerprop(alpha=0.5),
            lambda: Factorised(factors=1),
        ],
    )
    def test_values(self, make) -> None:
        with pytest.raises(InputError, match="parameter of"):
            make()

    def test_models_without_weights_and_with_shared_ones(self) -> None:
        tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        tied[1].weight = tied[0].weight
        for model, words in ((nn.BatchNorm1d(3), "no layer"), (tied, "'0' and '1'")):
            for method in (Powerprop(), Factorised()):
                with pytest.raises(InputError, match=words):
                    method.setup(State(model, epochs=1, steps_per_epoch=1))
