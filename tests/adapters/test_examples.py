"""The examples run, and do what they tell."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "examples"
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


def example(name: str, needs: str | None = None) -> ModuleType:
    if needs is not None:
        pytest.importorskip(needs, reason=f"needs {needs}")
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_plain_loop_masks_cuts_and_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    result = example("plain_loop").main(epochs=3, width=16)
    assert result["slim macs"] == pytest.approx(0.5 * result["dense macs"], rel=0.02)
    assert result["slim parameters"] < 0.7 * result["dense parameters"]
    assert result["test accuracy"] > 0.8
    assert "test accuracy" in capsys.readouterr().out


@pytest.mark.slow
def test_removal_policies_stand_side_by_side() -> None:
    found = example("decay_digits").compare(epochs=5, steps=6)
    assert list(found) == ["at once", "decay", "decay and rectify"]
    for row in found.values():
        assert row["macs"] <= 0.3
        assert row["stayed"] <= row["released"]
        assert row["accuracy"] > 0.5


def test_the_loop_is_the_same_when_it_is_run_again() -> None:
    module = example("plain_loop")
    assert module.main(epochs=2, width=4) == module.main(epochs=2, width=4)


def test_lightning_cuts_what_the_lasso_made_small() -> None:
    result = example("lightning_digits", "lightning").main(epochs=3, width=16)
    assert result["slim parameters"] < 0.7 * result["dense parameters"]
    assert result["test accuracy"] > 0.8


def test_a_text_model_is_cut_to_what_its_masks_left() -> None:
    before = torch.get_rng_state()
    result = example("transformers_text", "transformers").main(steps=30)
    torch.set_rng_state(before)
    assert result["cut loss"] == pytest.approx(result["masked loss"], rel=1e-5)
    assert result["masked loss"] < 0.9 * result["untrained loss"]
    assert result["slim parameters"] < 0.75 * result["dense parameters"]


def test_breast_cancer_is_read_off_a_few_edges(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = example("breast_cancer").main(epochs=25, edges=40, page=page)
    (row,) = result["runs"]
    assert row["counts"]["edges"] <= 40
    assert row["accuracy"] > 0.85
    assert sum(row["importance"].values()) == pytest.approx(1)
    assert len(row["importance"]) < 30
    assert all(name in page.read_text() for name in row["importance"])
