"""The recording run again: on the model's own tensors, on cut ones, and with statistics over kept entries."""

from __future__ import annotations

import pytest
import torch
from laws.networks import NETWORKS, network
from laws.reference import difference, kept_lines, kept_norms, masked_outputs, outputs, random_keep, redraw, zeroed
from torch import Tensor, nn

import secateur
from secateur.graph.cutting import cut_tensor
from secateur.graph.trace import named_tensors
from secateur.graph.units import Groups
from secateur.surgery.replay import interpret, replay


def wide(groups: Groups) -> tuple[dict[str, Tensor], list[Tensor]]:
    """The model's tensors and the example's, in float64."""
    tensors = {
        name: t.detach().double() if t.is_floating_point() else t
        for name, (_, t) in named_tensors(groups.model).items()
    }
    return tensors, [t.double() for t in groups.inputs[0]]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_whole_recording_is_the_model(name: str) -> None:
    model, example = network(name)
    groups = secateur.groups(redraw(model), example)
    assert difference(replay(groups.solution.recording, *wide(groups)), outputs(model, groups.inputs)) < 1e-12


@pytest.mark.parametrize("name", NETWORKS)
def test_the_recording_on_cut_tensors_is_the_masked_model(name: str) -> None:
    model, example = network(name)
    groups = secateur.groups(redraw(model), example)
    keep = random_keep(groups, seed=4)
    tensors, inputs = wide(groups)
    kept = groups.solution.kept(keep)
    cut = {n: cut_tensor(t, kept.get(n, {})) for n, t in tensors.items()}
    counts = groups.solution.counts({n: len(k) for n, k in keep.items()})
    assert difference(replay(groups.solution.recording, cut, inputs, counts), masked_outputs(groups, keep)) < 1e-9


@pytest.mark.parametrize("name", ["Transformer", "ConvNext", "GroupNormed", "Residual"])
def test_the_interpreted_recording_is_the_model_with_kept_norms(name: str) -> None:
    model, example = network(name)
    groups = secateur.groups(redraw(model), example)
    keep = random_keep(groups, seed=5)
    masked = zeroed(groups, keep)
    tensors = {n: t.detach() for n, (_, t) in named_tensors(masked).items()}
    interpreted = interpret(groups.solution.recording, tensors, wide(groups)[1], groups.solution.keep(keep))
    assert difference(interpreted, masked_outputs(groups, keep)) < 1e-9
    if any(g.proof == "kept statistics" and len(keep[g.name]) < g.units for g in groups):
        assert difference(replay(groups.solution.recording, tensors, wide(groups)[1]), interpreted) > 1e-3
        with kept_norms(kept_lines(groups, masked, keep)):
            assert nn.functional.layer_norm is not torch.layer_norm
