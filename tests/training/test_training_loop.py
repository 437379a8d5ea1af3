"""What fit does, against a loop written out by hand, and in what order it lets methods act."""

from __future__ import annotations

import copy
import json
import random
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rich.progress import Progress
from tinynet import QUIET, Net, batches, net, same_tensors
from torch import nn
from torch.optim import SGD, AdamW
from torch.utils.data import DataLoader, TensorDataset

from secateur.data import load
from secateur.errors import DataError, InputError, TrainingError
from secateur.training import MOMENTS, Training, fit


def test_it_is_the_loop_one_would_write_by_hand() -> None:
    model, data = nn.Sequential(nn.Flatten(), nn.Linear(25, 3)), batches()
    hand = copy.deepcopy(model)
    settings = QUIET | {"optimizer": partial(SGD, lr=0.1, momentum=0.9, weight_decay=1e-2, foreach=False)}
    fit(model, data, epochs=3, schedule="constant", **settings)

    optimizer = SGD(hand.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
    for _ in range(3):
        for inputs, targets in data:
            optimizer.zero_grad()
            F.cross_entropy(hand(inputs), targets).backward()
            optimizer.step()
    assert same_tensors(model.state_dict(), hand.state_dict())


def test_the_history_tells_losses_accuracies_and_rates() -> None:
    model, data = net(), SimpleNamespace(train=batches(), validation=batches(2, seed=9))
    history = fit(model, data, epochs=2, schedule="step", milestones=(0.5,), gamma=0.1, **QUIET)
    first, second = history.rows
    assert (first.epoch, second.epoch) == (1, 2)
    assert first.lr == pytest.approx(0.05)
    assert second.lr == pytest.approx(0.005)
    model.eval()
    with torch.no_grad():
        outputs = torch.cat([model(inputs) for inputs, _ in data.validation])
    targets = torch.cat([targets for _, targets in data.validation])
    assert second.val_loss == pytest.approx(F.cross_entropy(outputs, targets).item(), rel=1e-5)
    assert second.val_accuracy == (outputs.argmax(1) == targets).float().mean().item()
    assert history.model is model
    assert history.best is max(history.rows, key=lambda row: (row.val_accuracy, -row.val_loss))
    stored = json.loads(history.to_json())
    assert stored["rows"][1]["val_loss"] == second.val_loss
    assert stored["best"] == history.best.epoch


def test_the_training_loss_is_the_mean_over_samples_not_batches() -> None:
    data = [*batches(1, 8), *batches(1, 2, seed=5)]
    model = nn.Sequential(nn.Flatten(), nn.Linear(25, 3))
    expected = sum(F.cross_entropy(model(x), y).item() * len(y) for x, y in data) / 10
    hits = sum(int((model(x).argmax(1) == y).sum()) for x, y in data)
    row = fit(model, data, epochs=1, **QUIET | {"optimizer": partial(SGD, lr=0.0)}).rows[0]
    assert row.train_loss == pytest.approx(expected, rel=1e-6)
    assert row.train_accuracy == hits / 10


def test_without_validation_the_columns_are_empty() -> None:
    data = SimpleNamespace(train=batches(), validation=batches(1))
    row = fit(net(), data, epochs=1, validate=False, **QUIET).rows[0]
    assert row.val_loss is None
    assert row.val_accuracy is None


class Diary:
    """A method that has every moment and notes them."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, int, int, float]] = []

    def _note(self, moment: str, state) -> None:
        self.notes.append((moment, state.epoch, state.step, round(state.progress, 6)))

    def setup(self, state):
        with pytest.raises(TrainingError, match=r"after the methods' setup"):
            _ = state.optimizer
        self._note("setup", state)

    def penalty(self, state):
        self._note("penalty", state)

    def before_step(self, state):
        assert all(parameter.grad is not None for parameter in state.model.parameters())
        assert state.loss is not None
        self.before = state.model.head.weight.detach().clone()
        self._note("before_step", state)

    def after_step(self, state):
        assert not torch.equal(self.before, state.model.head.weight)
        self._note("after_step", state)

    def epoch_end(self, state):
        self._note("epoch_end", state)

    def finish(self, state):
        self._note("finish", state)


def test_moments_come_in_order() -> None:
    diary = Diary()
    fit(net(), batches(2), epochs=2, methods=[diary], **QUIET)
    steps = [
        [("penalty", e, s, s / 4), ("before_step", e, s, s / 4), ("after_step", e, s + 1, (s + 1) / 4)]
        for e, s in ((0, 0), (0, 1), (1, 2), (1, 3))
    ]
    expected = [("setup", 0, 0, 0.0), *steps[0], *steps[1], ("epoch_end", 1, 2, 0.5), *steps[2], *steps[3]]
    assert diary.notes == [*expected, ("epoch_end", 2, 4, 1.0), ("finish", 2, 4, 1.0)]
    assert set(MOMENTS) == {note[0] for note in diary.notes}


def test_a_method_with_one_moment_is_enough_and_others_are_refused() -> None:
    seen = []
    fit(
        net(),
        batches(2),
        epochs=1,
        methods=[SimpleNamespace(after_step=lambda state: seen.append(state.step))],
        **QUIET,
    )
    assert seen == [1, 2]
    with pytest.raises(
        InputError, match=r"'methods' must be an object with one of setup, penalty.*Got the class Diary"
    ):
        fit(net(), batches(2), epochs=1, methods=[Diary], **QUIET)
    with pytest.raises(InputError, match=r"Got object"):
        fit(net(), batches(2), epochs=1, methods=[object()], **QUIET)


def test_a_penalty_enters_the_loss_as_weight_decay_would() -> None:
    class L2:
        def penalty(self, state):
            return 0.5 * 1e-2 * sum(parameter.square().sum() for parameter in state.model.parameters())

    decayed, penalised = net(), net()
    plain = {**QUIET, "optimizer": partial(SGD, lr=0.05, weight_decay=1e-2)}
    fit(decayed, batches(), epochs=2, **plain)
    fit(penalised, batches(), epochs=2, methods=[L2()], **{**QUIET, "optimizer": partial(SGD, lr=0.05)})
    for name, value in decayed.state_dict().items():
        torch.testing.assert_close(penalised.state_dict()[name], value, rtol=1e-4, atol=1e-6)


def test_setup_brings_parameters_of_its_own_with_their_own_rate() -> None:
    class Gate:
        def setup(self, state):
            self.gate = nn.Parameter(torch.ones(3))
            return [{"params": [self.gate], "lr": 0.5, "weight_decay": 0.0}]

        def penalty(self, state):
            return self.gate.sum()

    gate = Gate()
    fit(
        net(), batches(2), epochs=1, schedule="constant", methods=[gate], optimizer=partial(SGD, lr=0.1), progress=False
    )
    assert torch.equal(gate.gate.detach(), torch.ones(3) - 2 * 0.5)


def test_weight_decay_can_spare_norms_and_biases() -> None:
    seen = {}

    class Look:
        def before_step(self, state):
            for group in state.optimizer.param_groups:
                seen.update(dict.fromkeys(group["params"], group["weight_decay"]))

    model = net()
    optimizer = partial(SGD, lr=0.1, weight_decay=0.01)
    fit(model, batches(1), epochs=1, methods=[Look()], decay_norm=False, optimizer=optimizer, progress=False)
    assert {name: seen[p] for name, p in model.named_parameters()} == {
        "conv.weight": 0.01,
        "norm.weight": 0.0,
        "norm.bias": 0.0,
        "head.weight": 0.01,
        "head.bias": 0.0,
    }


def test_frozen_parameters_stay() -> None:
    model = net()
    model.conv.weight.requires_grad_(False)
    before = model.conv.weight.clone()
    fit(model, batches(), epochs=1, **QUIET)
    assert torch.equal(model.conv.weight, before)


def test_clipping_limits_the_step() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(25, 3))
    before = nn.utils.parameters_to_vector(model.parameters()).detach()
    fit(model, batches(1), epochs=1, clip=1e-3, optimizer=partial(SGD, lr=1.0), progress=False)
    moved = nn.utils.parameters_to_vector(model.parameters()).detach() - before
    assert moved.norm() == pytest.approx(1e-3, rel=1e-3)


def test_the_same_seed_gives_the_same_numbers_and_the_callers_streams_stay() -> None:
    runs = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        np.random.seed(noise)
        random.seed(noise)
        model = net()
        before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
        fit(model, batches(), epochs=2, seed=7, **QUIET)
        after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
        assert torch.equal(before[0], after[0])
        assert before[1:] == after[1:]
        runs.append(model.state_dict())
    assert same_tensors(*runs)
    other = net()
    fit(other, batches(), epochs=2, seed=8, **QUIET)
    assert not same_tensors(runs[0], other.state_dict())


def test_modes_and_memory_layout_are_the_callers_afterwards() -> None:
    model = net().eval()
    model.drop.train()
    fit(model, batches(), epochs=1, channels_last=True, **QUIET)
    assert [module.training for module in model.modules()] == [False, False, False, True, False]
    assert model.conv.weight.is_contiguous()


def test_a_loader_hears_of_every_epoch() -> None:
    class Heard(list):
        def __init__(self, items) -> None:
            super().__init__(items)
            self.epochs = []

        def set_epoch(self, epoch: int) -> None:
            self.epochs.append(epoch)

    data = Heard(batches())
    fit(net(), data, epochs=3, **QUIET)
    assert data.epochs == [0, 1, 2]


def test_inputs_may_be_tuples_and_dicts() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(25, 3)

        def forward(self, x, scale):
            return self.head(x.flatten(1) * scale)

    results = []
    for wrap in (lambda x: (x, torch.tensor(2.0)), lambda x: {"scale": torch.tensor(2.0), "x": x}):
        torch.manual_seed(0)
        model = Two()
        fit(model, [(wrap(x), y) for x, y in batches()], epochs=1, **QUIET)
        results.append(model.state_dict())
    assert same_tensors(*results)


def test_a_loss_of_ones_own_may_do_without_labels() -> None:
    model = nn.Linear(4, 4)
    x = torch.randn(8, 4)
    history = fit(model, [(x, x)] * 20, epochs=5, loss=F.mse_loss, optimizer=partial(AdamW, lr=0.05), progress=False)
    assert history.rows[-1].train_loss < history.rows[0].train_loss / 2
    assert history.rows[0].train_accuracy is None


def test_label_smoothing_raises_the_training_loss_only() -> None:
    rows = []
    for smoothing in (0.0, 0.2):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(25, 3))
        model[1].weight.data *= 20
        data = SimpleNamespace(train=batches(), validation=batches())
        settings = {**QUIET, "optimizer": partial(SGD, lr=0.0)}
        rows.append(fit(model, data, epochs=1, label_smoothing=smoothing, **settings).rows[0])
    assert rows[1].train_loss != pytest.approx(rows[0].train_loss)
    assert rows[1].val_loss == rows[0].val_loss == pytest.approx(rows[0].train_loss, rel=1e-5)


def test_bf16_and_channels_last_train_as_fp32_does_up_to_rounding() -> None:
    losses = [
        fit(net(), batches(8, 16), epochs=3, **{**QUIET, "precision": precision}, channels_last=layout)
        .rows[-1]
        .train_loss
        for precision, layout in (("fp32", False), ("bf16", True))
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert losses[1] != losses[0]


def test_the_progress_bar_can_live_in_a_running_one() -> None:
    with Progress(disable=True) as progress:
        fit(net(), batches(), epochs=2, **{**QUIET, "progress": progress})
        task = progress.tasks[0]
    assert (task.completed, task.total) == (8, 8)
    assert "loss" in task.fields["text"]


def test_steps_per_epoch_cuts_an_endless_loader() -> None:
    class Endless:
        def __iter__(self):
            while True:
                yield from batches(1)

    diary = Diary()
    fit(net(), Endless(), epochs=2, steps_per_epoch=3, methods=[diary], **QUIET)
    assert diary.notes[-1] == ("finish", 2, 6, 1.0)
    with pytest.raises(InputError, match=r"Endless has none; give fit 'steps_per_epoch'"):
        fit(net(), Endless(), epochs=1, **QUIET)


def test_settings_can_be_given_whole_and_changed() -> None:
    settings = Training(epochs=2, **QUIET)
    assert len(fit(net(), batches(1), settings=settings).rows) == 2
    assert len(fit(net(), batches(1), settings=settings, epochs=1).rows) == 1


def test_it_learns_handwritten_digits() -> None:
    data = load("digits")
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    history = fit(model, data, epochs=5, warmup=1, optimizer=partial(SGD, lr=0.1, momentum=0.9), progress=False)
    assert history.best.val_accuracy > 0.85
    assert history.rows[-1].train_loss < history.rows[0].train_loss


class TestBadInput:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"epochs": 0}, r"The 'epochs' parameter of fit must be an integer of at least 1. Got 0 instead."),
            ({"epochs": 2.5}, "'epochs'"),
            ({"warmup": 5}, r"'warmup'.*\[0, epochs\]. Got 5"),
            ({"label_smoothing": 1.0}, "'label_smoothing'"),
            ({"milestones": (80, 120)}, "shares of the training"),
            ({"schedule": "cosin"}, "'schedule' parameter of fit must be one of cosine, step, constant"),
            ({"clip": 0}, "'clip'"),
            ({"precision": "fp8"}, '\'precision\' parameter of fit must be "auto", "fp32", "bf16" or "fp16"'),
            ({"precision": "fp16"}, r'"fp16" needs a CUDA device.*The model is on cpu; take "bf16"'),
            ({"compile": "yes"}, "'compile'"),
            ({"ema": 1.0}, r"'ema' parameter of fit must be a float in \(0, 1\), or None. Got 1.0"),
            ({"ema": 0}, "'ema'"),
            ({"accumulate": 0}, "'accumulate' parameter of fit must be an integer of at least 1. Got 0"),
            ({"accumulate": 2.0}, "'accumulate'"),
            ({"checkpoint_minutes": 0, "checkpoint": "x"}, "'checkpoint_minutes' parameter of fit must be a positive"),
            ({"checkpoint_minutes": 5}, "'checkpoint_minutes' parameter of fit needs a folder.*give 'checkpoint'"),
            ({"trackers": ("tensorboard",)}, "'trackers' parameter of fit needs a folder.*give 'log'"),
            ({"trackers": "tensorboard", "log": "x"}, "list of names among tensorboard, wandb, mlflow. Got 'tensorb"),
            ({"trackers": ["excel"], "log": "x"}, r"'trackers'.*Got \['excel'\]"),
            ({"channels_last": "yes"}, "'channels_last'"),
            ({"gamma": 0}, "'gamma'"),
            ({"lr": 0.1}, r"no parameter 'lr'. The optimizer takes it"),
            ({"epoch": 3}, "no parameter 'epoch'"),
            ({"loss": F.mse_loss, "label_smoothing": 0.1}, "Drop one"),
            ({"optimizer": SGD(nn.Linear(1, 1).parameters(), lr=0.1)}, "must be a function of parameters"),
            ({"optimizer": lambda groups: None}, "must make a torch Optimizer. Got NoneType"),
        ],
    )
    def test_settings(self, change, message) -> None:
        with pytest.raises(InputError, match=message):
            fit(net(), batches(1), **{"epochs": 1, "progress": False, **change})

    def test_epochs_must_be_given(self) -> None:
        with pytest.raises(InputError, match=r"'epochs' parameter of fit must be given"):
            fit(net(), batches(1))

    @pytest.mark.parametrize(
        ("data", "error", "message"),
        [
            (3, InputError, "Got int"),
            ([], DataError, "at least one batch"),
            ([torch.ones(2)], InputError, r"pairs \(inputs, targets\). Got Tensor"),
            ([(1, 2, 3)], InputError, "Got 3 items"),
            (iter(batches()), InputError, "one-shot"),
        ],
    )
    def test_data(self, data, error, message) -> None:
        with pytest.raises(error, match=message):
            fit(net(), data, epochs=2, **QUIET)

    def test_more_classes_than_outputs(self) -> None:
        model, data = net(classes=3), batches(classes=5)
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(InputError, match=r"Labels must lie in \[0, 3\).*to [34] in the first batch"):
            fit(model, data, epochs=1, **QUIET)
        with pytest.raises(InputError, match=r"for each of the data's 5 classes. It has 3"):
            fit(model, SimpleNamespace(train=batches(), classes=5), epochs=1, **QUIET)
        assert same_tensors(model.state_dict(), before)

    def test_a_label_beyond_the_outputs_in_a_later_batch(self) -> None:
        with pytest.raises(InputError, match=r"Target 4 is out of bounds. \(epoch 1, step 2\)"):
            fit(net(), [*batches(1), (torch.randn(2, 1, 5, 5), torch.tensor([0, 4]))], epochs=1, **QUIET)

    def test_a_batch_of_one_under_batch_norm(self) -> None:
        model = nn.Sequential(nn.Flatten(), nn.Linear(25, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
        with pytest.raises(TrainingError, match=r"Batch norm needs more than one value.*\(epoch 1, step 1\)"):
            fit(model, batches(2, 1), epochs=1, **QUIET)
        inputs, targets = (torch.cat(parts) for parts in zip(*batches(2, 8), strict=True))
        before = copy.deepcopy(model.state_dict())
        loader = DataLoader(TensorDataset(inputs, targets), batch_size=5)  # 16 = 3 * 5 + 1
        with pytest.raises(TrainingError, match=r"\(epoch 1, step 1\)"):
            fit(model, loader, epochs=1, **QUIET)
        assert same_tensors(model.state_dict(), before)
        fit(model, DataLoader(TensorDataset(inputs, targets), batch_size=5, drop_last=True), epochs=1, **QUIET)

    def test_a_batch_of_one_is_fine_where_there_are_several_values_a_channel(self) -> None:
        assert fit(net(), batches(2, 1), epochs=1, **QUIET).rows

    def test_a_loss_that_is_not_finite_stops_with_the_step(self) -> None:
        data = batches()
        data[2][0][0, 0, 0, 0] = float("nan")
        with pytest.raises(TrainingError, match=r"It is nan at step 7, epoch 2/3"):
            fit(net(), data, epochs=3, methods=[_Poison(at=6)], **QUIET)

    def test_weights_that_are_not_finite_stop_after_the_epoch(self) -> None:
        class Explode:
            def after_step(self, state):
                if state.step == 4:
                    state.model.head.bias.data[0] = float("inf")

        with pytest.raises(TrainingError, match=r"After epoch 1 \(step 4\) head.bias held infinities"):
            fit(net(), batches(), epochs=2, methods=[Explode()], **QUIET)

    def test_a_loss_that_is_not_a_scalar(self) -> None:
        with pytest.raises(InputError, match=r"must be a scalar tensor. Got a tensor of shape \[8\]"):
            fit(net(), batches(), epochs=1, loss=partial(F.cross_entropy, reduction="none"), **QUIET)

    def test_nothing_to_train(self) -> None:
        with pytest.raises(TrainingError, match=r"Net has none that requires a gradient"):
            fit(net().requires_grad_(False), batches(), epochs=1, **QUIET)


class _Poison:
    """Lets inputs that are not finite through only from a step on."""

    def __init__(self, at: int) -> None:
        self.at = at

    def setup(self, state) -> None:
        def clean(module: Net, args: tuple[torch.Tensor]) -> torch.Tensor:
            return args[0] if state.step >= self.at else args[0].nan_to_num()

        state.model.register_forward_pre_hook(clean)
