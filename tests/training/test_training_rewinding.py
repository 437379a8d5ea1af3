from __future__ import annotations

from functools import partial

import pytest
import torch
from tinynet import QUIET, batches, net
from torch.optim import SGD

import secateur
from secateur.errors import CheckpointError, InputError
from secateur.surgery import record
from secateur.training import Training, fit
from secateur.training.rewinding import KeptWeights, repeated, rewind_weights


class Rates:
    """Notes the learning rate of every step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def after_step(self, state) -> None:
        self.seen.append(state.optimizer.param_groups[0]["lr"])


def rates(settings: Training) -> list[float]:
    noted = Rates()
    fit(net(), batches(), methods=[noted], settings=settings)
    return noted.seen


@pytest.mark.parametrize("schedule", ["cosine", "step", "constant"])
@pytest.mark.parametrize("start", [0, 2, 5])
def test_a_repeated_training_has_the_learning_rates_of_its_last_epochs(schedule, start):
    fields = {"warmup": 2.0, "milestones": (0.4, 0.9), "precision": "fp32", "progress": False}
    whole = Training(epochs=6, optimizer=partial(SGD, lr=0.1), schedule=schedule, **fields)
    assert rates(repeated(whole, start)) == pytest.approx(rates(whole)[4 * start :], abs=1e-12)


@pytest.mark.parametrize(("start", "message"), [(6, "0 to 5. Got 6"), (-1, "0 to 5"), (1, "at least the 2 epochs of")])
def test_epochs_that_cannot_be_gone_back_to_are_refused(start, message):
    with pytest.raises(InputError, match=message):
        repeated(Training(epochs=6, warmup=2), start)


def trained(tmp_path, epoch: int, epochs: int = 3):
    """A network and the weights it had after `epoch`, as a copy made on the way and as the file."""
    model, states = net(), {}

    class Copying:
        def setup(self, state):
            states[0] = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}

        def epoch_end(self, state):
            states[state.epoch] = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}

    kept = KeptWeights(tmp_path / "kept.safetensors", epoch)
    fit(model, batches(), epochs=epochs, methods=[Copying(), kept], **QUIET)
    return model, states[epoch]


@pytest.mark.parametrize("epoch", [0, 1, 3])
def test_a_cut_network_gets_the_weights_of_an_epoch_cut_alike(tmp_path, epoch):
    model, then = trained(tmp_path, epoch)
    small = secateur.prune(model, batches()[0][0][:1], budget="50% channels", round_to=1)
    rewind_weights(small, tmp_path / "kept.safetensors", record(small).kept)
    rows = record(small).kept["conv.weight"][0]
    assert len(rows) < 4
    assert torch.equal(small.conv.weight, then["conv.weight"][rows])
    assert torch.equal(small.norm.running_var, then["norm.running_var"][rows])
    assert torch.equal(small.head.weight, then["head.weight"][:, rows])
    assert torch.equal(small.head.bias, then["head.bias"])


def test_masked_weights_stay_zero_when_the_others_go_back(tmp_path):
    model, then = trained(tmp_path, 1)
    groups = secateur.elements(model, batches()[0][0][:1])
    sparse = secateur.slim(groups, secateur.plan(groups, budget="30% weights"))
    entry = record(sparse)
    rewind_weights(sparse, tmp_path / "kept.safetensors", entry.kept, entry.masks)
    for name, mask in entry.masks.items():
        assert torch.equal(sparse.get_parameter(name), then[name] * mask)


def test_only_the_asked_epoch_is_kept_and_a_resumed_training_keeps_the_same(tmp_path):
    seen = []

    def stop(row):
        seen.append((tmp_path / "kept.safetensors").exists())
        if row.epoch == 1 and len(seen) == 1:
            raise KeyboardInterrupt

    def run():
        methods = [KeptWeights(tmp_path / "kept.safetensors", 2)]
        fit(net(), batches(), epochs=3, methods=methods, checkpoint=tmp_path, on_epoch=stop, **QUIET)

    with pytest.raises(KeyboardInterrupt):
        run()
    run()
    assert seen == [False, True, True]
    found = (tmp_path / "kept.safetensors").read_bytes()
    trained(tmp_path / "again", 2)
    assert (tmp_path / "again" / "kept.safetensors").read_bytes() == found


def test_weights_that_are_missing_or_of_another_model_move_nothing(tmp_path):
    trained(tmp_path, 1)
    other = net(width=6)
    before = other.head.weight.clone()
    with pytest.raises(CheckpointError, match="must be of the model that was cut"):
        rewind_weights(other, tmp_path / "kept.safetensors", {})
    with pytest.raises(CheckpointError, match="cannot be gone back to"):
        rewind_weights(other, tmp_path / "none.safetensors", {})
    assert torch.equal(other.head.weight, before)
