"""Methods under the Trainer of Transformers do what they do in `fit` and in a loop by hand."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from hosted import CutAt, Gradients, Hold, Look, Own, Recorder, Ridge, moved_by, same_tensors
from torch import Tensor, nn

from secateur.errors import CheckpointError, InputError, TrainingError
from secateur.training import fit

transformers = pytest.importorskip("transformers", reason="needs Transformers: pip install 'secateur[transformers]'")

from secateur.adapters.transformers import FILE, SecateurCallback, SecateurMixin, SecateurTrainer  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


class Rows(torch.utils.data.Dataset):
    """Token rows with a class each."""

    def __init__(self, count: int = 16) -> None:
        generator = torch.Generator().manual_seed(0)
        self.tokens = torch.randint(20, (count, 6), generator=generator)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.tokens[index], "labels": self.tokens[index, 0] % 2}


def bert(dropout: float = 0.1) -> Any:
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=4, intermediate_size=24,
        max_position_embeddings=8, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, num_labels=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return transformers.BertForSequenceClassification(config)


def example() -> dict[str, Tensor]:
    return {"input_ids": Rows().tokens[:2]}


class Folder:
    """Where the tests' trainers write."""

    path = ""


@pytest.fixture(autouse=True)
def _folder(tmp_path) -> None:
    Folder.path = str(tmp_path)


def trainer(model, *methods, kind=SecateurTrainer, evaluated=None, **arguments) -> Any:
    options = {
        "output_dir": Folder.path, "num_train_epochs": 2, "per_device_train_batch_size": 4, "learning_rate": 0.05,
        "use_cpu": True, "report_to": [], "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True,
        "optim": "sgd", "optim_args": "momentum=0.9", "lr_scheduler_type": "constant", "max_grad_norm": 0.5,
        "train_sampling_strategy": "sequential", "dataloader_pin_memory": False,
    }  # fmt: skip
    chosen = transformers.TrainingArguments(**(options | arguments))
    callbacks = [SecateurCallback(methods)] if methods else []
    return kind(model=model, args=chosen, train_dataset=Rows(), eval_dataset=evaluated, callbacks=callbacks)


def state_of(host) -> Any:
    return next(c for c in host.callback_handler.callbacks if isinstance(c, SecateurCallback)).state


def batches(size: int = 4) -> list[tuple[dict[str, Tensor], Tensor]]:
    rows = Rows()
    labels = rows.tokens[:, 0] % 2
    return [
        ({"input_ids": rows.tokens[i : i + size], "labels": labels[i : i + size]}, labels[i : i + size])
        for i in range(0, 16, size)
    ]


@pytest.mark.parametrize("kind", [SecateurTrainer, transformers.Trainer])
@pytest.mark.parametrize("adam", [False, True])
def test_methods_that_only_look_leave_the_trajectory_as_it_is(kind, adam) -> None:
    optim = {"optim": "adamw_torch", "optim_args": None, "learning_rate": 1e-3} if adam else {}
    plain, looked = bert(), bert()
    trainer(plain, kind=transformers.Trainer, **optim).train()
    recorder = Recorder()
    recorder.penalty = lambda state: None
    methods = [recorder, Look()] if kind is SecateurTrainer else [AfterOnly()]
    trainer(looked, *methods, kind=kind, **optim).train()
    assert same_tensors(plain.state_dict(), looked.state_dict())


class AfterOnly:
    """Counts steps."""

    steps = 0

    def after_step(self, state) -> None:
        self.steps += 1
        assert state.step == self.steps


def test_the_trajectory_is_that_of_a_loop_by_hand() -> None:
    hosted, model = bert(dropout=0.0), bert(dropout=0.0)
    trainer(hosted, Look(), weight_decay=0.0).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(2):
        for inputs, _ in batches():
            optimizer.zero_grad()
            model.train()(**inputs).loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
    for name, tensor in model.state_dict().items():
        assert torch.allclose(hosted.state_dict()[name], tensor, atol=1e-6), name


def test_moments_come_in_the_order_of_fit() -> None:
    hosted, own = Recorder(), Recorder()
    hosted.penalty = own.penalty = lambda state: None
    trainer(bert(), hosted).train()
    fit(bert(), batches(), epochs=2, methods=[own], loss=lambda out, _: out.loss, precision="fp32", progress=False)
    assert hosted.seen == own.seen


