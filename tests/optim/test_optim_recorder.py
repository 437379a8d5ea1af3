"""Recorder: what it tells of a step, by hand; and that it changes nothing."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import SGD

from secateur.errors import InputError
from secateur.optim import Recorder, StochGradAdam, sampled, sampled_adamw, sampled_sgd
from secateur.training import fit

QUIET = {"progress": False, "precision": "fp32"}


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 3))


def data() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(16, 30, generator=generator), torch.randint(3, (16,), generator=generator)) for _ in range(4)]


def test_it_looks_at_every_nth_step_and_changes_nothing() -> None:
    recorder, seen, plain = Recorder(3), net(), net()
    fit(seen, data(), epochs=2, optimizer=partial(SGD, lr=0.1), methods=[recorder], **QUIET)
    fit(plain, data(), epochs=2, optimizer=partial(SGD, lr=0.1), **QUIET)
    assert [row.step for row in recorder.rows] == [1, 4, 7]
    assert all(torch.equal(a, b) for a, b in zip(seen.parameters(), plain.parameters(), strict=True))
    for row in recorder.rows:
        assert row.seen_size == row.gradient_size > 0
        assert row.moved > 0.5


def test_the_numbers_are_those_of_the_weights() -> None:
    recorder, model = Recorder(1), net()
    fit(model, data(), epochs=1, optimizer=partial(SGD, lr=0.1), methods=[recorder], **QUIET)
    weights = torch.cat([model[0].weight.flatten(), model[2].weight.flatten()]).detach()
    last = recorder.rows[-1]
    assert last.weight_size == pytest.approx(weights.abs().mean().item(), rel=1e-5)
    assert last.weight_variance == pytest.approx(weights.var(correction=0).item(), rel=1e-5)


@pytest.mark.parametrize(
    "optimizer",
    [
        partial(StochGradAdam, sampling_rate=0.25),
        partial(sampled, SGD, lr=0.1, sampling_rate=0.25),
        partial(sampled_sgd, mode="gradient", sampling_rate=0.25),
    ],
    ids=["adam", "sgd", "plain values"],
)
def test_sampled_gradients_are_told_beside_dense_ones(optimizer) -> None:
    recorder = Recorder(1)
    fit(net(), data(), epochs=1, optimizer=optimizer, methods=[recorder], **QUIET)
    for row in recorder.rows:
        assert row.seen_size == pytest.approx(0.25 * row.gradient_size, rel=0.25)
        assert row.seen_variance < 0.5 * row.gradient_variance
    assert recorder.rows[0].moved < 0.4


@pytest.mark.parametrize("optimizer", [sampled_sgd, sampled_adamw])
def test_masked_updates_move_the_sampled_share_under_dense_gradients(optimizer) -> None:
    recorder = Recorder(1)
    fit(net(), data(), epochs=1, optimizer=partial(optimizer, sampling_rate=0.25), methods=[recorder], **QUIET)
    for row in recorder.rows:
        assert row.seen_size == row.gradient_size
        assert 0.1 < row.moved < 0.35


def test_a_resumed_run_has_all_rows(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(row) -> None:
        raise Stop

    settings = {**QUIET, "optimizer": partial(SGD, lr=0.1), "checkpoint": tmp_path}
    with pytest.raises(Stop):
        fit(net(), data(), epochs=2, methods=[Recorder(2)], on_epoch=stop, **settings)
    recorder, straight = Recorder(2), Recorder(2)
    fit(net(), data(), epochs=2, methods=[recorder], **settings)
    fit(net(), data(), epochs=2, methods=[straight], optimizer=partial(SGD, lr=0.1), **QUIET)
    assert recorder.rows == straight.rows
    assert len(recorder.rows) == 4


@pytest.mark.parametrize("every", [0, -1, "often"])
def test_bad_input(every) -> None:
    with pytest.raises(InputError, match="'every' parameter of Recorder"):
        Recorder(every)
