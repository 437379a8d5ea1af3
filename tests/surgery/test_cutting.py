"""Cutting tensors and copying models."""

from __future__ import annotations

import torch
from laws.networks import Tied
from torch import nn

from secateur.graph.cutting import cut_tensor, like, rebuild
from secateur.surgery.record import Record


def test_a_tensor_is_cut_along_several_dimensions() -> None:
    tensor = torch.arange(24.0).view(4, 6)
    kept = {0: torch.tensor([1, 3]), 1: torch.tensor([0, 5])}
    assert cut_tensor(tensor, kept).tolist() == [[6, 11], [18, 23]]
    assert cut_tensor(tensor, {}).equal(tensor)
    parameter = nn.Parameter(tensor, requires_grad=False)
    cut = cut_tensor(parameter, kept)
    assert isinstance(cut, nn.Parameter)
    assert not cut.requires_grad
    assert like(tensor, tensor[:1]).shape == (1, 6)


def test_a_rebuilt_model_shares_nothing_and_keeps_its_ties() -> None:
    model = Tied()
    wide = nn.Parameter(torch.zeros(11, 8))
    copy = rebuild(model, {"table.weight": wide})
    assert copy.table.weight is wide
    assert copy.out.weight is wide
    assert model.table.weight.shape == (11, 16)
    own = {p.data_ptr() for p in model.parameters()}
    assert not own & {p.data_ptr() for p in copy.parameters()}


def test_records_compose_in_terms_of_the_original() -> None:
    first = Record(
        kept={"a": {0: torch.tensor([1, 3, 5, 7])}},
        shapes={"a": (8, 4)},
        attributes=(("m", "width", 4), ("m", "heads", 2)),
        before={"macs": 100},
        after={"macs": 60},
    )
    second = Record(
        kept={"a": {0: torch.tensor([0, 2]), 1: torch.tensor([3])}, "b": {0: torch.tensor([1])}},
        shapes={"a": (4, 4), "b": (2,)},
        attributes=(("m", "width", 2),),
        before={"macs": 60},
        after={"macs": 30},
    )
    both = first.then(second)
    assert both.kept["a"][0].tolist() == [1, 5]
    assert both.kept["a"][1].tolist() == [3]
    assert both.kept["b"][0].tolist() == [1]
    assert both.shapes == {"a": (8, 4), "b": (2,)}
    assert both.attributes == (("m", "width", 2), ("m", "heads", 2))
    assert (both.before, both.after) == ({"macs": 100}, {"macs": 30})
    assert first.kept["a"][0].tolist() == [1, 3, 5, 7]
