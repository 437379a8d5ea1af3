"""The laws of a cut over torchvision's architectures and small odd networks, proven twice: once by the test itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from laws.networks import NETWORKS, Tied, network
from laws.reference import check_laws, difference, exact, masked_outputs, outputs, random_plan, redraw
from torch import Tensor, nn
from torchvision.models.detection import anchor_utils, ssd
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2
from torchvision.models.video.mvit import MSBlockConfig

import secateur
from secateur.planning import Plan

ZOO = {
    "alexnet": 64, "convnext_tiny": 32, "densenet121": 32, "efficientnet_b0": 32, "efficientnet_v2_s": 32,
    "googlenet": 64, "inception_v3": 96, "maxvit_t": 224, "mnasnet0_5": 32, "mobilenet_v2": 32,
    "mobilenet_v3_large": 32, "mobilenet_v3_small": 32, "regnet_x_400mf": 32, "regnet_y_400mf": 32, "resnet18": 32,
    "resnet34": 32, "resnet50": 32, "resnext50_32x4d": 32, "shufflenet_v2_x0_5": 32, "squeezenet1_0": 64,
    "squeezenet1_1": 64, "swin_t": 64, "swin_v2_t": 64, "vgg11": 32, "vgg11_bn": 32, "vit_b_16": 32, "vit_b_32": 64,
    "wide_resnet50_2": 32,
}  # fmt: skip


def architecture(name: str) -> tuple[nn.Module, Tensor]:
    """An architecture of torchvision with random weights, and the smallest image it was tried on."""
    torch.manual_seed(0)
    special = {"googlenet": {"init_weights": False}, "inception_v3": {"init_weights": False}}
    sized = {"image_size": ZOO[name]} if name.startswith("vit") else {}
    model = torchvision.models.get_model(name, weights=None, **special.get(name, {}), **sized)
    return model.eval(), torch.randn(1, 3, ZOO[name], ZOO[name])


def picture(side: int) -> tuple[list[Tensor]]:
    torch.manual_seed(1)
    return ([torch.rand(3, side, side)],)


BARE: dict[str, Any] = {"weights_backbone": None}
FAMILIES: dict[str, tuple[dict[str, Any], Callable[[], Any]]] = {
    "deeplabv3_mobilenet_v3_large": (BARE | {"aux_loss": True}, lambda: torch.randn(1, 3, 32, 32)),
    "fcn_resnet50": (BARE | {"aux_loss": True}, lambda: torch.randn(1, 3, 32, 32)),
    "lraspp_mobilenet_v3_large": (BARE, lambda: torch.randn(1, 3, 32, 32)),
    "mc3_18": ({}, lambda: torch.randn(1, 3, 4, 16, 16)),
    "r2plus1d_18": ({}, lambda: torch.randn(1, 3, 4, 16, 16)),
    "r3d_18": ({}, lambda: torch.randn(1, 3, 4, 16, 16)),
    "swin3d_t": ({}, lambda: torch.randn(1, 3, 4, 32, 32)),
    "fasterrcnn_mobilenet_v3_large_320_fpn": (
        BARE | {"min_size": 64, "box_score_thresh": 0.0, "box_detections_per_img": 4, "rpn_post_nms_top_n_test": 10},
        lambda: picture(64),
    ),
    "fcos_resnet50_fpn": (BARE | {"min_size": 64, "score_thresh": 0.0, "topk_candidates": 10}, lambda: picture(64)),
    "retinanet_resnet50_fpn": (
        BARE | {"min_size": 64, "score_thresh": 0.0, "topk_candidates": 10},
        lambda: picture(64),
    ),
    "ssdlite320_mobilenet_v3_large": (BARE | {"score_thresh": 0.0, "topk_candidates": 10}, lambda: picture(64)),
}


def small_swin(two: bool) -> nn.Module:
    sizes = {"patch_size": [4, 4], "embed_dim": 24, "depths": [2, 2], "num_heads": [3, 6], "window_size": [4, 4]}
    later = {"block": SwinTransformerBlockV2, "downsample_layer": PatchMergingV2} if two else {}
    return torchvision.models.SwinTransformer(**sizes, **later, num_classes=7)


def small_maxvit() -> nn.Module:
    return torchvision.models.MaxVit(
        (32, 32), 16, 4, [16, 32], [1, 1], head_dim=8, stochastic_depth_prob=0.0, num_classes=7
    )


def small_vit() -> nn.Module:
    return torchvision.models.VisionTransformer(16, 4, 2, 4, 32, 48, num_classes=7)


def small_densenet() -> nn.Module:
    return torchvision.models.DenseNet(8, (2, 3), 12, bn_size=2, num_classes=7)


def small_mvit(two: bool) -> nn.Module:
    """Attention over pooled keys, whose queries are pooled and widened between two stages."""
    parts = {"kernel_q": [3, 3, 3], "kernel_kv": [3, 3, 3], "stride_kv": [1, 2, 2]}
    blocks = [
        MSBlockConfig(4, 24, 24, stride_q=[1, 1, 1], **parts),
        MSBlockConfig(4, 24, 48, stride_q=[1, 2, 2], **parts),
    ]
    return torchvision.models.video.MViT(
        (16, 16), 4, blocks, residual_pool=two, residual_with_cls_embed=not two, rel_pos_embed=two,
        proj_after_attn=two, num_classes=7,
    )  # fmt: skip


def small_ssd() -> nn.Module:
    """A detector of two feature maps."""
    maps = nn.Sequential(nn.Conv2d(3, 12, 3, stride=4), nn.ReLU(), nn.Conv2d(12, 16, 3, stride=2), nn.ReLU())
    backbone = create_feature_extractor(maps, {"1": "0", "3": "1"})
    anchors = anchor_utils.DefaultBoxGenerator([[2], [2]])
    return ssd.SSD(backbone, anchors, (32, 32), 3, head=None, score_thresh=0.0, topk_candidates=6, detections_per_img=4)


OTHER: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]] = {
    "mvit v1": (lambda: small_mvit(two=False), lambda: torch.randn(1, 3, 4, 16, 16)),
    "mvit v2": (lambda: small_mvit(two=True), lambda: torch.randn(1, 3, 4, 16, 16)),
    "ssd": (small_ssd, lambda: picture(32)),
}
SMALL: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "densenet": (small_densenet, 32),
    "maxvit": (small_maxvit, 32),
    "swin": (lambda: small_swin(two=False), 32),
    "swin v2": (lambda: small_swin(two=True), 32),
    "vit": (small_vit, 16),
    "mobilenet v3 small": (lambda: torchvision.models.mobilenet_v3_small(width_mult=0.5), 32),
    "regnet x 400mf": (torchvision.models.regnet_x_400mf, 32),
    "resnet18": (torchvision.models.resnet18, 32),
    "shufflenet v2 x0.5": (torchvision.models.shufflenet_v2_x0_5, 32),
    "squeezenet1_1": (torchvision.models.squeezenet1_1, 64),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("seed", [0, 1])
def test_odd_networks(name: str, seed: int) -> None:
    model, example = network(name)
    check_laws(model, example, seed=seed)


@pytest.mark.parametrize("name", ["Transformer", "Rotary"])
def test_inner_head_sizes(name: str) -> None:
    model, example = network(name)
    groups, _ = check_laws(model, example, heads="inner")
    whole = secateur.groups(model, example)
    assert {g.units for g in groups} != {g.units for g in whole}


def test_a_tied_language_model() -> None:
    groups, slim = check_laws(Tied(), torch.randint(0, 11, (2, 5)))
    assert slim.out.weight is slim.table.weight
    assert slim.table.embedding_dim == slim.out.in_features == slim.block.norm.normalized_shape[0] == 8
    assert len(groups) == 2


@pytest.mark.parametrize("name", SMALL)
def test_small_architectures(name: str) -> None:
    build, side = SMALL[name]
    torch.manual_seed(0)
    check_laws(build(), torch.randn(1, 3, side, side))


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_whole_architectures(name: str) -> None:
    model, example = architecture(name)
    groups, slim = check_laws(model, example)
    assert sum(p.numel() for p in slim.parameters()) < 0.7 * sum(p.numel() for p in model.parameters())
    again = random_plan(groups, seed=1, share=0.3)
    other = secateur.slim(groups, again)
    assert secateur.record(other).proof.holds
    assert difference(outputs(other, groups.inputs), masked_outputs(groups, again.keep)) < 1e-9


@pytest.mark.parametrize("name", OTHER)
def test_small_families(name: str) -> None:
    build, example = OTHER[name]
    torch.manual_seed(0)
    groups, slim = check_laws(build(), example())
    assert sum(p.numel() for p in slim.parameters()) < 0.6 * sum(p.numel() for p in groups.model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_whole_families(name: str) -> None:
    """Segmentation, video and detection."""
    settings, example = FAMILIES[name]
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None, **settings)
    groups, slim = check_laws(model, example())
    assert sum(p.numel() for p in slim.parameters()) < 0.4 * sum(p.numel() for p in model.parameters())
    assert not groups.unreached


@pytest.mark.slow
def test_optical_flow() -> None:
    """It computes positions in single precision whatever its weights are, so only the proof can compare it."""
    torch.manual_seed(0)
    model = redraw(torchvision.models.optical_flow.raft_small())
    groups = secateur.groups(model, (torch.rand(1, 3, 128, 128), torch.rand(1, 3, 128, 128), 2))
    slim = secateur.slim(groups, random_plan(groups))
    assert secateur.record(slim).proof.holds
    assert sum(p.numel() for p in slim.parameters()) < 0.4 * sum(p.numel() for p in model.parameters())
    assert any("a number is computed from this width" in f.reason for f in groups.frozen)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet50", "swin_t", "densenet121", "mobilenet_v2"])
@pytest.mark.parametrize("allocation", ["global", "uniform"])
def test_budgets(name: str, allocation: str) -> None:
    model, example = architecture(name)
    redraw(model)
    groups = secateur.groups(model, example)
    plan = secateur.plan(groups, budget="50% macs", allocation=allocation)
    slim = secateur.slim(groups, plan)
    assert secateur.record(slim).proof.holds
    assert difference(outputs(slim, groups.inputs), masked_outputs(groups, plan.keep)) < 1e-9


@pytest.mark.parametrize("name", ["Residual", "Transformer", "Shuffle"])
def test_budgets_of_odd_networks(name: str) -> None:
    model, example = network(name)
    groups = secateur.groups(redraw(model), example)
    plan = secateur.plan(groups, budget="60% macs", round_to=1)
    assert plan.reached.macs <= 0.61 * plan.dense.macs
    slim = secateur.slim(groups, plan)
    assert secateur.record(slim).proof.holds
    assert difference(outputs(slim, groups.inputs), masked_outputs(groups, plan.keep)) < 1e-9


@pytest.mark.parametrize("name", NETWORKS)
def test_zeroed_units_of_exact_groups_are_absent_units(name: str) -> None:
    model, example = network(name)
    groups = secateur.groups(redraw(model), example)
    plan = random_plan(groups, seed=3, only=exact)
    slim = secateur.slim(groups, plan)
    zeroed = masked_outputs(groups, plan.keep)
    assert difference(outputs(slim, groups.inputs), zeroed) < 1e-9
    if plan.reached != plan.dense:  # torch's attention wants as many heads as its embedding has room for
        assert difference(outputs(model, groups.inputs), zeroed) > 1e-4


@pytest.mark.parametrize("name", ["Residual", "Transformer", "Shuffle", "Grouped", "Rotary"])
def test_slim_of_slim_is_one_cut(name: str, tmp_path: Path) -> None:
    model, example = network(name)
    groups = secateur.groups(redraw(model), example)
    first = random_plan(groups, seed=1, share=0.75)
    once = secateur.slim(groups, first)
    later = secateur.groups(once, example)
    assert [g.name for g in later] == [g.name for g in groups]
    second = random_plan(later, seed=2, share=0.6)
    twice = secateur.slim(later, second)
    assert secateur.record(twice).proof.holds
    both = {g.name: first.keep[g.name][second.keep[g.name]] for g in groups}
    direct = secateur.slim(groups, Plan.of(groups, both))
    assert_same(twice, direct)
    assert_same_record(twice, direct)
    secateur.save(twice, tmp_path)
    torch.manual_seed(0)
    assert_same(secateur.load(type(model), tmp_path), twice)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_saved_model_and_a_saved_plan_come_back(name: str, tmp_path: Path) -> None:
    model, example = network(name)
    groups = secateur.groups(redraw(model), example)
    plan = random_plan(groups, seed=1)
    slim = secateur.slim(groups, plan)
    secateur.save(slim, tmp_path)
    back = secateur.load(type(model), tmp_path)
    assert torch.equal(back(example), slim(example))
    assert_same(back, slim)
    assert_same_record(back, slim)
    again = secateur.slim(secateur.groups(model, example), Plan.load(plan.save(tmp_path / "units.json")))
    assert torch.equal(again(example), slim(example))
    assert_same(again, slim)
    later = secateur.groups(back, example)
    again = secateur.slim(later, random_plan(later, share=0.7))
    assert again(example).shape == back(example).shape


def assert_same(ours: nn.Module, theirs: nn.Module) -> None:
    """Bit-equal tensors of equal names, and equal numbers in every module."""
    a, b = ours.state_dict(), theirs.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    for one, other in zip(ours.modules(), theirs.modules(), strict=True):
        assert numbers(one) == numbers(other)


def numbers(module: nn.Module) -> dict[str, object]:
    return {k: v for k, v in vars(module).items() if isinstance(v, int | tuple)}


def assert_same_record(ours: nn.Module, theirs: nn.Module) -> None:
    a, b = secateur.record(ours), secateur.record(theirs)
    assert a.shapes == b.shapes
    assert {n: {d: i.tolist() for d, i in k.items()} for n, k in a.kept.items()} == {
        n: {d: i.tolist() for d, i in k.items()} for n, k in b.kept.items()
    }
    assert sorted(map(repr, a.attributes)) == sorted(map(repr, b.attributes))
