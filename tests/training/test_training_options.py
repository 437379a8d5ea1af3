"""What fit can do besides: averaged weights, accumulated gradients, compiled steps, logs, trackers, soft targets."""

from __future__ import annotations

import copy
import csv
import json
import sys
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from tinynet import QUIET, Net, batches, net, same_tensors
from torch import nn
from torch.optim import SGD, Adam, AdamW

from secateur.errors import CheckpointError, InputError, TrainingError
from secateur.training import Moments, State, fit
from secateur.training.evaluation import Hits
from secateur.training.precision import COMPILING_PAYS, resolve_compile

PLAIN = {**QUIET, "epochs": 2}


class Each:
    """A method that calls a function after every step."""

    def __init__(self, act) -> None:
        self.after_step = act


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-4, atol=1e-6)


class TestAverage:
    def test_it_follows_the_definition(self) -> None:
        model, seen = net(), []
        expected = {name: value.clone() for name, value in model.state_dict().items()}

        def move(state) -> None:
            decay = min(0.6, (1 + state.step) / (10 + state.step))
            for name, value in state.model.state_dict().items():
                moved = decay * expected[name] + (1 - decay) * value if value.is_floating_point() else value
                expected[name] = moved.clone()
            seen.append(state.step)

        history = fit(model, batches(), **PLAIN, ema=0.6, methods=[Each(move)])
        assert len(seen) == 8
        close(history.ema, expected)
        assert history.ema["norm.num_batches_tracked"] == 8
        assert not same_tensors(history.ema, model.state_dict())

    def test_it_is_what_is_validated_and_training_does_not_feel_it(self) -> None:
        data = SimpleNamespace(train=batches(), validation=batches(1, 32, seed=9))
        plain, averaged = net(), net()
        fit(plain, data, **PLAIN)
        history = fit(averaged, data, **PLAIN, ema=0.9)
        assert same_tensors(plain.state_dict(), averaged.state_dict())
        averaged.load_state_dict(history.ema)
        averaged.eval()
        inputs, targets = data.validation[0]
        assert history.rows[-1].val_loss == pytest.approx(F.cross_entropy(averaged(inputs), targets).item(), rel=1e-5)

    def test_what_is_held_at_zero_is_zero_in_it(self) -> None:
        def hold(state) -> None:
            if state.step >= 3:
                state.model.conv.weight.data[0] = 0

        history = fit(net(), batches(), **PLAIN, ema=0.9, methods=[Each(hold)])
        assert history.ema["conv.weight"][0].eq(0).all()
        assert history.ema["conv.weight"][1].ne(0).all()

    def test_it_follows_a_replaced_model(self) -> None:
        given = {}

        def swap(state) -> None:
            if state.step == 3:
                given["before"] = {name: value.clone() for name, value in state.average.tensors.items()}
                small, cut = net(width=2), given["before"]["conv.weight"][:2]
                state.replace(small, average={"conv.weight": cut})
                given["after"] = {name: value.clone() for name, value in state.average.tensors.items()}
                given["small"] = copy.deepcopy(small.state_dict())
                with pytest.raises(InputError, match=r"'average' given to replace.*'conv.weight' has not"):
                    state.average.follow(small, given={"conv.weight": cut[:1]})

        history = fit(net(), batches(), **PLAIN, ema=0.9, methods=[Each(swap)])
        assert torch.equal(given["after"]["conv.weight"], given["before"]["conv.weight"][:2])  # given
        assert torch.equal(given["after"]["head.bias"], given["before"]["head.bias"])  # kept: the shape is the same
        assert torch.equal(given["after"]["head.weight"], given["small"]["head.weight"])  # afresh
        history.model.load_state_dict(history.ema)


class TestAccumulation:
    def test_it_equals_the_larger_batch_also_where_batches_differ_in_size(self) -> None:
        data = [*batches(3), *batches(1, 3, seed=7), *batches(1, 8, seed=8)]
        whole = [tuple(torch.cat(parts) for parts in zip(*data[k : k + 2], strict=True)) for k in (0, 2, 4)]
        torch.manual_seed(0)
        large = nn.Sequential(nn.Flatten(), nn.Linear(25, 3))
        small = copy.deepcopy(large)
        one = fit(large, whole, **PLAIN)
        other = fit(small, data, **PLAIN, accumulate=2)
        close(small.state_dict(), large.state_dict())
        assert [row.train_loss for row in other.rows] == pytest.approx([row.train_loss for row in one.rows], rel=1e-5)
        assert other.rows[0].lr == one.rows[0].lr

    def test_steps_and_progress_count_steps_of_the_optimizer(self) -> None:
        seen = []
        fit(net(), batches(5), **PLAIN, accumulate=2, methods=[Each(lambda s: seen.append((s.step, s.position)))])
        assert seen == [(1, 1), (2, 2), (3, 3), (4, 1), (5, 2), (6, 3)]

    def test_a_closure_sees_all_batches_of_the_step(self) -> None:
        values = []

        class Look:
            def before_step(self, state) -> None:
                gradients = [p.grad.clone() for p in state.model.parameters()]
                assert torch.equal(state.closure(), state.loss)
                values.extend(map(torch.equal, gradients, [p.grad for p in state.model.parameters()]))

        fit(net(), batches(), **PLAIN, accumulate=2, methods=[Look()])
        assert values
        assert all(values)


