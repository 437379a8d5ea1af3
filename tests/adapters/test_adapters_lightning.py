"""Methods under Lightning do what they do in `fit` and in a loop by hand."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hosted import CutAt, Gradients, Hold, Look, Own, Recorder, Ridge, moved_by, same_tensors
from torch import Tensor, nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, StepLR
from torch.utils.data import DataLoader

from secateur.errors import CheckpointError, InputError, TrainingError
from secateur.training import fit

pl = pytest.importorskip("lightning.pytorch", reason="needs Lightning: pip install 'secateur[lightning]'")
from torchmetrics.classification import MulticlassAccuracy  # noqa: E402

from secateur.adapters.lightning import SecateurCallback, network_name  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
EXAMPLE = torch.zeros(1, 1, 5, 5)
MOMENTUM = partial(SGD, lr=0.05, momentum=0.9)
ADAM = partial(AdamW, lr=0.01)


class Net(nn.Module):
    """Two convolutions with batch norm, dropout, linear: all that a step can move, and channels to cut."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.drop, self.head = nn.Dropout(0.25), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).relu()
        return self.head(self.drop(x.mean((2, 3))))


def net() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return Net()


def batches(count: int = 4) -> list[tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(0)
    return [(torch.randn(8, 1, 5, 5, generator=g), torch.randint(3, (8,), generator=g)) for _ in range(count)]


class Lit(pl.LightningModule):
    """A LightningModule as people write them: a network, a metric, logging."""

    def __init__(self, network: nn.Module | None = None, optimizer=MOMENTUM, scheduler=None) -> None:
        super().__init__()
        self.net = network or net()
        self.accuracy = MulticlassAccuracy(3)
        self.make, self.schedule = optimizer, scheduler
        self.counts: list[int] = []

    def on_train_epoch_start(self) -> None:
        torch.manual_seed(self.current_epoch)

    def training_step(self, batch, batch_idx):
        x, y = batch
        out = self.net(x)
        self.log("accuracy", self.accuracy(out, y))
        return F.cross_entropy(out, y)

    def on_train_batch_end(self, *_) -> None:
        self.counts.append(int(self.accuracy.metric_state["tp"].sum() + self.accuracy.metric_state["fn"].sum()))

    def configure_optimizers(self):
        optimizer = self.make(self.parameters())
        return optimizer if self.schedule is None else ([optimizer], [self.schedule(optimizer)])


def run(module, *methods, epochs=2, data=None, ckpt=None, model=None, callbacks=(), **trainer):
    callback = SecateurCallback(methods, model=model)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    options = {"max_epochs": epochs, "accelerator": "cpu", "devices": 1, "enable_model_summary": False}
    host = pl.Trainer(callbacks=[callback, *callbacks], **(options | quiet | trainer))
    loader = DataLoader(batches() if data is None else data, batch_size=None, generator=torch.Generator())
    host.fit(module, loader, ckpt_path=ckpt)
    return host, callback


def by_hand(network, epochs=2, optimizer=MOMENTUM, clip=None):
    chosen = optimizer(network.parameters())
    network.train()
    for epoch in range(epochs):
        torch.manual_seed(epoch)
        for x, y in batches():
            chosen.zero_grad()
            F.cross_entropy(network(x), y).backward()
            if clip:
                nn.utils.clip_grad_norm_(network.parameters(), clip)
            chosen.step()
    return network


@pytest.mark.parametrize("optimizer", [MOMENTUM, ADAM])
def test_methods_that_only_look_leave_the_trajectory_as_it_is(optimizer) -> None:
    module, recorder = Lit(optimizer=optimizer), Recorder()
    recorder.penalty = lambda state: None
    run(module, recorder, Look(), gradient_clip_val=0.3)
    assert same_tensors(module.net.state_dict(), by_hand(net(), optimizer=optimizer, clip=0.3).state_dict())


def test_moments_come_in_the_order_of_fit() -> None:
    hosted, own = Recorder(), Recorder()
    hosted.penalty = own.penalty = lambda state: None
    run(Lit(), hosted)
    fit(net(), batches(), epochs=2, methods=[own], optimizer=MOMENTUM, precision="fp32", progress=False)
    assert hosted.seen == own.seen


def test_a_penaltys_gradient_is_that_of_the_sum_in_fit() -> None:
    class Flat(Net):
        """Without dropout, whose draws are the loop's own."""

        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Identity()

    torch.manual_seed(3)
    network = Flat()
    hosted, own = Gradients(), Gradients()
    run(Lit(copy.deepcopy(network)), Ridge(outputs=True), hosted, gradient_clip_val=0.5)
    kw = {"optimizer": MOMENTUM, "precision": "fp32", "progress": False, "schedule": "constant", "clip": 0.5}
    fit(network, batches(), epochs=2, methods=[Ridge(outputs=True), own], **kw)
    assert hosted.losses == pytest.approx(own.losses, rel=1e-4)
    for one, other in zip(hosted.steps, own.steps, strict=True):
        for found, expected in zip(one, other, strict=True):
            assert torch.allclose(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_closure_gives_the_steps_own_gradients_and_moves_nothing(accumulate) -> None:
    module, look = Lit(), Look()
    run(module, Ridge(outputs=True), look, accumulate_grad_batches=accumulate)
    assert all(look.equal)
    assert len(look.equal) == 2 * -(-4 // accumulate)
    assert all(closure == pytest.approx(step, rel=1e-5) for closure, step in look.pairs)
    assert module.counts == list(range(8, 72, 8))  # the metric saw every batch once
    assert "log" not in vars(module)


def test_the_closure_after_the_step_sees_the_weights_as_they_are() -> None:
    class After:
        def after_step(self, state) -> None:
            first = state.closure()
            with torch.no_grad():
                state.model.head.weight.mul_(-3)
            assert state.closure() != first
            with torch.no_grad():
                state.model.head.weight.div_(-3)

    module = Lit(network=net())
    run(module, After())


def test_accumulated_batches_are_one_step_as_in_a_larger_batch() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(25, 3)

        def forward(self, x):
            return self.head(x.flatten(1))

    torch.manual_seed(1)
    one, other = Plain(), Plain()
    other.load_state_dict(one.state_dict())
    merged = [tuple(torch.cat(both) for both in zip(*batches()[i : i + 2], strict=True)) for i in (0, 2)]
    first, second = Gradients(), Gradients()
    run(Lit(one), Ridge(), first, accumulate_grad_batches=2)
    run(Lit(other), Ridge(), second, data=merged)
    assert len(first.steps) == len(second.steps) == 4
    assert first.losses == pytest.approx(second.losses, rel=1e-5)
    for here, there in zip(first.steps, second.steps, strict=True):
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(here, there, strict=True))


@pytest.mark.parametrize(
    ("optimizer", "precision"),
    [(partial(MOMENTUM, weight_decay=0.1), "32-true"), (ADAM, "32-true"), (MOMENTUM, "bf16-mixed"), (ADAM, "16-mixed")],
)
def test_masked_entries_stay_zero_after_every_step(optimizer, precision) -> None:
    hold = Hold(EXAMPLE)
    run(Lit(optimizer=optimizer), hold, precision=precision, accumulate_grad_batches=2, gradient_clip_val=1.0)
    assert hold.checked > 0


def test_float16_gradients_are_unscaled_for_methods() -> None:
    """A scale of 2**16 would show; that of a penalty alone is known."""
    gradients, look = Gradients(), Look()

    class Zero(Lit):
        def training_step(self, batch, batch_idx):
            return 0 * super().training_step(batch, batch_idx)

    run(Zero(), Ridge(), gradients, look, precision="16-mixed", epochs=1)
    for gradient, parameter in zip(gradients.steps[0], net().parameters(), strict=True):
        assert torch.allclose(gradient, 0.03 * parameter)
    assert all(look.equal)


@pytest.mark.parametrize(("optimizer", "accumulate"), [(MOMENTUM, 2), (ADAM, 1)])
def test_a_cut_in_the_middle_goes_on_with_state_cut_alike(optimizer, accumulate) -> None:
    module, cut, watcher = Lit(optimizer=optimizer), CutAt(EXAMPLE, step=2), Gradients()
    host, callback = run(module, cut, watcher, epochs=3, accumulate_grad_batches=accumulate, precision="bf16-mixed")
    small = module.net
    assert small is callback.state.model
    assert small is not cut.old
    assert small.conv1.weight.shape[0] < 8
    assert moved_by(host.optimizers[0]) == {id(p) for p in small.parameters()}
    assert host.optimizers[0].state.keys() == set(small.parameters())
    assert [p.shape for p in small.parameters()] == [g.shape for g in watcher.steps[-1]]
    assert cut.old.conv1.weight.shape[0] == 8  # the one before is left alone
    assert not small._forward_hooks


def test_the_trajectory_after_a_cut_is_that_of_a_loop_by_hand() -> None:
    network, cut = net(), CutAt(EXAMPLE, step=4)
    module = Lit(network)
    run(module, cut, epochs=2)

    from secateur import groups, slim

    other = net()
    optimizer = MOMENTUM(other.parameters())
    for epoch in range(2):
        torch.manual_seed(epoch)
        for x, y in batches():
            optimizer.zero_grad()
            F.cross_entropy(other.train()(x), y).backward()
            optimizer.step()
        if epoch == 0:
            other = slim(groups(other, EXAMPLE), cut.plan, optimizer=optimizer)
    assert same_tensors(module.net.state_dict(), other.state_dict())


@pytest.mark.parametrize("cut_at", [2, 99])
def test_a_resumed_training_ends_as_an_uninterrupted_one(tmp_path, cut_at) -> None:
    def methods():
        recorder = Recorder()
        recorder.penalty = lambda state: None
        return CutAt(EXAMPLE, step=cut_at), Own(), recorder

    def fresh():
        return Lit(scheduler=lambda optimizer: StepLR(optimizer, 1, 0.5))

    whole, (cut, own, recorder) = fresh(), methods()
    saver = pl.callbacks.ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    run(whole, cut, own, recorder, epochs=3, callbacks=[saver], enable_checkpointing=True)
    again, (cut_again, own_again, recorder_again) = fresh(), methods()
    run(again, cut_again, own_again, recorder_again, epochs=3, ckpt=tmp_path / "epoch=1.ckpt")
    assert (cut_again.plan is None) == (cut_at == 99)
    assert same_tensors(again.net.state_dict(), whole.net.state_dict())
    assert torch.equal(own_again.gate, own.gate)
    assert recorder_again.seen == [recorder.seen[0], *recorder.seen[-10:]]  # setup; then the third epoch and finish


def test_a_checkpoint_of_other_methods_is_refused(tmp_path) -> None:
    host, _ = run(Lit(), Own())
    host.save_checkpoint(tmp_path / "one.ckpt")
    module = Lit()
    with pytest.raises(CheckpointError, match="holds the state of 1, 2 are given"):
        run(module, Own(), Recorder(), ckpt=tmp_path / "one.ckpt")
    assert not {"configure_model", "on_load_checkpoint"} & set(vars(module))


@pytest.mark.parametrize(
    "scheduler", [None, lambda o: StepLR(o, 1, 0.5), lambda o: LambdaLR(o, lambda step: 0.5**step)]
)
def test_parameters_of_a_method_are_trained_and_follow_the_schedule(scheduler) -> None:
    own = Own()
    host, _ = run(Lit(scheduler=scheduler), own)
    assert (own.gate > 0.2).all()
    first, last = host.optimizers[0].param_groups
    assert last["params"] == [own.gate]
    assert last["lr"] / 0.5 == pytest.approx(first["lr"] / 0.05)


def test_a_schedule_that_cannot_be_followed_is_refused() -> None:
    with pytest.raises(InputError, match="cannot follow a OneCycleLR"):
        run(Lit(scheduler=lambda o: OneCycleLR(o, 0.1, total_steps=10)), Own())


def test_progress_counts_steps_of_the_whole_training() -> None:
    class Progress:
        def __init__(self) -> None:
            self.values: list[float] = []

        def after_step(self, state) -> None:
            self.values.append(state.progress)

    progress = Progress()
    run(Lit(), progress, epochs=2, accumulate_grad_batches=2)
    assert progress.values == [0.25, 0.5, 0.75, 1.0]
    short = Progress()
    run(Lit(), short, epochs=-1, max_steps=5)
    assert short.values == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_an_epoch_ends_before_its_validation_and_also_when_broken_off() -> None:
    order: list[str] = []

    class Validating(Lit):
        def validation_step(self, batch, batch_idx):
            order.append("validation")

        def val_dataloader(self):
            return DataLoader(batches(1), batch_size=None)

    class Ends:
        def epoch_end(self, state) -> None:
            order.append("epoch_end")

    run(Validating(), Ends(), epochs=2, num_sanity_val_steps=0)
    assert order == ["epoch_end", "validation"] * 2
    order.clear()
    run(Lit(), Ends(), epochs=3, max_steps=6)
    assert order == ["epoch_end"] * 2


def test_nothing_of_the_callback_stays_behind() -> None:
    class Fails:
        def after_step(self, state) -> None:
            raise KeyError("inside")

    module = Lit()
    host, callback = run(module, Own())
    failing = Lit()
    with pytest.raises(KeyError):
        run(failing, Fails())
    for left in (module, failing):
        assert not {"configure_model", "on_load_checkpoint", "log"} & set(vars(left))
        assert not left.net._forward_hooks
    assert not host.optimizers[0]._optimizer_step_post_hooks
    assert callback.state.parts == []


def test_training_step_may_take_the_batch_alone() -> None:
    class Alone(Lit):
        def training_step(self, batch):
            return super().training_step(batch, 0)

    look = Look()
    run(Alone(), look)
    assert all(look.equal)


def test_the_network_is_found_or_named() -> None:
    class Direct(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(25, 4), nn.Linear(4, 3)

        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self.two(self.one(batch[0].flatten(1)).relu()), batch[1])

        def configure_optimizers(self):
            return MOMENTUM(self.parameters())

    assert network_name(Lit()) == "net"
    assert network_name(Direct()) == ""
    _, callback = run(Direct(), Own())
    assert isinstance(callback.state.model, Direct)
    _, named = run(Lit(nn.Sequential(net())), Own(), model="net.0")
    assert isinstance(named.state.model, Net)
    with pytest.raises(InputError, match=r"must name a submodule of Lit .* Got 'nett' instead; there are net"):
        run(Lit(), Own(), model="nett")

    class Swap:
        def after_step(self, state) -> None:
            state.replace(copy.deepcopy(state.model))

    with pytest.raises(TrainingError, match="cannot exchange a whole LightningModule"):
        run(Direct(), Swap())


def test_another_optimizer_is_refused() -> None:
    class Swap:
        def after_step(self, state) -> None:
            model = copy.deepcopy(state.model)
            state.replace(model, optimizer=MOMENTUM(model.parameters()))

    with pytest.raises(InputError, match="must be the one that the training loop steps"):
        run(Lit(), Swap())


def test_what_cannot_work_is_refused() -> None:
    class Manual(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

    with pytest.raises(InputError, match="needs automatic optimization; Manual"):
        run(Manual(), Own())
    with pytest.raises(InputError, match="must have an end"):
        run(Lit(), Own(), epochs=-1)

    class Early:
        def setup(self, state) -> None:
            state.closure()

    with pytest.raises(TrainingError, match="need the batch of a step"):
        run(Lit(), Early())
