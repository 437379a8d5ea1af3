"""`secateur evaluate --shifts`: of a run's folder, and of weights by anyone."""

from __future__ import annotations

import json

import pytest
import tiny
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from secateur import cli, zoo
from secateur.errors import CheckpointError
from secateur.report.trust_record import TrustRecord
from secateur.run import run
from secateur.run.subjects import of_run

QUICK = ["--shifts", "fog", "--severities", "3", "--images", "100"]


def call(*arguments: object) -> tuple[int, str]:
    """Run the command line in this process: its exit code and all it printed."""
    cli.guard.debug = False
    result = CliRunner(env={"COLUMNS": "160", "TERM": "dumb"}).invoke(cli.app, [str(a) for a in arguments])
    return result.exit_code, " ".join((result.stdout + result.stderr).split())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    record = run(tiny.recipe(out, measures__latency=False))
    return out, record


def test_a_run_gets_a_section_in_its_report(finished):
    out, made = finished
    assert 'id="trust"' not in (out / "report.html").read_text()
    code, _ = call("evaluate", out, *QUICK)
    assert code == 0
    record = TrustRecord.load(out / "trust.json")
    assert record.kinds == ("fog",)
    assert record.images == 100
    assert record.models[1].ratio == pytest.approx(1 - made.final.params / made.dense.params, abs=0.02)
    page = (out / "report.html").read_text()
    assert 'id="trust"' in page
    assert 'id="widths"' in page
    assert call("report", out)[0] == 0
    assert 'id="trust"' in (out / "report.html").read_text()


def test_a_run_is_measured_on_the_images_of_its_record(finished):
    out, made = finished
    subjects, data, _ = of_run(out)
    right = sum(int((subjects[1].model.eval()(inputs).argmax(dim=1) == labels).sum()) for inputs, labels in data.test)
    assert right == made.final.accuracy.correct


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Two networks of one architecture, and one without half of its last layer."""
    folder = tmp_path_factory.mktemp("weights")
    for seed, name in enumerate(("a", "b")):
        torch.manual_seed(seed)
        model = zoo.model("resnet8", shape=(1, 8, 8))
        save_file(model.state_dict(), folder / f"{name}.safetensors")
    torch.manual_seed(0)
    cut = zoo.model("resnet8", shape=(1, 8, 8)).state_dict()
    last = [name for name in cut if cut[name].dim() == 2][-1]
    cut[last][:, ::2] = 0
    torch.save(cut, folder / "cut.pth")
    return folder


def test_weights_by_anyone_are_compared(weights, tmp_path):
    options = ["--model", "zoo:resnet8", "--data", "digits", "--dense", weights / "a.safetensors",
               "--pruned", weights / "cut.pth", "--control", weights / "b.safetensors", "--out", tmp_path]  # fmt: skip
    code, printed = call("evaluate", *options, *QUICK, "--json")
    assert code == 0
    record = TrustRecord.model_validate(json.JSONDecoder().raw_decode(printed[printed.index("{") :])[0])
    assert [(m.name, m.role) for m in record.models] == [("dense", "dense"), ("cut", "pruned"), ("b", "control")]
    assert record.models[1].ratio > 0
    assert "What pruning broke" in (tmp_path / "trust.html").read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--shifts", "fog"], "Missing: --model, --data, --dense, --out, --pruned"),
        (["--model", "zoo:resnet8", "--data", "digits", "--dense", "no.pth", "--pruned", "no.pth"], "Missing: --out"),
        (["RUN", "--shifts", "fog", "--data", "digits"], "not both"),
        (["RUN", "--shifts", "fog", "--severities", "3.5"], "whole numbers such as 1,3,5"),
        (["RUN", "--shifts", "mist"], "no shift 'mist'"),
        (["RUN", "--shifts", "ood", "--ood", "digts"], "no data set named 'digts'"),
        (["nowhere", "--shifts", "fog"], "no record of a run at nowhere"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(finished, options, words):
    code, printed = call("evaluate", *(str(finished[0]) if option == "RUN" else option for option in options))
    assert code == 2
    assert words in printed


def test_a_run_that_cut_nothing_is_refused(tmp_path):
    recipe = tiny.VALUES | {"pruning": None, "out": str(tmp_path / "out")}
    for part in ("fine_tuning", "batch_norm"):
        recipe.pop(part)
    run(tiny.Recipe.of(recipe))
    with pytest.raises(CheckpointError, match="cut nothing"):
        of_run(tmp_path / "out")
