"""Evaluations beyond test accuracy: their numbers by hand, what is kept, what is refused."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from tiny import Stopping
from torch import Tensor, nn

from secateur import data
from secateur.data.corruptions import corrupt
from secateur.data.pictures import Pictures
from secateur.errors import CheckpointError, DataError, InputError
from secateur.report.trust_record import TrustRecord
from secateur.run import evaluation
from secateur.run import trusting as engine
from secateur.run.evaluation import Settings
from secateur.run.quick import Portions, quick
from secateur.run.subjects import Subject
from secateur.run.trusting import trust

QUICK = Settings(severities=(3,), draws=2, noise_images=40, attacked=20, explained=4, compile=False)


def network(seed: int = 0, classes: int = 10) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
        nn.Linear(128, classes),
    )  # fmt: skip


def sparse(model: nn.Module, share: float) -> nn.Module:
    """A copy with the smallest `share` of the weights of its last layer at zero."""
    made = copy.deepcopy(model)
    weight = made[5].weight.data
    weight[weight.abs() < weight.abs().flatten().kthvalue(int(share * weight.numel())).values] = 0
    return made


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    return Pictures.of(data.load("digits").test, limit=120)


@pytest.fixture(scope="module")
def dense(pictures: Pictures) -> nn.Module:
    model = network()
    loader = data.load("digits", batch_size=64).train
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for epoch in range(3):
        loader.set_epoch(epoch)
        for inputs, labels in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
    return model.eval()


def subjects(dense: nn.Module) -> list[Subject]:
    return [
        Subject("dense", dense, "dense"),
        Subject("half", sparse(dense, 0.5)),
        Subject("most", sparse(dense, 0.9)),
        Subject("other seed", network(1), "control"),
    ]


@pytest.fixture(scope="module")
def record(dense, pictures, tmp_path_factory) -> TrustRecord:
    out = tmp_path_factory.mktemp("trust")
    asked = ["fog", "contrast", "noise", "ood", "adversarial", "features"]
    made = trust(subjects(dense), pictures, out, data="digits", asked=asked, settings=QUICK)
    assert TrustRecord.load(out / "trust.json") == made
    return made


def right(model: nn.Module, pictures: Pictures, images: Tensor, peak: int) -> int:
    inputs = (images.float() / peak - pictures.mean[0]) / pictures.std[0]
    return int((model.eval()(inputs).argmax(dim=1) == pictures.labels).sum())


def test_every_sheet_is_what_the_models_say(record, dense, pictures):
    white = (pictures.images.float() * 255 / 16).round().to(torch.uint8)
    fog = corrupt(white, "fog", 3, indices=pictures.numbers)
    for row, images, peak in ((record.at("nominal", 0), pictures.images, 16), (record.at("fog", 3), fog, 255)):
        for each, answers in zip(subjects(dense), row.answers, strict=True):
            assert answers.accuracy.correct == right(each.model, pictures, images, peak)
    assert record.at("nominal", 0).answers[0].accuracy.value > 0.6


def test_ratios_count_all_parameters(record, dense):
    zero = int((sparse(dense, 0.9)[5].weight == 0).sum())
    assert record.models[2].ratio == pytest.approx(zero / sum(p.numel() for p in dense.parameters()))
    assert record.pruned == [1, 2]


def test_what_belongs_together_agrees(record):
    for row in record.sheets:
        for answers, flips in zip(row.answers[1:], row.flips[1:], strict=True):
            change = answers.accuracy.correct - row.answers[0].accuracy.correct
            assert flips.positive - flips.negative == change
        assert 0 <= row.potential.low <= row.potential.high <= record.models[2].ratio
        assert row.potential.safe <= row.potential.contiguous <= row.potential.value
    first = record.noise.levels[0][0]
    assert (first.agreement, first.distance) == (1.0, 0.0)
    assert record.noise.levels[1][0].agreement >= record.noise.levels[2][0].agreement
    assert len(record.nominal.classes[1]) == 10
    assert record.nominal.classes[0] == record.nominal.classes[3] == ()
    assert sum(b.number for b in record.nominal.calibration[0].bins) == record.images
    assert record.adversarial.accuracies[0].value <= record.at("nominal", 0).answers[0].accuracy.high
    table = torch.tensor(record.features.confidence)
    assert table.shape == (4, 4)
    assert table[0, 0] > table[3, 0]  # the untrained network ranks pixels at random
    assert [kind.name for kind in record.ood] == ["uniform noise", "blobs"]


def test_the_models_are_asked_once_about_the_images_as_they_are(dense, pictures, tmp_path, monkeypatch):
    asked, answers = [], evaluation.answers
    monkeypatch.setattr(
        evaluation, "answers", lambda *given, **options: asked.append(options["kind"]) or answers(*given, **options)
    )
    trust(subjects(dense)[:2], pictures, tmp_path, asked=["fog", "ood"], settings=QUICK)
    assert asked == ["nominal", "fog"]


def test_the_worst_images_are_wrong_where_dense_is_right(record, dense, pictures):
    shown = [row for row in record.worst if row.kind == "nominal"]
    assert shown
    for row in shown:
        place = int((pictures.numbers == row.index).nonzero())
        assert row.label == str(int(pictures.labels[place])) != row.answered
        assert row.picture.startswith("data:image/png;base64,")


def test_an_evaluation_goes_on_after_a_kill_and_computes_nothing_twice(dense, pictures, tmp_path, monkeypatch, record):
    asked = ["fog", "contrast", "noise", "ood", "adversarial", "features"]
    with pytest.raises(KeyboardInterrupt):
        trust(subjects(dense), pictures, tmp_path, data="digits", asked=asked, settings=QUICK,
              progress=Stopping("corruption: fog"))  # fmt: skip
    kept = {path.name for path in (tmp_path / "trust").iterdir()}
    assert kept == {"owner.json", "clock.json", "nominal-0.json", "calibration.json", "fog-3.json"}
    computed = []
    plain = engine.Evaluation.answered
    monkeypatch.setattr(
        engine.Evaluation,
        "answered",
        lambda self, kind="nominal", *a, **k: computed.append(kind) or plain(self, kind, *a, **k),
    )
    made = trust(subjects(dense), pictures, tmp_path, data="digits", asked=asked, settings=QUICK)
    assert computed == ["contrast", "nominal"]  # the latter for the strange images
    assert made.model_copy(update={"seconds": {}}) == record.model_copy(update={"seconds": {}})


def test_more_shifts_are_added_to_those_that_are_there(dense, pictures, tmp_path):
    pair = subjects(dense)[:2]
    trust(pair, pictures, tmp_path, asked=["fog"], settings=QUICK)
    made = trust(pair, pictures, tmp_path, asked=["fog", "snow"], settings=QUICK)
    assert made.kinds == ("snow", "fog")


def test_results_of_other_models_are_not_mixed_in(dense, pictures, tmp_path):
    trust(subjects(dense)[:2], pictures, tmp_path, asked=[], settings=QUICK)
    with pytest.raises(InputError, match=r"holds another evaluation.*models.half"):
        trust([subjects(dense)[0], Subject("half", sparse(dense, 0.6))], pictures, tmp_path, asked=[], settings=QUICK)


def test_a_damaged_result_is_named(dense, pictures, tmp_path):
    pair = subjects(dense)[:2]
    trust(pair, pictures, tmp_path, asked=[], settings=QUICK)
    (tmp_path / "trust" / "nominal-0.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"nominal-0\.json is damaged"):
        trust(pair, pictures, tmp_path, asked=[], settings=QUICK)


@pytest.mark.parametrize(
    ("asked", "options", "words"),
    [
        (["rain"], {}, "no shift 'rain'"),
        (["fog"], {"severities": (6,)}, "severities of 'fog'.*Got 6"),
        (["fog"], {"severities": (0,)}, "Got 0"),
    ],
)
def test_shifts_that_are_not_there_are_refused(dense, pictures, tmp_path, asked, options, words):
    settings = Settings(**{"compile": False, **options})
    with pytest.raises(InputError, match=words):
        trust(subjects(dense)[:2], pictures, tmp_path, asked=asked, settings=settings)
    assert not (tmp_path / "trust").exists()


class Softmaxed(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).softmax(dim=1)


def test_models_that_do_not_fit_together_are_refused(dense, pictures, tmp_path):
    first = subjects(dense)[0]
    for others, words in (
        ([Subject("odd", network(classes=7))], "same classes.*'odd' 7"),
        ([Subject("soft", Softmaxed(dense))], "they are probabilities"),
        ([], "at least one pruned"),
        ([first], "exactly one dense"),
        ([Subject("dense", sparse(dense, 0.5))], "different names"),
    ):
        with pytest.raises(InputError, match=words):
            trust([first, *others], pictures, tmp_path / words[:4], asked=[], settings=QUICK)


def test_probabilities_are_taken_where_they_are_announced(dense, pictures, tmp_path):
    pair = [Subject("dense", Softmaxed(dense), "dense"), Subject("half", Softmaxed(sparse(dense, 0.5)))]
    settings = Settings(probabilities=True, compile=False, noise_images=20, draws=1)
    made = trust(pair, pictures, tmp_path / "soft", asked=["ood", "noise"], settings=settings)
    logits = trust(subjects(dense)[:2], pictures, tmp_path / "hard", asked=["ood", "noise"],
                   settings=Settings(compile=False, noise_images=20, draws=1))  # fmt: skip
    for ours, theirs in zip(made.nominal.calibration, logits.nominal.calibration, strict=True):
        assert ours.nll == pytest.approx(theirs.nll, abs=1e-5)
    assert made.ood[0].energy == (None, None)
    assert made.noise.levels[1][5].distance == pytest.approx(logits.noise.levels[1][5].distance, abs=1e-5)


def test_images_that_cannot_serve_are_refused(dense, pictures, tmp_path):
    pair, images = subjects(dense)[:2], pictures.images
    with pytest.raises(DataError, match="needs the labels"):
        trust(pair, Pictures(images, None, (0.3,), (0.4,)), tmp_path, settings=QUICK)
    small = Pictures(images[:, :, :4, :4], pictures.labels, (0.3,), (0.4,))
    with pytest.raises(InputError, match="at least 8 rows"):
        trust(pair, small, tmp_path / "small", asked=["fog"], settings=QUICK)
    with pytest.raises(InputError, match="uint8"):
        Pictures(images.float(), pictures.labels, (0.3,), (0.4,))
    with pytest.raises(InputError, match="mean and std"):
        Pictures(images, pictures.labels, (0.3, 0.3), (0.4, 0.4))


def test_an_empty_class_is_told_as_such(dense, pictures, tmp_path):
    some = pictures.labels != 4
    part = Pictures(pictures.images[some], pictures.labels[some], pictures.mean, pictures.std, pictures.peak)
    row = trust(subjects(dense)[:2], part, tmp_path, asked=[], settings=QUICK).nominal.classes[1][4]
    assert (row.images, row.p_value) == (0, 1.0)
    assert json.loads((tmp_path / "trust.json").read_text())["nominal"]["classes"][1][4]["before"] == "NaN"


def test_a_quick_copy_gives_the_scores_of_its_model(dense):
    inputs = torch.randn(16, 1, 8, 8)
    fast, how = quick(dense, inputs, compiled=False, images=10)
    assert how == "folded"
    assert torch.allclose(fast(inputs), dense(inputs), atol=1e-4)


def test_a_quick_copy_is_asked_in_equal_portions(dense, monkeypatch):
    monkeypatch.setattr("secateur.run.quick.AT_ONCE", 3)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    inputs = torch.randn(16, 1, 8, 8)
    fast, _ = quick(dense, inputs[:13], compiled=False, images=10)
    assert fast.size == 5
    assert torch.allclose(fast(inputs), dense(inputs), atol=1e-4)


@pytest.mark.parametrize(("exactly", "sizes"), [(False, [6, 6, 4]), (True, [6, 6, 6])])
def test_portions_are_joined_and_filled_where_they_must_be(dense, exactly, sizes):
    seen = []
    inputs = torch.randn(16, 1, 8, 8)
    found = Portions(lambda part: seen.append(len(part)) or dense(part), 6, exactly=exactly)(inputs)
    assert seen == sizes
    assert torch.allclose(found, dense(inputs), atol=1e-5)


class Branching(nn.Module):
    """Code that cannot be read without values."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) if x.sum() > 0 else -self.linear(x)


def test_a_model_that_cannot_be_folded_is_taken_as_it_is():
    model, inputs = Branching(), torch.rand(5, 4)
    fast, how = quick(model, inputs, compiled=False, images=10)
    assert how == "plain"
    assert torch.equal(fast(-inputs), model(-inputs))


@pytest.mark.slow
def test_a_compiled_copy_takes_batches_of_any_size_up_to_its_own(dense):
    inputs = torch.randn(16, 1, 8, 8)
    fast, how = quick(dense, inputs, compiled=True, images=10)
    assert how == "compiled"
    for size in (16, 5, 1):
        assert torch.allclose(fast(inputs[:size]), dense(inputs[:size]), atol=1e-4)