def test_a_penaltys_gradient_is_that_of_the_sum_in_fit() -> None:
    hosted, own = Gradients(), Gradients()
    trainer(bert(0.0), Ridge(outputs=True), hosted, weight_decay=0.0).train()
    sgd = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
    kw = {"loss": lambda out, _: out.loss, "precision": "fp32", "progress": False, "schedule": "constant", "clip": 0.5}
    fit(bert(0.0), batches(), epochs=2, methods=[Ridge(outputs=True), own], optimizer=sgd, **kw)
    assert hosted.losses == pytest.approx(own.losses, rel=1e-4)
    for one, other in zip(hosted.steps, own.steps, strict=True):
        for found, expected in zip(one, other, strict=True):
            assert torch.allclose(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_closure_gives_the_steps_own_gradients_and_moves_nothing(accumulate) -> None:
    look = Look()
    host = trainer(bert(), Ridge(outputs=True), look, gradient_accumulation_steps=accumulate)
    host.train()
    assert len(look.equal) == 2 * -(-4 // accumulate)
    assert all(look.equal)
    assert all(closure == pytest.approx(step, rel=1e-5) for closure, step in look.pairs)


def test_scaled_gradients_have_their_size_for_methods() -> None:
    plain, scaled, look = Gradients(), Gradients(), Look()
    trainer(bert(0.0), Ridge(outputs=True), plain, max_grad_norm=0.0, weight_decay=0.0).train()
    host = trainer(bert(0.0), Ridge(outputs=True), look, scaled, max_grad_norm=0.0, weight_decay=0.0)
    host.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    host.train()
    assert all(look.equal)
    assert scaled.losses == pytest.approx(plain.losses, rel=1e-4)
    for here, there in zip(scaled.steps, plain.steps, strict=True):
        assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in zip(here, there, strict=True))


def test_accumulated_batches_are_one_step_as_in_a_larger_batch() -> None:
    first, second = Gradients(), Gradients()
    accumulating = trainer(bert(0.0), Ridge(), first, gradient_accumulation_steps=2)
    accumulating.model_accepts_loss_kwargs = False  # or this version adds the means of BERT's batches up
    accumulating.train()
    trainer(bert(0.0), Ridge(), second, per_device_train_batch_size=8).train()
    assert len(first.steps) == len(second.steps) == 4
    assert first.losses == pytest.approx(second.losses, rel=1e-5)
    for here, there in zip(first.steps, second.steps, strict=True):
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(here, there, strict=True))


@pytest.mark.parametrize(
    ("kind", "adam", "bf16"),
    [(SecateurTrainer, False, False), (SecateurTrainer, True, True), (transformers.Trainer, True, False)],
)
def test_masked_entries_stay_zero_after_every_step(kind, adam, bf16) -> None:
    optim = {"optim": "adamw_torch", "optim_args": None} if adam else {}
    hold = Hold(example(), "intermediate", "attention")
    clip = 1.0 if kind is SecateurTrainer else 0.0
    host = trainer(
        bert(), hold, kind=kind, bf16=bf16, max_grad_norm=clip, weight_decay=0.1, gradient_accumulation_steps=2, **optim
    )
    host.train()
    assert hold.checked > 0


