"""One small model of every architecture module of timm, with random weights, and of its other families some more.

    from zoo_timm import MODELS
    model, example = MODELS["levit"]()

Models are as registered, the smallest of their module; where that is large, fewer blocks or narrower ones do. Images
are as small as the architecture lets them be. A module that the table does not know is represented by its model of the
fewest parameters, at the size that its configuration names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import timm
import torch
from torch import Tensor, nn

Build = Callable[[], tuple[nn.Module, Tensor]]

# module: model, side of the image, what is asked of the constructor beside that; `img_size` is handed on where a model
# is built for one size
CHOSEN: dict[str, tuple[str, int, dict[str, Any]]] = {
    "beit": ("beit_base_patch16_224", 64, {"img_size": 64, "depth": 3, "embed_dim": 192, "num_heads": 6}),
    "byoanet": ("botnet26t_256", 64, {"img_size": 64}),
    "byobnet": ("resnext26ts", 64, {}),
    "cait": ("cait_xxs24_224", 64, {"img_size": 64, "depth": 4}),
    "coat": ("coat_tiny", 64, {"img_size": 64}),
    "convit": ("convit_tiny", 64, {"img_size": 64}),
    "convmixer": ("convmixer_768_32", 56, {}),
    "convnext": ("convnextv2_atto", 64, {}),
    "cpubone": ("cpubone_nano", 64, {}),
    "crossvit": ("crossvit_9_dagger_240", 240, {}),
    "csatv2": ("csatv2", 128, {}),
    "cspnet": ("cspresnet50", 64, {}),
    "cspnext": ("cspnext_tiny", 64, {}),
    "davit": ("davit_tiny", 64, {}),
    "deepseek_vit": (
        "deepseek_vit_412m", 56, {"img_size": 56, "embed_dim": 128, "depth": 3, "num_heads": 4, "num_classes": 10}
    ),
    "deit": ("deit_tiny_distilled_patch16_224", 64, {"img_size": 64, "depth": 4}),
    "densenet": ("densenet121", 64, {}),
    "dla": ("dla46_c", 64, {}),
    "dpn": ("dpn48b", 64, {}),
    "edgenext": ("edgenext_xx_small", 64, {}),
    "efficientformer": ("efficientformer_l1", 224, {}),
    "efficientformer_v2": ("efficientformerv2_s0", 64, {"img_size": 64}),
    "efficientnet": ("efficientnet_b0", 64, {}),
    "efficientvim": ("efficientvim_m1", 224, {}),
    "efficientvit_mit": ("efficientvit_b0", 64, {}),
    "efficientvit_msra": ("efficientvit_m0", 128, {"img_size": 128}),
    "eva": ("eva02_tiny_patch14_224", 56, {"img_size": 56, "depth": 4, "num_classes": 10}),
    "fasternet": ("fasternet_t0", 64, {}),
    "fastvit": ("fastvit_t8", 64, {}),
    "focalnet": ("focalnet_tiny_srf", 64, {}),
    "gcvit": ("gcvit_xxtiny", 224, {}),
    "gemma4_vit": (
        "gemma4_vit_167m", 96,
        {"img_size": 96, "embed_dim": 96, "depth": 3, "num_heads": 6, "num_kv_heads": 2, "head_dim": 16,
         "intermediate_size": 256, "position_embedding_size": 64, "num_classes": 10},
    ),
    "ghostnet": ("ghostnetv2_100", 64, {}),
    "hardcorenas": ("hardcorenas_a", 64, {}),
    "hgnet": ("hgnetv2_b0", 64, {}),
    "hiera": ("hiera_tiny_224", 64, {"img_size": 64}),
    "hieradet_sam2": ("sam2_hiera_tiny", 128, {}),
    "hrnet": ("hrnet_w18_small", 64, {}),
    "iformer": ("iformer_t", 64, {}),
    "inception_next": ("inception_next_atto", 64, {}),
    "inception_resnet_v2": ("inception_resnet_v2", 96, {}),
    "inception_v3": ("inception_v3", 96, {}),
    "inception_v4": ("inception_v4", 96, {}),
    "lcnetv2": ("lcnetv2_small", 64, {}),
    "levit": ("levit_128s", 224, {}),
    "lowformer": ("lowformer_b0", 64, {}),
    "mambaout": ("mambaout_femto", 64, {}),
    "maxxvit": ("maxvit_rmlp_pico_rw_256", 160, {"img_size": 160}),
    "metaformer": ("poolformer_s12", 64, {}),
    "mlp_mixer": ("gmlp_ti16_224", 64, {"img_size": 64}),
    "mobilenetv3": ("mobilenetv3_small_100", 64, {}),
    "mobilenetv5": ("mobilenetv5_300m", 64, {"channel_multiplier": 0.25}),
    "mobilevit": ("mobilevit_xxs", 64, {}),
    "mvitv2": ("mvitv2_tiny", 64, {"img_size": 64}),
    "naflexvit": ("naflexvit_base_patch16_gap", 64, {"depth": 3, "embed_dim": 192, "num_heads": 6}),
    "nasnet": ("nasnetalarge", 96, {}),
    "nest": ("nest_tiny", 64, {"img_size": 64}),
    "nextvit": ("nextvit_small", 64, {}),
    "nfnet": ("nfnet_l0", 64, {}),
    "pit": ("pit_ti_distilled_224", 224, {}),
    "pnasnet": ("pnasnet5large", 96, {}),
    "pvt_v2": ("pvt_v2_b0", 64, {}),
    "qwen3_vit": ("qwen3_vit_88m", 64, {"embed_dim": 192, "depth": 3, "num_heads": 6, "num_classes": 10}),
    "rdnet": ("rdnet_tiny", 64, {}),
    "regnet": ("regnety_002", 64, {}),
    "repghost": ("repghostnet_050", 64, {}),
    "repvit": ("repvit_m0_9", 64, {}),
    "res2net": ("res2net50_26w_4s", 64, {}),
    "resnest": ("resnest14d", 64, {}),
    "resnet": ("resnet10t", 64, {}),
    "resnetv2": ("resnetv2_50x1_bit", 64, {}),
    "rexnet": ("rexnet_100", 64, {}),
    "selecsls": ("selecsls42b", 64, {}),
    "senet": ("legacy_seresnext26_32x4d", 64, {}),
    "sequencer": ("sequencer2d_s", 56, {}),
    "shvit": ("shvit_s1", 128, {}),
    "sknet": ("skresnet18", 64, {}),
    "starnet": ("starnet_s1", 64, {}),
    "swiftformer": ("swiftformer_xs", 64, {}),
    "swin_transformer": ("swin_tiny_patch4_window7_224", 64, {"img_size": 64, "window_size": 4}),
    "swin_transformer_v2": ("swinv2_tiny_window8_256", 64, {"img_size": 64, "window_size": 4}),
    "swin_transformer_v2_cr": ("swinv2_cr_tiny_ns_224", 64, {"img_size": 64}),
    "tiny_vit": ("tiny_vit_5m_224", 224, {}),
    "tnt": ("tnt_s_patch16_224", 64, {"img_size": 64, "depth": 4}),
    "tresnet": ("tresnet_m", 64, {}),
    "twins": ("twins_svt_small", 64, {"img_size": 64}),
    "vgg": ("vgg11_bn", 32, {}),
    "visformer": ("visformer_tiny", 64, {"img_size": 64}),
    "vision_transformer": ("vit_tiny_patch16_224", 64, {"img_size": 64, "depth": 4, "qk_norm": True}),
    "vision_transformer_hybrid": ("vit_tiny_r_s16_p8_224", 64, {"img_size": 64, "depth": 4}),
    "vision_transformer_relpos": ("vit_relpos_small_patch16_224", 64, {"img_size": 64, "depth": 4}),
    "vision_transformer_sam": (
        "samvit_base_patch16", 256,
        {"img_size": 256, "embed_dim": 96, "depth": 4, "num_heads": 6, "global_attn_indexes": (1, 3),
         "window_size": 7, "neck_chans": 64},
    ),
    "vitamin": ("vitamin_small_224", 64, {"img_size": 64, "depth": 4}),
    "volo": ("volo_d1_224", 64, {"img_size": 64}),
    "vovnet": ("ese_vovnet19b_dw", 64, {}),
    "xception": ("legacy_xception", 96, {}),
    "xception_aligned": ("xception41", 64, {}),
    "xcit": ("xcit_nano_12_p16_224", 64, {"img_size": 64, "depth": 4}),
}  # fmt: skip

# families that share a module with another
MORE: dict[str, tuple[str, int, dict[str, Any]]] = {
    "byoanet: halo": ("halonet26t", 256, {}),
    "byoanet: lambda": ("lambda_resnet26t", 64, {}),
    "byobnet: one path at rest, several in training": ("mobileone_s0", 64, {}),
    "coat: lite": ("coat_lite_tiny", 64, {"img_size": 64}),
    "cspnet: cross stages 3": ("cs3darknet_s", 64, {}),
    "ghostnet: v1": ("ghostnet_100", 64, {}),
    "levit: convolutions": ("levit_conv_128s", 224, {}),
    "maxxvit: coatnet": ("coatnet_pico_rw_224", 96, {"img_size": 96}),
    "metaformer: attention": ("caformer_s18", 64, {}),
    "mlp_mixer: mixer": ("mixer_s32_224", 64, {"img_size": 64}),
    "mlp_mixer: affine": ("resmlp_12_224", 64, {"img_size": 64}),
    "mobilenetv3: v4 hybrid": ("mobilenetv4_hybrid_medium", 64, {}),
    "mobilevit: v2": ("mobilevitv2_050", 64, {}),
    "swin_transformer: S3": ("swin_s3_tiny_224", 224, {}),
    "twins: pooling": ("twins_pcpvt_small", 64, {"img_size": 64}),
    "vision_transformer: parallel": ("vit_small_patch16_36x1_224", 64, {"img_size": 64, "depth": 3}),
}


def build(name: str, side: int, asked: Mapping[str, Any]) -> tuple[nn.Module, Tensor]:
    """A model of timm with random weights, in evaluation mode, and one random image."""
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, **asked)
    return model.eval(), torch.randn(1, 3, side, side)


def smallest(module: str) -> tuple[nn.Module, Tensor]:
    """The registered model of a module that has the fewest parameters, and an image of the size it is made for."""
    with torch.device("meta"):
        sizes = {n: sum(p.numel() for p in timm.create_model(n).parameters()) for n in timm.list_models(module=module)}
    name = min(sizes, key=sizes.__getitem__)
    return build(name, timm.get_pretrained_cfg(name).input_size[-1], {})


def architectures() -> list[str]:
    """The modules of the installed timm that register models."""
    return [module for module in timm.list_modules() if timm.list_models(module=module)]


MODELS: dict[str, Build] = {
    module: partial(build, *CHOSEN[module]) if module in CHOSEN else partial(smallest, module)
    for module in architectures()
}
MODELS |= {family: partial(build, *chosen) for family, chosen in MORE.items()}
