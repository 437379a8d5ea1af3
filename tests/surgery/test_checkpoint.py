"""Checkpoints: what comes back is what was saved, in a process that knows nothing but the constructor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from laws.networks import Flatten, Tied, network
from laws.reference import random_plan, redraw
from safetensors.torch import load_file
from torch import nn

import secateur
from secateur.surgery import describe


def test_the_folder_holds_two_files_and_tells_its_story(tmp_path: Path) -> None:
    model, example = network("Flatten")
    groups = secateur.groups(model, example)
    slim = secateur.slim(groups, secateur.plan(groups, budget="60% macs", round_to=1))
    folder = secateur.save(slim, tmp_path / "deep" / "out", constructor={"name": "flatten", "width": 12})
    assert sorted(p.name for p in folder.iterdir()) == ["model.safetensors", "plan.json"]
    told = describe(folder)
    assert told["format"] == "secateur checkpoint"
    assert told["constructor"] == {"name": "flatten", "width": 12}
    assert told["budget"]["asked"] == "60% macs"
    assert told["budget"]["after"]["macs"] < told["budget"]["before"]["macs"]
    assert told["shapes"]["conv1.weight"] == [12, 3, 3, 3]
    assert len(told["kept"]["conv1.weight"]["0"]) == slim.conv1.out_channels
    assert told["proof"]["masked"] <= 1e-9
    assert {g["name"] for g in told["groups"]} == {"conv1", "conv2", "fc1"}
    assert load_file(folder / "model.safetensors").keys() == dict(slim.state_dict()).keys()


def test_a_fresh_process_gives_the_same_outputs(tmp_path: Path) -> None:
    model, example = network("Flatten")
    groups = secateur.groups(redraw(model), example)
    slim = secateur.slim(groups, random_plan(groups))
    secateur.save(slim, tmp_path)
    np.save(tmp_path / "x.npy", example.numpy())
    code = (
        "import sys, numpy, torch, secateur; from laws.networks import Flatten\n"
        "x = torch.from_numpy(numpy.load(sys.argv[1] + '/x.npy'))\n"
        "torch.set_num_threads(1)\n"
        "numpy.save(sys.argv[1] + '/y.npy', secateur.load(Flatten, sys.argv[1])(x).detach().numpy())\n"
    )
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env={**os.environ, "PYTHONPATH": paths})
    assert np.array_equal(np.load(tmp_path / "y.npy"), slim(example).detach().numpy())


def test_a_model_that_was_never_cut(tmp_path: Path) -> None:
    model = redraw(Flatten())
    back = secateur.load(Flatten, secateur.save(model, tmp_path))
    example = torch.randn(model.example)
    assert torch.equal(back(example), model(example))


def test_ties_come_back_tied(tmp_path: Path) -> None:
    tokens = torch.randint(0, 11, (2, 5))
    groups = secateur.groups(redraw(Tied()), tokens)
    slim = secateur.slim(groups, random_plan(groups))
    back = secateur.load(Tied, secateur.save(slim, tmp_path))
    assert back.out.weight is back.table.weight
    assert torch.equal(back(tokens), slim(tokens))
    assert "out.weight" not in load_file(tmp_path / "model.safetensors")


class Buffered(nn.Module):
    """Buffers that are not saved, integers, frozen parameters and half precision."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 12), nn.Linear(12, 4)
        self.register_buffer("scale", torch.linspace(1, 2, 12), persistent=False)
        self.register_buffer("calls", torch.tensor(3))
        self.plain = torch.linspace(2, 3, 12)
        self.first.bias.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(self.first(x)) * self.scale + self.plain.to(x.dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_tensors_that_are_not_saved_are_cut_again(tmp_path: Path, dtype: torch.dtype) -> None:
    model, example = Buffered().to(dtype).eval(), torch.randn(3, 6, dtype=dtype)
    groups = secateur.groups(model, example)
    slim = secateur.slim(groups, random_plan(groups))
    back = secateur.load(lambda: Buffered().to(dtype), secateur.save(slim, tmp_path))
    assert torch.equal(back(example), slim(example))
    assert back.first.weight.dtype == dtype
    assert not back.first.bias.requires_grad
    assert back.calls == 3
    assert not back.training
    assert "scale" not in load_file(tmp_path / "model.safetensors")


def test_a_saved_dtype_wins_over_the_constructors(tmp_path: Path) -> None:
    model, example = network("Flatten")
    groups = secateur.groups(model, example)
    slim = secateur.slim(groups, random_plan(groups)).half()
    back = secateur.load(Flatten, secateur.save(slim, tmp_path))
    assert back.conv1.weight.dtype == torch.float16


@pytest.mark.parametrize("kind", ["elements", "blocks"])
def test_masks_are_packed_bits(tmp_path: Path, kind: str) -> None:
    model, example = network("Flatten")
    groups = secateur.elements(model) if kind == "elements" else secateur.blocks(model, 3, 5)
    slim = secateur.slim(groups, secateur.plan(groups, budget="20% weights"))
    secateur.save(slim, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    packed = stored["mask of fc1.weight"]
    assert (packed.dtype, packed.numel()) == (torch.uint8, -(-14 * 160 // 8))
    back = secateur.load(Flatten, tmp_path)
    assert torch.equal(back(example), slim(example))
    masks, theirs = secateur.record(back).masks, secateur.record(slim).masks
    assert masks.keys() == theirs.keys()
    assert all(torch.equal(masks[name], theirs[name]) for name in masks)


def test_a_cut_after_masks_and_a_training_step(tmp_path: Path) -> None:
    """A slim module is trained, saved, loaded, cut again and saved again."""
    model, example = network("Residual")
    groups = secateur.groups(redraw(model), example)
    slim = secateur.slim(groups, random_plan(groups, share=0.75))
    optimizer = torch.optim.SGD(slim.parameters(), lr=0.01)
    slim.train()(example).pow(2).sum().backward()
    optimizer.step()
    back = secateur.load(type(model), secateur.save(slim.eval(), tmp_path))
    assert torch.equal(back(example), slim(example))
    later = secateur.groups(back, example)
    smaller = secateur.slim(later, random_plan(later, share=0.5))
    twice = secateur.load(type(model), secateur.save(smaller, tmp_path))
    assert torch.equal(twice(example), smaller(example))
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["shapes"]["stem.weight"] == [8, 3, 3, 3]
    assert set(plan["kept"]["stem.weight"]["0"]) <= set(range(8))
    assert plan["budget"]["before"]["params"] == sum(p.numel() for p in model.parameters())
