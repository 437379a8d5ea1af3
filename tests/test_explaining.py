"""The command `explain` on finished runs."""

from __future__ import annotations

import tiny
from typer.testing import CliRunner

from secateur import cli
from secateur.run import run

TABLE = {
    "model__spec": "zoo:lenet_300_100",
    "data__name": "wine",
    "data__limit": None,
    "training__epochs": 5,
    "pruning__units": "weights",
    "pruning__budget": "4% weights",
    "pruning__allocation": "uniform",
    "batch_norm__batches": 0,
    "measures__latency": False,
}


def call(*arguments):
    result = CliRunner(env={"COLUMNS": "160", "TERM": "dumb"}).invoke(cli.app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_explain_draws_the_network_of_a_run_and_opens_it(tmp_path, monkeypatch):
    import webbrowser

    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    run(tiny.recipe(tmp_path / "out", **TABLE))
    result = call("explain", tmp_path / "out", "--open", "--allow-lost")
    assert result.exit_code == 0, result.output
    page = tmp_path / "out" / "pathways.html"
    assert opened == [page.resolve().as_uri()]
    text = page.read_text()
    assert "lenet_300_100 on wine" in text
    assert "proline" in text
    assert "class_0" in text


def test_explain_needs_a_finished_run_of_a_chain(tmp_path):
    missing = call("explain", tmp_path)
    assert missing.exit_code == 2
    assert str(tmp_path) in missing.output.replace("\n", "")
    run(tiny.recipe(tmp_path / "out", training__epochs=1, fine_tuning__epochs=0, measures__latency=False))
    convolved = call("explain", tmp_path / "out")
    assert convolved.exit_code == 2
    assert "chain of linear layers" in convolved.output.replace("\n", " ")
    assert not (tmp_path / "out" / "pathways.html").exists()
