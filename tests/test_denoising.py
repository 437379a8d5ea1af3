"""A network that takes noise off images is pruned under every removal as one that classifies is."""

from __future__ import annotations

import pytest
import tiny
import torch
from torch import nn

EXAMPLE = tiny.script("examples/decay_denoising.py")


def test_psnr_by_hand():
    clean = torch.full((2, 1, 4, 4), 0.5)
    noisy = clean + torch.tensor([0.1, 0.01]).view(2, 1, 1, 1)
    assert EXAMPLE["psnr"](nn.Identity(), [(noisy, clean)]) == pytest.approx(30.0)


@pytest.mark.slow
def test_noise_is_taken_off_within_the_budget():
    found = EXAMPLE["compare"]("digits", limit=512, epochs=8, steps=10, budget="60% macs", width=16, depth=3)
    assert list(found) == ["noisy", "dense", "at once", "decay", "decay and rectify"]
    assert 20 < found["noisy"]["psnr"] < 23  # 10 log10(255^2 / 25^2), and what clipping mends
    for name in list(found)[1:]:
        assert found[name]["psnr"] > found["noisy"]["psnr"] + 0.3
        assert found[name]["macs"] <= (1.0 if name == "dense" else 0.6)
