"""Every model of torchvision with random weights, and the smallest example that is worth cutting for.

`MODELS` maps a name to a function that builds the model, in evaluation mode, and what it is called with. Images are of
64 pixels where an architecture allows it. Detectors keep boxes whatever their score, since random weights are sure of
nothing; otherwise the parts that look at boxes would never run.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
import torchvision
from torch import nn
from torchvision.models import detection, optical_flow, segmentation, video

Built = tuple[nn.Module, Any]

SIDES = {"inception_v3": 299, "maxvit_t": 224}
PLAIN_WEIGHTS: dict[str, Any] = {"init_weights": False}  # the usual ones take a minute to draw


def build(name: str, example: Callable[[], Any], **settings: Any) -> Built:
    """A model by its registered name, in evaluation mode, and its example."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None, **settings).eval()
    return model, example()


def images(*shape: int) -> torch.Tensor:
    return torch.rand(1, *shape)


def pictures(side: int) -> tuple[list[torch.Tensor]]:
    """What detectors are called with: a list of pictures."""
    return ([torch.rand(3, side, side)],)


def frames(side: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Two frames and the number of flow updates."""
    return images(3, side, side), images(3, side, side), 2


def classifiers() -> dict[str, Callable[[], Built]]:
    """All classification models; auxiliary heads are there as they are by default."""
    found: dict[str, Callable[[], Built]] = {}
    for name in torchvision.models.list_models(module=torchvision.models):
        side = SIDES.get(name, 56 if name == "vit_h_14" else 64)
        settings = PLAIN_WEIGHTS if name in ("googlenet", "inception_v3") else {}
        sized = {"image_size": side} if name.startswith("vit") else {}
        found[name] = partial(build, name, partial(images, 3, side, side), **settings, **sized)
    return found


def segmenters() -> dict[str, Callable[[], Built]]:
    """All segmentation models, with the auxiliary head where there is one."""
    found: dict[str, Callable[[], Built]] = {}
    for name in torchvision.models.list_models(module=segmentation):
        side_head = {} if name.startswith("lraspp") else {"aux_loss": True}
        found[name] = partial(build, name, partial(images, 3, 64, 64), weights_backbone=None, **side_head)
    return found


CLIPS = {"mvit": (8, 64), "s3d": (16, 224), "swin3d": (4, 64)}  # frames and pixels; others take 8 of 32


def films() -> dict[str, Callable[[], Built]]:
    """All video models."""
    found: dict[str, Callable[[], Built]] = {}
    for name in torchvision.models.list_models(module=video):
        length, side = CLIPS.get(name.split("_", maxsplit=1)[0], (8, 32))
        made = resized if name.startswith("mvit") else build
        found[name] = partial(made, name, partial(images, 3, length, side, side))
    return found


def resized(name: str, example: Callable[[], torch.Tensor]) -> Built:
    """A vision transformer for clips of the example's size; its builder knows one size alone, its class any."""
    length, *sides = example().shape[2:]
    whole = video.mvit.MViT

    def smaller(**settings: Any) -> nn.Module:
        return whole(**{**settings, "spatial_size": tuple(sides), "temporal_size": length})

    with patch.object(video.mvit, "MViT", smaller):
        return build(name, example)


def detectors() -> dict[str, Callable[[], Built]]:
    """All detection models, on small pictures and few boxes."""
    found: dict[str, Callable[[], Built]] = {}
    for name in torchvision.models.list_models(module=detection):
        settings: dict[str, Any] = {"weights_backbone": None, "detections_per_img": 5, "score_thresh": 0.0}
        if "rcnn" in name:
            settings = {"weights_backbone": None, "box_detections_per_img": 5, "box_score_thresh": 0.0}
            settings |= {"min_size": 128, "rpn_pre_nms_top_n_test": 40, "rpn_post_nms_top_n_test": 20}
        elif not name.startswith("ssd"):  # those resize to one size
            settings |= {"min_size": 128}
        if "rcnn" not in name:
            settings["topk_candidates"] = 20
        found[name] = partial(build, name, partial(pictures, 128), **settings)
    return found


def flows() -> dict[str, Callable[[], Built]]:
    """All models of optical flow."""
    return {
        name: partial(build, name, partial(frames, 128)) for name in torchvision.models.list_models(module=optical_flow)
    }


KINDS: dict[str, dict[str, Callable[[], Built]]] = {
    "classification": classifiers(),
    "segmentation": segmenters(),
    "video": films(),
    "detection": detectors(),
    "optical flow": flows(),
}
MODELS: dict[str, Callable[[], Built]] = {name: made for kind in KINDS.values() for name, made in kind.items()}
KIND_OF: dict[str, str] = {name: kind for kind, members in KINDS.items() for name in members}
