"""Size against counting and against the file itself."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save, save_model
from torch import nn
from torchvision.models import mobilenet_v3_small, resnet18

from secateur.measures import size


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(3, 2, dtype=torch.float64)
        self.half = nn.Linear(3, 5, dtype=torch.bfloat16)
        self.register_buffer("mask", torch.ones(7, dtype=torch.bool))
        self.register_buffer("scalar", torch.tensor(3, dtype=torch.uint8))
        self.register_buffer("größe", torch.zeros(2, 0))


@pytest.mark.parametrize("build", [resnet18, mobilenet_v3_small, Mixed, nn.Identity])
def test_bytes_are_those_of_the_file(build) -> None:
    model = build()
    assert size(model).bytes == len(save(model.state_dict()))


def test_counts() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    model[0].bias.requires_grad_(False)
    with torch.no_grad():
        model[0].weight[0] = 0.0
    found = size(model)
    zero_biases = 3  # of batch norm, as it starts
    assert (found.params, found.trainable) == (21, 18)
    assert found.nonzero == 21 - 4 - zero_biases - int((model[0].bias == 0).sum())


def test_tied_tensors_count_once(tmp_path) -> None:
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    model[1].weight = model[0].weight
    assert size(model).params == 64
    save_model(model, str(tmp_path / "file"))
    # save_model notes the second name in the header; the weights are written once.
    assert 0 <= (tmp_path / "file").stat().st_size - size(model).bytes < 100
