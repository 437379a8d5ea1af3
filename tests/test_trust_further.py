"""Evaluations that look further: metrics of the user's, published files, exact pixels, several trainings, rounds."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import tiny
import torch
from test_evaluating import call
from test_trust import QUICK, network, sparse, subjects

from secateur import data, evaluating
from secateur.data.corruptions import official
from secateur.data.pictures import Pictures
from secateur.errors import CheckpointError, DataError, InputError
from secateur.measures import backselect, cross_confidence
from secateur.report.trust import section
from secateur.report.trust_record import TrustRecord
from secateur.run import run
from secateur.run.evaluation import Further, Settings
from secateur.run.population import population
from secateur.run.subjects import Subject, of_run
from secateur.run.trusting import trust


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    return Pictures.of(data.load("digits").test, limit=60)


@pytest.fixture(scope="module")
def dense():
    return network().eval()


def recall_of_three(predictions, labels):
    chosen = labels == 3
    return float((predictions[chosen] == 3).double().mean()) if chosen.any() else 0.0


def test_a_metric_of_the_users_has_its_values_and_its_potential(dense, pictures, tmp_path):
    further = Further(metrics={"recall": recall_of_three})
    made = trust(subjects(dense), pictures, tmp_path, asked=["fog"], settings=QUICK, further=further)
    row = made.at("nominal", 0).metrics[0]
    inputs = pictures.normalised(pictures.shares(pictures.images))
    expected = [recall_of_three(s.model.eval()(inputs).argmax(dim=1), pictures.labels) for s in subjects(dense)]
    assert row.values == pytest.approx(expected)
    assert 0 <= row.potential.low <= row.potential.high <= made.models[2].ratio
    shown = next(table for table in section(made).tables if "metric recall" in table.caption)
    assert [line[0] for line in shown.lines] == ["dense", "half", "most", "other seed"]
    assert TrustRecord.load(tmp_path / "trust.json") == made
    with pytest.raises(InputError, match=r"settings\.metrics"):
        trust(subjects(dense), pictures, tmp_path, asked=["fog"], settings=QUICK)
    bad = Further(metrics={"never": lambda *_: float("nan")})
    with pytest.raises(InputError, match=r"'never' must give a finite number for every model. Got 'dense' nan"):
        trust(subjects(dense), pictures, tmp_path / "bad", asked=["nominal"], settings=QUICK, further=bad)


def test_pixels_are_ranked_exactly_where_it_is_asked(dense, pictures, tmp_path):
    settings = Settings(compile=False, explained=2, exact=True)
    pair = subjects(dense)[:2]
    made = trust(pair, pictures, tmp_path, asked=["features"], settings=settings).features
    chosen = pictures.some(2, 0)
    inputs = chosen.normalised(chosen.shares(chosen.images))
    networks = [each.model.eval() for each in pair]
    orders = [torch.stack([backselect(net, image) for image in inputs]) for net in networks]
    expected = cross_confidence(networks, inputs, orders, chosen.labels)
    assert made.exact
    assert torch.tensor(made.confidence) == pytest.approx(expected, abs=1e-6)


def test_other_labelled_images_are_a_shift(dense, pictures, tmp_path):
    other = Pictures.of(data.load("digits").train, limit=40)
    read = []

    def reading():
        read.append(1)
        return other

    made = trust(subjects(dense), pictures, tmp_path, asked=["nominal"], settings=QUICK,
                 further=Further({("elsewhere", 1): reading}))  # fmt: skip
    row = made.at("elsewhere", 1)
    inputs = other.normalised(other.shares(other.images))
    right = int((dense(inputs).argmax(dim=1) == other.labels).sum())
    assert row.answers[0].accuracy.correct == right
    assert row.answers[0].accuracy.total == 40
    assert len(read) == 1
    without = Pictures(other.images, None, other.mean, other.std, other.peak)
    with pytest.raises(DataError, match="'elsewhere' must have labels and the shape"):
        trust(subjects(dense), pictures, tmp_path / "b", asked=["nominal"], settings=QUICK,
              further=Further({("elsewhere", 1): lambda: without}))  # fmt: skip


def test_published_files_are_shifts_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(official, "_PER_SEVERITY", 6)
    monkeypatch.setattr(evaluating, "kinds", lambda _: ("fog",))
    images = np.random.default_rng(0).integers(0, 256, (6, 28, 28, 1), dtype=np.uint8)
    labels = np.arange(6)
    (tmp_path / "mnist_c" / "fog").mkdir(parents=True)
    for name, array in (("test_images", images), ("test_labels", labels)):
        np.save(tmp_path / "mnist_c" / "fog" / f"{name}.npy", array)
    numbers = torch.tensor([1, 4])
    like = Pictures(torch.zeros(2, 1, 28, 28, dtype=torch.uint8), numbers, (0.5,), (0.5,), numbers=numbers)
    ((place, read),) = evaluating.official(["mnist-c", "fog"], "mnist", like, tmp_path, (3,)).items()
    assert place == ("mnist-c_fog", 1)
    assert torch.equal(read().images, torch.from_numpy(images[[1, 4]]).permute(0, 3, 1, 2))
    assert read().labels.tolist() == [1, 4]
    other = copy.copy(like)
    other.labels = torch.tensor([1, 5])
    with pytest.raises(DataError, match="labels of mnist-c must be those of the test images"):
        evaluating.official(["mnist-c"], "mnist", other, tmp_path, (3,))[place]()
    with pytest.raises(InputError, match="'cifar10-c' is made of cifar10"):
        evaluating.official(["cifar10-c"], "mnist", like, tmp_path, (3,))
    made = evaluating.official(["cifar10-c", "cifar10.1"], "cifar10", like, tmp_path, (3, 5))
    assert list(made) == [("cifar10-c_fog", 3), ("cifar10-c_fog", 5), ("cifar10.1", 1)]
    with pytest.raises(DataError, match=r"cifar10.1_v6_labels.npy is missing"):
        made["cifar10.1", 1]()


def nets(number: int):
    """Trainings that are only initialised: a dense model and two pruned ones each."""
    made = []
    for seed in range(number):
        model = network(seed).eval()
        made.append([Subject("dense", model, "dense"), *(Subject(str(s), sparse(model, s)) for s in (0.9, 0.5))])
    return made


def test_a_population_is_told_over_its_trainings(pictures):
    several = nets(3)
    row = population(several, pictures)
    assert row.nets == len(row.potentials) == 3
    assert list(row.ratios) == sorted(row.ratios)
    assert row.low <= sum(row.potentials) / 3 <= row.high
    inputs = pictures.normalised(pictures.shares(pictures.images))
    said = [[net[place].model(inputs).argmax(dim=1) for net in several] for place in (0, 1)]  # 1: 90 % of a layer
    modal = [torch.stack(side).mode(dim=0).values for side in said]
    assert row.exemplars == tuple(pictures.numbers[modal[0] != modal[1]].tolist())
    assert [each.images for each in row.classes] == torch.bincount(pictures.labels).tolist()[: len(row.classes)]
    with pytest.raises(InputError, match=r"at least two trainings .* Got 1 with 2"):
        population(several[:1], pictures)
    with pytest.raises(InputError, match="Got 2 with 2, 1"):
        population([several[0], several[1][:2]], pictures)


def test_the_page_shows_a_population_and_the_excess_error(pictures, tmp_path):
    first, *others = nets(3)
    made = trust(first, pictures, tmp_path, asked=["fog", "contrast"], settings=QUICK, further=Further(nets=others))
    shown = section(made)
    table = next(table for table in shown.tables if "3 trainings" in table.caption)
    assert "Fewer than five" in table.caption
    assert dict(table.lines)["images answered differently as a rule"] == f"{len(made.populations[0].exemplars):,}"
    assert [(row.kind, row.severity) for row in made.populations] == [("nominal", 0), ("fog", 3), ("contrast", 3)]
    alone = population([first, *others], pictures, kind="fog", severity=3)
    assert made.populations[1].potentials == pytest.approx(alone.potentials)
    assert made.populations[1].exemplars == alone.exemplars != made.populations[0].exemplars
    shifted = next(table for table in shown.tables if table.caption.endswith("under shifts."))
    assert [line[0] for line in shifted.lines] == ["fog 3", "contrast 3"]
    assert "Excess error over the prune ratio" in shown.excess["wide"]
    again = trust(first, pictures, tmp_path, asked=["fog"], settings=QUICK)
    assert again.populations == ()


@pytest.fixture(scope="module")
def cascades(tmp_path_factory):
    """Two seeds of a run of two rounds, and a smaller dense network of the same data."""
    root = tmp_path_factory.mktemp("cascades")
    changes = {
        "pruning__rounds": 2, "pruning__budget": "50% macs", "pruning__round_to": 1, "fine_tuning__epochs": 1,
        "data__limit": 128, "measures__latency": False,
    }  # fmt: skip
    for seed in (0, 1):
        run(tiny.recipe(root / f"seed{seed}", seed=seed, **changes))
    small = {**tiny.VALUES, "model": {"spec": "zoo:lenet_300_100"}, "pruning": None, "out": str(root / "small")}
    for part in ("fine_tuning", "batch_norm"):
        small.pop(part)
    run(tiny.Recipe.of({**small, "measures": {"latency": False}}))
    return root


@pytest.mark.slow
def test_rounds_seeds_a_smaller_network_and_a_metric_from_the_command_line(cascades, tmp_path):
    metric = tmp_path / "mine.py"
    metric.write_text("def right(predictions, labels):\n    return float((predictions == labels).double().mean())\n")
    code, printed = call(
        "evaluate", cascades / "seed0", "--shifts", "fog", "--severities", "3", "--images", "60", "--rounds",
        "--seed-run", cascades / "seed1", "--control", cascades / "small", "--metric", f"{metric}:right",
    )  # fmt: skip
    assert code == 0, printed
    record = TrustRecord.load(cascades / "seed0" / "trust.json")
    assert [(m.name, m.role) for m in record.models] == [
        ("dense", "dense"), ("round 1", "pruned"), ("round 2", "pruned"), ("small", "control")
    ]  # fmt: skip
    assert 0 < record.models[1].ratio < record.models[2].ratio
    assert record.models[3].params != record.models[0].params
    row = record.at("nominal", 0)
    assert row.metrics[0].values == pytest.approx([each.accuracy.value for each in row.answers])
    assert row.metrics[0].potential.interpolated == pytest.approx(row.potential.interpolated)
    assert [(row.kind, row.nets) for row in record.populations] == [("nominal", 2), ("fog", 2)]


def test_rounds_need_a_run_that_left_them(tmp_path):
    run(tiny.recipe(tmp_path / "once", data__limit=64, measures__latency=False, fine_tuning__epochs=0))
    with pytest.raises(CheckpointError, match=r"left no models of rounds\. They come from 'pruning\.rounds'"):
        of_run(tmp_path / "once", rounds=True)
    code, printed = call("evaluate", "--model", "zoo:resnet8", "--data", "digits", "--dense", "a.pth", "--pruned",
                         "b.pth", "--out", "o", "--rounds")  # fmt: skip
    assert code == 2
    assert "--rounds and --seed-run of evaluate need the folder of a run" in printed