@pytest.mark.parametrize(("adam", "accumulate", "bf16"), [(False, 2, False), (True, 1, False), (True, 1, True)])
def test_a_cut_in_the_middle_goes_on_with_state_cut_alike(adam, accumulate, bf16) -> None:
    optim = {"optim": "adamw_torch", "optim_args": None} if adam else {}
    cut, watcher = CutAt(example(), step=2), Gradients()
    host = trainer(bert(), cut, watcher, gradient_accumulation_steps=accumulate, bf16=bf16, num_train_epochs=3, **optim)
    host.train()
    small, optimizer = host.model, state_of(host).optimizer
    assert small is state_of(host).model
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in cut.old.parameters())
    assert moved_by(optimizer) == {id(p) for p in small.parameters()}
    assert optimizer.state.keys() == set(small.parameters())
    assert [p.shape for p in small.parameters()] == [g.shape for g in watcher.steps[-1]]
    assert not small._forward_hooks
    assert torch.isfinite(torch.tensor(watcher.losses)).all()
    assert len(watcher.losses) == 3 * -(-4 // accumulate)


def test_the_trajectory_after_a_cut_is_that_of_a_loop_by_hand() -> None:
    from secateur import groups, slim

    cut = CutAt(example(), step=4)
    host = trainer(bert(0.0), cut, weight_decay=0.0)
    host.train()
    model = bert(0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for epoch in range(2):
        for inputs, _ in batches():
            optimizer.zero_grad()
            model.train()(**inputs).loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
        if epoch == 0:
            model = slim(groups(model, example()), cut.plan, optimizer=optimizer)
    for name, tensor in model.state_dict().items():
        assert torch.allclose(host.model.state_dict()[name], tensor, atol=1e-6), name


@pytest.mark.parametrize(("cut_at", "stop"), [(2, 5), (99, 4)])
def test_a_resumed_training_ends_as_an_uninterrupted_one(tmp_path, cut_at, stop) -> None:
    def methods():
        recorder = Recorder()
        recorder.penalty = lambda state: None
        return CutAt(example(), step=cut_at), Own(), recorder

    saves = {"num_train_epochs": 3, "save_strategy": "steps", "save_steps": 1, "lr_scheduler_type": "linear"}
    cut, own, recorder = methods()
    whole = trainer(bert(), cut, own, recorder, **saves)
    whole.train()
    assert (tmp_path / f"checkpoint-{stop}" / FILE).exists()
    cut_again, own_again, recorder_again = methods()
    again = trainer(bert(), cut_again, own_again, recorder_again, **saves)
    again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{stop}"))
    assert (cut_again.plan is None) == (cut_at == 99)
    assert same_tensors(again.model.state_dict(), whole.model.state_dict())
    assert torch.equal(own_again.gate, own.gate)
    after = recorder.seen.index(("after_step", stop, stop // 4 - (stop == 4), 4 if stop == 4 else stop % 4))
    ends = 1 if stop == 4 else 0
    assert recorder_again.seen == [recorder.seen[0], *recorder.seen[after + 1 + ends :]]


def test_a_callback_alone_resumes_its_methods(tmp_path) -> None:
    class Counter(AfterOnly):
        def state_dict(self):
            return {"steps": self.steps}

        def load_state_dict(self, saved) -> None:
            self.steps = saved["steps"]

    saves = {"save_strategy": "steps", "save_steps": 3, "kind": transformers.Trainer}
    trainer(bert(), Counter(), **saves).train()
    counter = Counter()
    host = trainer(bert(), counter, **saves)
    host.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert counter.steps == state_of(host).step == 8
    (tmp_path / "checkpoint-6" / FILE).unlink()
    for kind in (transformers.Trainer, SecateurTrainer):
        with pytest.raises(CheckpointError, match=r"has no secateur\.safetensors"):
            trainer(bert(), Counter(), **(saves | {"kind": kind})).train(
                resume_from_checkpoint=str(tmp_path / "checkpoint-6")
            )


def test_parameters_of_a_method_are_trained_and_follow_the_schedule() -> None:
    own = Own()
    host = trainer(bert(), own, lr_scheduler_type="linear")
    host.train()
    assert (own.gate > 0.2).all()
    groups = state_of(host).optimizer.param_groups
    assert groups[-1]["params"] == [own.gate]
    assert groups[-1]["lr"] == pytest.approx(10 * groups[0]["lr"])


def test_epochs_end_before_their_checkpoint_and_progress_reaches_one() -> None:
    order: list[Any] = []

    class Ends:
        def epoch_end(self, state) -> None:
            order.append(state.epoch)

        def after_step(self, state) -> None:
            order.append(state.progress)

        def state_dict(self):
            order.append("saved")
            return {}

    trainer(bert(), Ends(), save_strategy="epoch", gradient_accumulation_steps=2).train()
    assert order == [0.25, 0.5, 1, "saved", 0.75, 1.0, 2, "saved"]
    order.clear()
    trainer(bert(), Ends(), max_steps=3, gradient_accumulation_steps=2).train()
    assert order == pytest.approx([1 / 3, 2 / 3, 1, 1.0, 2])


def test_a_trainer_of_ones_own_may_compute_its_loss() -> None:
    class Mine(SecateurMixin, transformers.Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            out = model(**inputs)
            loss = 2 * out.loss + 0 * model(**inputs).logits.sum()
            return (loss, out) if return_outputs else loss

    look, gradients = Look(), Gradients()
    trainer(bert(), Ridge(outputs=True), look, gradients, kind=Mine, gradient_accumulation_steps=2).train()
    assert all(look.equal)
    assert all(closure == pytest.approx(step, rel=1e-5) for closure, step in look.pairs)


def test_without_a_callback_the_mixin_is_the_plain_trainer() -> None:
    plain, mixed = bert(), bert()
    trainer(plain, kind=transformers.Trainer).train()
    trainer(mixed).train()
    assert same_tensors(plain.state_dict(), mixed.state_dict())


def test_evaluation_adds_no_penalty() -> None:
    host = trainer(bert(0.0), Ridge(outputs=True), eval_strategy="epoch", evaluated=Rows(8))
    host.train()
    host.model.zero_grad()
    assert host.evaluate()["eval_loss"] < 2
    assert all(parameter.grad is None for parameter in host.model.parameters())


def test_what_a_callback_alone_cannot_do_is_refused() -> None:
    plain = {"kind": transformers.Trainer}
    with pytest.raises(InputError, match=r"Ridge.penalty needs gradients before they are clipped"):
        trainer(bert(), Ridge(), **plain).train()
    with pytest.raises(InputError, match="parameters of its own"):
        trainer(bert(), Own(), max_grad_norm=0.0, **plain).train()

    class Asks:
        def __init__(self, ask) -> None:
            self.after_step = ask

    with pytest.raises(TrainingError, match="SecateurTrainer"):
        trainer(bert(), Asks(lambda state: state.closure()), **plain).train()
    with pytest.raises(TrainingError, match="SecateurTrainer"):
        trainer(bert(), Asks(lambda state: state.replace(copy.deepcopy(state.model))), **plain).train()


def test_a_callback_alone_adds_the_penaltys_gradient_where_nothing_is_clipped() -> None:
    alone, served = Gradients(), Gradients()
    trainer(bert(0.0), Ridge(), alone, kind=transformers.Trainer, max_grad_norm=0.0).train()
    trainer(bert(0.0), Ridge(), served, max_grad_norm=0.0).train()
    for here, there in zip(alone.steps, served.steps, strict=True):
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(here, there, strict=True))
