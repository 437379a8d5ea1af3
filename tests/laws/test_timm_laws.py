"""The laws of a cut over timm: whatever its architectures do, half of every group leaves, proven twice."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from laws.reference import difference, exact, masked_outputs, outputs, permuted, random_plan, redraw

import secateur

pytest.importorskip("timm")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from zoo_timm import CHOSEN, MODELS, architectures

FAMILIES = {
    "beit": "tables of biases", "coat": "modules shared among branches", "convit": "gates between attentions",
    "cspnet": "stages in part", "edgenext": "chunks that do not divide a width", "efficientformer_v2": "kept biases",
    "efficientvit_msra": "a cascade of heads", "eva": "rotary positions", "gemma4_vit": "grouped queries",
    "ghostnet": "cheap halves", "hrnet": "branches of several sizes", "levit": "kept biases, norms in layers",
    "mlp_mixer": "gates over places", "nfnet": "standardised weights", "regnet": "groups of channels, excited",
    "sequencer": "recurrent layers in two directions", "swin_transformer": "shifted windows, merged patches",
    "twins": "windows and summaries", "vision_transformer": "norms of queries and keys",
}  # fmt: skip


def test_every_architecture_of_the_installed_timm_is_in_the_zoo() -> None:
    assert set(architectures()) <= set(MODELS)
    assert set(CHOSEN) <= set(architectures()), "a module has left timm"


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_architectures(name: str) -> None:
    """Units may change places; exact groups equal zeros; random halves and budgets are proven; plans promise right."""
    model, example = MODELS[name]()
    groups = secateur.groups(redraw(model), example)
    names = [g.name for g in groups]
    assert difference(outputs(permuted(groups), groups.inputs), outputs(model, groups.inputs)) < 1e-9
    plan = random_plan(groups, seed=2, only=exact)
    assert difference(outputs(secateur.slim(groups, plan), groups.inputs), masked_outputs(groups, plan.keep)) < 1e-9
    budget = secateur.plan(groups, budget="50% macs", round_to=1)
    assert abs(budget.reached.macs / budget.dense.macs - 0.5) < 0.02
    for other in (random_plan(groups, share=0.3), random_plan(groups, seed=1), budget):
        slim = secateur.slim(groups, other)
        assert secateur.record(slim).proof.holds
        assert sum(p.numel() for p in slim.parameters()) == other.reached.params
        assert [g.name for g in groups] == names


@pytest.mark.slow
@pytest.mark.parametrize("name", ["levit", "eva", "sequencer"])
def test_slim_architectures_are_saved_and_trained(name: str, tmp_path: Path) -> None:
    model, example = MODELS[name]()
    groups = secateur.groups(model, example)
    slim = secateur.slim(groups, random_plan(groups))
    secateur.save(slim, tmp_path)
    with torch.no_grad():
        assert torch.equal(secateur.load(lambda: MODELS[name]()[0], tmp_path)(example), slim(example))
    slim.train()
    slim(torch.cat([example, example.flip(3)])).square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in slim.parameters())
