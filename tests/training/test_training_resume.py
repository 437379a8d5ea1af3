"""A training that was broken off goes on to the same bits; and what it refuses to go on from."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from mortal import Noise
from tinynet import Net, batches, net, same_tensors
from torch.optim import SGD

from secateur.errors import CheckpointError, TrainingError
from secateur.training import fit
from secateur.training.tree import read_tree, write_tree

EPOCHS = 4
FILE = "training.safetensors"


def stopped(folder: Path, at: int = 2, **kw) -> None:
    """A run that ends by an error after its epoch `at`."""

    class Stop(Exception):
        pass

    def stop(row) -> None:
        if row.epoch == at:
            raise Stop

    with pytest.raises(Stop):
        fit(kw.pop("model", None) or net(), batches(), **{**PLAIN, **kw}, checkpoint=folder, on_epoch=stop)


PLAIN = {"epochs": EPOCHS, "progress": False, "precision": "fp32", "optimizer": partial(SGD, lr=0.05, momentum=0.9)}


def test_channels_last_with_momentum_resumes_too(tmp_path: Path) -> None:
    whole = net()
    fit(whole, batches(), **PLAIN, channels_last=True)
    stopped(tmp_path, channels_last=True)
    resumed = net()
    fit(resumed, batches(), **PLAIN, channels_last=True, checkpoint=tmp_path)
    assert same_tensors(resumed.state_dict(), whole.state_dict())


def test_a_model_that_was_replaced_resumes_as_the_smaller_one(tmp_path: Path) -> None:
    class Cut:
        """Halves the network after its third step; its stored state is that it did."""

        def __init__(self) -> None:
            self.done = False

        def setup(self, state) -> None:
            self.state = state

        def cut(self) -> None:
            small, old = Net(width=2), self.state.model
            with torch.no_grad():
                small.conv.weight.copy_(old.conv.weight[:2])
                small.head.weight.copy_(old.head.weight[:, :2])
                small.head.bias.copy_(old.head.bias)
            self.done = True
            self.state.replace(small)

        def after_step(self, state) -> None:
            if state.step == 3:
                self.cut()

        def state_dict(self):
            return {"done": self.done}

        def load_state_dict(self, saved) -> None:
            if saved["done"]:
                self.cut()

    whole = fit(net(), batches(), **PLAIN, methods=[Cut()]).model
    stopped(tmp_path, methods=[Cut()])
    resumed = fit(net(), batches(), **PLAIN, methods=[Cut()], checkpoint=tmp_path).model
    assert resumed.conv.weight.shape[0] == 2
    assert same_tensors(resumed.state_dict(), whole.state_dict())


def test_a_finished_run_is_not_run_again_but_finished(tmp_path: Path) -> None:
    calls = []

    class End:
        def finish(self, state) -> None:
            calls.append((state.step, state.progress))

    first = fit(net(), batches(), **PLAIN, methods=[End()], checkpoint=tmp_path)
    again = fit(net(seed=1), batches(), **PLAIN, methods=[End()], checkpoint=tmp_path)
    assert again.rows == first.rows
    assert same_tensors(again.model.state_dict(), first.model.state_dict())
    assert calls == [(16, 1.0), (16, 1.0)]


class TestRefused:
    def test_a_checkpoint_of_other_settings_names_them(self, tmp_path: Path) -> None:
        stopped(tmp_path)
        changes = {"epochs": 5, "seed": 3, "optimizer": partial(SGD, lr=0.1, momentum=0.9)}
        with pytest.raises(CheckpointError, match=r"These differ") as error:
            fit(net(), batches(), **{**PLAIN, **changes}, checkpoint=tmp_path)
        for phrase in (
            "epochs (4 there, 5 here)",
            "seed (0 there, 3 here)",
            "SGD(lr=0.05, momentum=0.9) there, SGD(lr=0.1",
        ):
            assert phrase in str(error.value)
        assert "schedule" not in str(error.value)

    def test_another_model_other_data_other_methods(self, tmp_path: Path) -> None:
        stopped(tmp_path)
        with pytest.raises(CheckpointError, match=r"differ: model \(Net of 8 tensors"):
            fit(net(width=5), batches(), **PLAIN, checkpoint=tmp_path)
        with pytest.raises(CheckpointError, match=r"differ: steps_per_epoch \(4 there, 3 here\)"):
            fit(net(), batches(3), **PLAIN, checkpoint=tmp_path)
        with pytest.raises(CheckpointError, match=r"differ: methods \(\(\) there, \(Noise\) here\)"):
            fit(net(), batches(), **PLAIN, methods=[Noise()], checkpoint=tmp_path)

    @pytest.mark.parametrize("damage", ["truncated", "flipped", "text", "empty"])
    def test_a_damaged_file_is_named(self, tmp_path: Path, damage: str) -> None:
        stopped(tmp_path)
        file = tmp_path / FILE
        content = bytearray(file.read_bytes())
        if damage == "flipped":
            content[-20] ^= 0x10
        file.write_bytes({"truncated": content[:-9], "flipped": content, "text": b"hello, world", "empty": b""}[damage])
        with pytest.raises(CheckpointError, match=f"{FILE} is damaged.*Delete it to start afresh"):
            fit(net(), batches(), **PLAIN, checkpoint=tmp_path)

    def test_a_file_of_another_kind(self, tmp_path: Path) -> None:
        write_tree(tmp_path / FILE, {}, "something else")
        with pytest.raises(CheckpointError, match=r"must be a 'secateur training 2' file. It is 'something else'"):
            fit(net(), batches(), **PLAIN, checkpoint=tmp_path)

    def test_a_folder_that_cannot_be(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(CheckpointError, match=r"'checkpoint' folder .*file cannot be used"):
            fit(net(), batches(), **PLAIN, checkpoint=tmp_path / "file")

    def test_a_state_that_no_file_can_hold(self, tmp_path: Path) -> None:
        class Odd:
            def epoch_end(self, state) -> None: ...

            def state_dict(self):
                return {"inner": [object()]}

        with pytest.raises(CheckpointError, match=r"methods\[0\].inner\[0\] is a object"):
            fit(net(), batches(), **PLAIN, methods=[Odd()], checkpoint=tmp_path)


def test_a_failed_write_leaves_the_checkpoint_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(tmp_path)
    before = (tmp_path / FILE).read_bytes()

    def full(*_) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("secateur.training.tree.save_file", lambda *args, **kw: full())
    with pytest.raises(CheckpointError, match=r"No space left on device. What was there before is intact"):
        fit(net(), batches(), **PLAIN, checkpoint=tmp_path)
    assert (tmp_path / FILE).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_a_loss_that_is_not_finite_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    class Poison:
        def before_step(self, state) -> None:
            if state.step == 9:
                state.model.head.bias.grad.fill_(float("nan"))

    with pytest.raises(TrainingError, match=r"It is nan at step 11, epoch 3/4"):
        fit(net(), batches(), **PLAIN, methods=[Poison()], checkpoint=tmp_path)
    tree = read_tree(tmp_path / FILE, "secateur training 2")
    assert tree["epoch"] == 2
    assert all(value.isfinite().all() for value in tree["model"].values())


def test_trees_come_back_as_they_went(tmp_path: Path) -> None:
    tree = {
        "numbers": [1, 2.5, float("inf"), None, True, "text"],
        "pair": (0.9, 0.999),
        3: {"tensor": torch.arange(6).view(2, 3).t(), "scalar": torch.tensor(1.5, dtype=torch.bfloat16)},
        "none": torch.empty(0, 4),
    }
    write_tree(tmp_path / "tree", tree, "test 1")
    back = read_tree(tmp_path / "tree", "test 1")
    assert back["numbers"] == tree["numbers"]
    assert back["pair"] == tree["pair"]
    assert same_tensors(back[3], tree[3])
    assert back["none"].shape == (0, 4)
