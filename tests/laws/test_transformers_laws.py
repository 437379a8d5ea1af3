"""The laws of a cut over Hugging Face Transformers: proven, run at other lengths, trained, used to write, saved."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from laws.reference import exact, random_plan, redraw, zeroed
from torch import Tensor, nn

import secateur
from secateur.graph.trace import tensors_of
from secateur.graph.units import Groups
from secateur.surgery.verify import Verifier

pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from zoo_transformers import MODELS, another

FAST = ["distilbert", "llama-gqa"]
SLOW = [
    "bert", "albert", "deberta-v2", "gpt2", "opt", "gpt-neox", "falcon-new", "qwen3", "gemma2", "phi3", "mixtral",
    "mamba", "mamba2", "t5", "bart", "whisper", "wav2vec2", "vit", "swin", "segformer", "clip", "detr",
]  # fmt: skip
PLACED = [pytest.param(name, marks=pytest.mark.slow) for name in SLOW]
MEMORY = ("past_key_values", "cache_params", "state", "mems")


def results(model: nn.Module, example: Mapping[str, Any]) -> list[Tensor]:
    """Every tensor that a model returns, but for what it wants back."""
    with torch.no_grad():
        output = model(**example)
    return [t for name, value in output.items() if name not in MEMORY for t in tensors_of(value)]


def near(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    assert [t.shape for t in ours] == [t.shape for t in theirs]
    return all(torch.allclose(a, b, atol=1e-4 * float(b.abs().max())) for a, b in zip(ours, theirs, strict=True))


def cut(name: str, **how: Any) -> tuple[Groups, nn.Module, nn.Module, dict[str, Any]]:
    """Groups, a slim model of a random half of the units, the masked model, and the example; exactly comparable."""
    model, example = MODELS[name]()
    redraw(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    groups = secateur.groups(model, example, **how)
    plan = random_plan(groups, seed=3, only=exact)
    slim = secateur.slim(groups, plan)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert secateur.record(slim).proof.holds
    return groups, slim, zeroed(groups, plan.keep).float(), example


@pytest.mark.parametrize("name", [*FAST, *PLACED])
def test_half_of_every_group_leaves_and_the_rest_works_on(name: str) -> None:
    model, example = MODELS[name]()
    groups = secateur.groups(redraw(model), example)
    count = len(groups)
    plan = secateur.plan(groups, budget="50% channels", allocation="uniform", round_to=1)
    slim = secateur.slim(groups, plan)
    assert len(groups) == count > 0
    assert secateur.record(slim).proof.holds
    longer = secateur.groups(model, another(example))
    assert [g.name for g in longer] == [g.name for g in groups]
    assert Verifier(longer).prove(slim, {n: k for n, k in plan.keep.items() if len(k) < plan.units[n]}).holds
    slim.train()
    sum(t.float().square().mean() for t in tensors_of(slim(**example)) if t.requires_grad).backward()
    assert any(p.grad is not None for p in slim.parameters())
    assert all(torch.isfinite(p.grad).all() for p in slim.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", [*FAST, *PLACED])
def test_the_masked_model_and_the_slim_one_agree_and_write_the_same(name: str, tmp_path: Path) -> None:
    _, slim, masked, example = cut(name)
    assert near(results(slim, another(example)), results(masked, another(example)))
    if slim.can_generate():
        ids = {key: value for key, value in example.items() if key != "decoder_input_ids"}
        written = [write(m, ids, use_cache=cache) for m, cache in ((slim, True), (slim, False), (masked, True))]
        assert torch.equal(written[0], written[1])
        assert torch.equal(written[0], written[2])
    back = secateur.load(lambda: MODELS[name]()[0], secateur.save(slim, tmp_path))
    for ours, theirs in zip(tensors_of(back(**example)), tensors_of(slim(**example)), strict=True):
        assert torch.equal(ours, theirs)


def write(model: nn.Module, ids: Mapping[str, Tensor], **how: Any) -> Tensor:
    generate: Callable[..., Tensor] = model.generate
    with torch.no_grad():
        return generate(**ids, max_new_tokens=5, min_new_tokens=5, do_sample=False, num_beams=1, **how)


@pytest.mark.parametrize("name", ["llama-gqa", *(p for p in PLACED if p.values[0] in ("bert", "gpt2", "vit", "t5"))])
def test_head_sizes_keep_the_scale_of_attention(name: str) -> None:
    groups, slim, masked, example = cut(name, heads="inner")
    assert near(results(slim, example), results(masked, example))
    assert any(g.multiple > 1 for g in groups)


@pytest.mark.parametrize("name", ["llama-gqa", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_a_uniform_cut_is_a_model_of_the_same_class(name: str) -> None:
    model, example = MODELS[name]()
    groups = secateur.groups(redraw(model), example)
    slim = secateur.slim(groups, secateur.plan(groups, budget="50% channels", allocation="uniform", round_to=1))
    fresh = type(model)(slim.config).eval()
    fresh.load_state_dict(slim.state_dict())
    numbers = {key: value for key, value in vars(slim.config).items() if vars(model.config).get(key) != value}
    assert len(numbers) >= 2
    assert results(fresh, example)[0].shape == results(slim, example)[0].shape


@pytest.mark.slow
@pytest.mark.parametrize("name", ["t5", "bart"])
def test_streams_shrink_where_their_end_is_no_result_that_counts(name: str) -> None:
    model, example = MODELS[name]()
    whole = secateur.groups(redraw(model), example)
    groups = secateur.groups(model, example, outputs=["logits"])
    assert groups.cost(groups.balance({})).params == whole.cost(whole.balance({})).params
    assert {g.units for g in groups} - {g.units for g in whole} == {32}
    assert secateur.record(secateur.slim(groups, random_plan(groups))).proof.holds