class TestCompiled:
    @pytest.fixture(autouse=True)
    def _without_a_compiler(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The graph is captured and differentiated as usual, but not turned into machine code."""
        monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
        torch._dynamo.reset()

    def test_it_trains_the_same_model_under_the_same_names(self, tmp_path: Path) -> None:
        plain, compiled = net(), net()
        fit(plain, batches(), **PLAIN)
        seen = []
        look = Each(lambda state: seen.append((state.model is compiled, type(state._called).__name__)))
        fit(compiled, batches(), **PLAIN, compile=True, methods=[look], checkpoint=tmp_path)
        close(compiled.state_dict(), plain.state_dict())
        assert set(seen) == {(True, "OptimizedModule")}
        assert "_orig_mod" not in (tmp_path / "training.safetensors").read_bytes().decode("latin-1")
        with pytest.raises(CheckpointError, match=r"compile \(True there, False here\)"):
            fit(net(), batches(), **PLAIN, checkpoint=tmp_path, methods=[look])

    def test_closure_and_replace_survive_it(self) -> None:
        ends = []
        for compile_ in (False, True):

            class Swap:
                def before_step(self, state) -> None:
                    buffers = [buffer.clone() for buffer in state.model.buffers()]
                    torch.testing.assert_close(state.closure(), state.loss)
                    assert all(map(torch.equal, state.model.buffers(), buffers))

                def after_step(self, state) -> None:
                    if state.step == 3:
                        self.model = Wider(state.model)
                        state.replace(self.model, names={f"inner.{n}": n for n, _ in state.model.named_parameters()})

            torch.manual_seed(0)
            history = fit(net(), batches(), **PLAIN, compile=compile_, methods=[Swap()])
            ends.append(history.model.state_dict())
        close(*ends)

    def test_auto_is_for_long_trainings_on_cuda(self) -> None:
        assert not resolve_compile("auto", torch.device("cpu"), 10**9)
        assert not resolve_compile("auto", torch.device("cuda"), COMPILING_PAYS - 1)
        assert resolve_compile(True, torch.device("cpu"), 1)


@pytest.mark.slow
def test_compiled_to_machine_code_with_a_last_batch_of_another_size() -> None:
    data = [*batches(3), *batches(1, 5, seed=3)]
    plain = nn.Sequential(nn.Flatten(), nn.Linear(25, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    compiled = copy.deepcopy(plain)
    look = SimpleNamespace(before_step=lambda state: torch.testing.assert_close(state.closure(), state.loss))
    fit(plain, data, **PLAIN)
    fit(compiled, data, **PLAIN, compile=True, methods=[look])
    close(compiled.state_dict(), plain.state_dict())


class Wider(nn.Module):
    """Another model around the one that was."""

    def __init__(self, inner: Net) -> None:
        super().__init__()
        self.inner = copy.deepcopy(inner)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) * 0.5


class TestPenaltyAsGradient:
    def state(self, penalty) -> State:
        model = nn.Sequential(nn.Flatten(), nn.Linear(25, 3))
        state = State(model, epochs=1, steps_per_epoch=1, moments=Moments([SimpleNamespace(penalty=penalty)]))
        state.optimizer = SGD(model.parameters(), lr=0.1)
        state.batch = batches(1)[0]
        return state

    def test_it_is_the_gradient_that_the_objective_would_have_had(self) -> None:
        torch.manual_seed(0)
        state = self.state(lambda s: 0.1 * s.model[1].weight.square().sum())
        state.objective()[0].backward()
        expected = [p.grad.clone() for p in state.model.parameters()]
        state.optimizer.zero_grad()
        F.cross_entropy(state.model(state.batch[0]), state.batch[1]).backward()  # the host's own loss
        state.add_penalty_gradients()
        for parameter, gradient in zip(state.model.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient)

    def test_parameters_without_a_gradient_get_one_and_a_constant_adds_none(self) -> None:
        state = self.state(lambda s: s.model[1].bias.sum())
        state.add_penalty_gradients()
        assert torch.equal(state.model[1].bias.grad, torch.ones(3))
        assert state.model[1].weight.grad is None
        silent = self.state(lambda s: None)
        silent.add_penalty_gradients()
        assert silent.model[1].bias.grad is None


class TestScaledGradients:
    """Loss scaling, which "fp16" needs, tried in float32: there it must not show."""

    def state(self, scale: float) -> State:
        state = State(net(), epochs=1, steps_per_epoch=4, moments=Moments([Each(lambda state: None)]))
        state.optimizer = SGD(state.model.parameters(), lr=0.1, momentum=0.9)
        state.scaler = torch.amp.GradScaler("cpu", init_scale=scale) if scale else None
        state.begin_epoch()
        return state

    def stepped(self, scale: float) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
        state, values = self.state(scale), []
        for data in batches():
            state.begin_step(data)
            for _ in state.each_batch():
                state.backward(state.objective()[0])
            gradients = [p.grad.clone() for p in state.model.parameters()]
            values.append(state.closure())
            assert torch.equal(values[-1], state.loss)
            for parameter, gradient in zip(state.model.parameters(), gradients, strict=True):
                assert torch.equal(parameter.grad, gradient)
            state.optimizer_step()
            state.position += 1
        return state.model.state_dict(), values

    def test_a_power_of_two_changes_nothing(self) -> None:
        plain, scaled = self.stepped(0), self.stepped(2.0**10)
        assert same_tensors(plain[0], scaled[0])
        assert plain[1] == scaled[1]

    def test_gradients_that_overflow_move_nothing(self) -> None:
        state = self.state(2.0**126)
        before = {name: value.clone() for name, value in state.model.named_parameters()}
        state.begin_step(batches(1)[0])
        for _ in state.each_batch():
            state.backward(100 * state.objective()[0])
        state.optimizer_step()
        assert same_tensors(dict(state.model.named_parameters()), before)
        assert state.scaler.get_scale() == 2.0**125


class TestLog:
    def test_json_lines_and_csv_hold_every_epoch(self, tmp_path: Path) -> None:
        history = fit(net(), batches(), **PLAIN, log=tmp_path / "log")
        lines = [json.loads(line) for line in (tmp_path / "log" / "epochs.jsonl").read_text().splitlines()]
        assert lines == history.to_dict()["rows"]
        with (tmp_path / "log" / "epochs.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [float(row["train_loss"]) for row in rows] == [row.train_loss for row in history.rows]
        assert rows[0]["val_loss"] == ""

    def test_a_run_that_goes_on_repairs_a_log_that_lost_its_end(self, tmp_path: Path) -> None:
        settings = {**PLAIN, "checkpoint": tmp_path, "log": tmp_path / "log"}
        fit(net(), batches(), **settings)
        file = tmp_path / "log" / "epochs.jsonl"
        whole = file.read_text()
        file.write_text(whole[: len(whole) // 2])
        fit(net(), batches(), **settings)
        assert file.read_text() == whole

    def test_a_folder_that_cannot_be(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(InputError, match=r"'log' folder .*file cannot be used"):
            fit(net(), batches(), **PLAIN, log=tmp_path / "file")

    def test_a_tracker_whose_package_is_missing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
        with pytest.raises(InputError, match=r"'mlflow' needs a package that is not installed: pip install mlflow"):
            fit(net(), batches(), **PLAIN, log=tmp_path, trackers=["mlflow"])

    def test_tensorboard_gets_every_epoch(self, tmp_path: Path) -> None:
        pytest.importorskip("tensorboard")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        history = fit(net(), batches(), **PLAIN, log=tmp_path, trackers=("tensorboard",))
        events = EventAccumulator(str(tmp_path / "secateur")).Reload()
        told = [(event.step, event.value) for event in events.Scalars("train_loss")]
        assert told == [(row.epoch, pytest.approx(row.train_loss)) for row in history.rows]

    def test_other_trackers_are_told_the_same(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        told: list = []
        fake = ModuleType("wandb")
        config = SimpleNamespace(update=lambda values, **kw: told.append(values["epochs"]))
        run = SimpleNamespace(
            log=lambda values, step, **kw: told.append((step, values["train_loss"])), finish=lambda: told.append("end")
        )
        fake.init = lambda **kw: told.append((kw["project"], kw["dir"])) or run
        fake.config = config
        monkeypatch.setitem(sys.modules, "wandb", fake)
        monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: ["wandb"])
        history = fit(net(), batches(), **PLAIN, log=tmp_path, trackers=["wandb"])
        epochs = [(row.epoch, row.train_loss) for row in history.rows]
        assert told == [("secateur", str(tmp_path)), "2", *epochs, "end"]


class TestTargets:
    def test_shares_of_classes_are_compared_by_their_largest(self) -> None:
        outputs = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])
        shares = torch.tensor([[0.4, 0.6], [0.3, 0.7], [0.0, 1.0]])
        assert Hits()(outputs, shares) == 2
        assert Hits()(outputs, shares * 2) is None  # not shares
        assert Hits()(outputs, shares - 0.5) is None

    def test_a_training_on_mixed_labels_tells_its_accuracy(self) -> None:
        data = [(x, 0.7 * F.one_hot(y, 3).float() + 0.3 / 3) for x, y in batches()]
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(25, 3))
        hits = sum(int((model(x).argmax(1) == y.argmax(1)).sum()) for x, y in data)
        row = fit(model, data, **{**PLAIN, "epochs": 1, "optimizer": partial(SGD, lr=0.0)}).rows[0]
        assert row.train_accuracy == hits / 32


class TestNotFinite:
    def test_the_first_module_is_named(self) -> None:
        class Broken(Net):
            def __init__(self) -> None:
                super().__init__()
                self.gate = nn.Identity()
                self.gate.register_forward_hook(lambda module, inputs, output: output / self.calls())
                self.count = 0

            def calls(self) -> float:
                self.count += self.training
                return float("nan") if self.count > 2 else 1.0

            def forward(self, x):
                return super().forward(self.gate(x))

        with pytest.raises(
            TrainingError, match=r"is nan at step 2, epoch 1/2. The first module .* 'gate' \(Identity\)"
        ):
            fit(Broken(), batches(), **PLAIN)

    def test_inputs_weights_or_the_loss_are_told_apart(self) -> None:
        data = batches()
        data[1][0][0, 0, 0, 0] = float("inf")
        with pytest.raises(TrainingError, match=r"step 2, epoch 1/2. The inputs of this batch are not finite"):
            fit(net(), data, **PLAIN)

        def poison(state) -> None:
            if state.step == 3:
                state.model.head.bias.data[0] = float("nan")

        with pytest.raises(TrainingError, match=r"step 4, .* the weights of head.bias are not finite"):
            fit(net(), batches(), **PLAIN, methods=[Each(poison)])
        penalty = SimpleNamespace(penalty=lambda s: torch.tensor(float("nan")) if s.step == 1 else None)
        with pytest.raises(TrainingError, match=r"step 2, .*outputs are finite: look at the loss"):
            fit(net(), batches(), **PLAIN, methods=[penalty])

    def test_a_checkpoint_within_an_epoch_is_not_overwritten_by_weights_gone_wrong(self, tmp_path: Path) -> None:
        good = {}

        def poison(state) -> None:
            if state.step == 2:
                good["file"] = (tmp_path / "training.safetensors").read_bytes()
                state.model.head.bias.data[0] = float("nan")

        settings = {**PLAIN, "checkpoint": tmp_path, "checkpoint_minutes": 1e-9}
        with pytest.raises(TrainingError, match=r"In epoch 1 \(step 2\) head.bias held"):
            fit(net(), batches(), **settings, methods=[Each(poison)])
        assert (tmp_path / "training.safetensors").read_bytes() == good["file"]


def test_two_runs_cannot_write_to_one_folder(tmp_path: Path) -> None:
    def again(state) -> None:
        with pytest.raises(CheckpointError, match=r"must belong to one run at a time. Another process is writing"):
            fit(net(), batches(), **PLAIN, checkpoint=tmp_path)

    fit(net(), batches(1), **PLAIN, checkpoint=tmp_path, methods=[SimpleNamespace(epoch_end=again)])
    fit(net(), batches(1), **PLAIN, checkpoint=tmp_path, methods=[SimpleNamespace(epoch_end=lambda state: None)])


@pytest.mark.parametrize("optimizer", [partial(SGD, lr=0.05, momentum=0.9), partial(Adam, lr=0.01), AdamW])
def test_replaced_in_mid_training_with_a_fused_optimizer(optimizer) -> None:
    """The cut parameters are fresh while others have momentum."""

    def swap(state) -> None:
        if state.step == 2:
            state.replace(net(width=2))

    ends = []
    for form in ({}, {"foreach": False}):
        model = fit(net(), batches(), **{**PLAIN, "optimizer": partial(optimizer, **form)}, methods=[Each(swap)]).model
        ends.append(model.state_dict())
    close(*ends)
