"""Tables, plots and the verdict of Lost in Pruning, from results made by hand."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from tabled import lost_in_pruning as told
from tabled.cascades import Cascade, Noise, Shift
from tabled.common import gathered

from secateur.report.record import Hardware
from secateur.report.trust_record import PotentialRow

RATIOS = (0.0, 0.5, 0.8, 0.9)


def shift(kind, reach, errors):
    row = PotentialRow(
        value=reach, contiguous=reach, interpolated=reach + 0.01, censored=reach >= 0.9, low=reach, high=reach, safe=0.0
    )
    return Shift(kind=kind, severity=int(kind != "nominal"), errors=errors, potential=row)


def cascade(seed=0, nominal=0.8, fog=0.5, stripe=0.0, extra=0.1):
    """One seed; under both shifts a pruned network errs by `extra` times its ratio more than the dense one."""
    worse = tuple(0.1 + extra * ratio for ratio in RATIOS)
    noise = Noise(
        epsilons=(0.0, 0.1, 0.2), draws=2, images=100, potential=(0.8, 0.6, 0.2), deviation=(0.0,) * 3,
        accuracies=((0.9,) * 3,) * 4, agreements=((1.0,) * 3,) * 4, distances=((0.0,) * 3,) * 4,
    )  # fmt: skip
    return Cascade(
        experiment="lost_in_pruning/x", model="zoo:lenet_300_100", data="mnist", recipe={}, seeds=(seed,),
        versions={"torch": "2.15.0+cpu"}, hardware=Hardware(cpu="a CPU", threads=1), strengths="mnist", images=1000,
        margin=0.005, settings={}, ratios=RATIOS, params=(10,) * 4, noise=noise,
        shifts=(shift("nominal", nominal, (0.02,) * 4), shift("fog", fog, worse), shift("stripe", stripe, worse)),
        seconds={"run": 120.0, "evaluation": 60.0},
    )  # fmt: skip


@pytest.fixture
def found():
    return {
        ("mnist", "lenet_300_100_short_ft"): [cascade(nominal=0.4, fog=0.4, stripe=0.5, extra=-0.1)],
        ("mnist", "lenet_300_100_short_wt"): [cascade(0), cascade(1, nominal=0.9, fog=0.5, stripe=0.2)],
        ("cifar", "resnet20_wt"): [cascade(fog=0.2)],
        ("cifar", "resnet20_wt-data.augment=corrupt+crop+flip"): [cascade(fog=0.6, stripe=0.4)],
    }


def test_without_results_everything_says_so():
    for text in (
        told.potentials("resnet20", {}),
        told.by_margin("resnet20", {}),
        told.by_shift("lenet_300_100", {}),
        told.shown({}),
    ):
        assert text.startswith("No results are kept yet: `python experiments/run.py experiments/lost_in_pruning/")
    assert told.verdict({}).count("No results are kept yet") == 2
    assert told.plots({}) == {}


def test_wider_margins_reach_further_along_the_line(found):
    row = told.by_margin("lenet_300_100", found).splitlines()[2]
    # under both shifts a network errs by 0.1 of its ratio more: the line to 0.5 meets 0.005 at 0.05, 0.01 at 0.1, ...
    assert row == "| lenet_300_100_short, mnist, WT | 90, 5 | 90, 10 | 90, 20 | 90, 50 |"


def test_potentials_are_means_over_seeds(found):
    lines = told.potentials("lenet_300_100", found).splitlines()
    # WT over two seeds: as they are (80, 90), mean of shifts (25, 35), least of each (0, 20), noise (60 + 20) / 2
    assert lines[2] == (
        "| lenet_300_100_short, mnist, WT | 2 | 98.0 ± 0.0 | 85.0 ± 7.1 | 86.0 ± 7.1 | 30.0 ± 7.1 | 10.0 ± 14.1 "
        "| 40.0 ± 0.0 |"
    )
    assert lines[3].startswith("| lenet_300_100_short, mnist, FT | 1 | 98.0 | 40.0 | 41.0 | 45.0 | 40.0 | 40.0 |")
    assert "at most 0.5 points more error" in lines[-1]
    assert "3 ratios a cascade, 1,000 test images under each shift" in lines[-1]
    assert "100 images, 2 draws" in lines[-1]


def test_a_potential_that_no_tested_ratio_ends_is_a_bound():
    lines = told.potentials("lenet_300_100", {("mnist", "lenet_300_100_wt"): [cascade(nominal=0.9)]}).splitlines()
    assert "| 98.0 | ≥ 90.0 | ≥ 91.0 | 25.0 | 0.0 | 40.0 |" in lines[2]


def test_published_figures_stand_beside_those_of_their_network(found):
    lines = told.potentials("resnet20", found).splitlines()
    assert "| 84.9 | 85, 67, 0 |" in lines[2]
    assert lines[3].endswith("|  |  |")  # trained on corruptions: not what was published


def test_every_shift_has_a_row(found):
    lines = told.by_shift("lenet_300_100", found).splitlines()
    assert lines[0] == "| shift (mnist) | short, WT | short, FT |"
    assert lines[2:] == ["| as they are | 85 | 40 |", "| fog | 50 | 40 |", "| stripe | 10 | 50 |"]


def test_the_verdict_tells_what_the_numbers_say(found):
    text = told.verdict(found)
    wt = "lenet_300_100_short (mnist), WT: "
    assert f"{wt}85 % of the parameters can go as images are, 30 % on average over 2 shifts and 10 % under the" in text
    assert "worst of each seed (stripe). The images as they are say more than the shifts on average in 2 of 2" in text
    assert "FT: 40 % of the parameters can go as images are, 45 % on average over 2 shifts and 40 %" in text
    assert "worst of each seed (fog). The images as they are say more than the shifts on average in 0 of 1" in text
    assert f"{wt}shifts cost pruned networks more than the dense one: +10.0 points" in text
    assert "FT: shifts cost pruned networks less than the dense one: -10.0 points" in text
    moved = "training on corruptions moves it from 20 to 60 % over 1 shift that it did not see."
    assert f"resnet20, robust (cifar), WT: {moved}" in text


def test_plots_are_drawings_with_their_colours(found):
    made = told.plots(found)
    assert len(made) == 9
    assert "lost_in_pruning-resnet20_wt" not in str(made.keys())
    for text in made.values():
        root = ElementTree.fromstring(text)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "--slim: #00805f" in text
        assert "prefers-color-scheme: dark" in text
    potential = made["lost_in_pruning-lenet_300_100_short-mnist-potential.svg"]
    assert "stripe: 10 %, 50 %" in potential
    assert "WT from 98.0" in made["lost_in_pruning-lenet_300_100_short-mnist-accuracy.svg"]


def test_a_mask_trained_alone_stands_beside_its_control():
    record = next(one for title, own in gathered().items() if title.endswith("lenet_300_100_alone_sipp") for one in own)
    dense, *_, trained = record.stages
    other = record.model_copy(update={"stages": (dense, dense)})
    lines = told.alone({
        "lost_in_pruning/lenet_300_100_alone_sipp": [record],
        "lost_in_pruning/lenet_300_100_alone_random": [other, other],
    }).splitlines()  # fmt: skip
    before, after = (f"{100 * stage.accuracy.value:.2f}" for stage in (dense, trained))
    assert lines[2] == f"| lenet_300_100, 5% weights, chosen by SiPP | 1 | {before} | {after} |"
    assert lines[3].startswith("| lenet_300_100, 5% weights, any, as many of every layer | 2 |")
    assert lines[3].count(f"{before} ± 0.00") == 2
    assert told.alone({}).startswith("No results are kept yet")
