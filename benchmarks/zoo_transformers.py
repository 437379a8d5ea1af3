"""Models of Hugging Face Transformers, built small from their configurations with random weights.

    from zoo_transformers import MODELS
    model, example = MODELS["llama"]()

Two layers, a width of 32, four heads (two of keys and values where they are fewer), as each model's defaults have it
otherwise: caches, tied tables and shared layers included. `example` holds the keyword inputs. `another` makes an
example of another batch and another length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

VOCABULARY, LENGTH = 101, 7
COMMON = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
BASE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = {**COMMON, **BASE, "intermediate_size": 56, "max_position_embeddings": 48}
GROUPED = {**TEXT, "num_key_value_heads": 2}  # fewer heads of keys and values than of queries
IMAGE = {**BASE, "intermediate_size": 56, "image_size": 32, "patch_size": 8, "num_labels": 7}
STAGES = {"depths": [1, 2], "num_labels": 7}
ENCODER_DECODER = {
    **COMMON, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 56, "decoder_ffn_dim": 40, "max_position_embeddings": 48,
    "decoder_start_token_id": 2, "forced_eos_token_id": None,
}  # fmt: skip
T5 = {
    **COMMON, "d_model": 32, "d_kv": 8, "d_ff": 56, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
SPEECH = {
    **BASE, "vocab_size": 21, "intermediate_size": 56, "conv_dim": [24, 32], "conv_kernel": [10, 4],
    "conv_stride": [5, 4], "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2, "mask_time_prob": 0.0,
}  # fmt: skip
PYRAMID = {
    "num_encoder_blocks": 2, "hidden_sizes": [16, 32], "num_attention_heads": [2, 4], "sr_ratios": [2, 1],
    "patch_sizes": [7, 3], "strides": [4, 2], "mlp_ratios": [4, 2], "decoder_hidden_size": 24, **STAGES,
}  # fmt: skip
GPT = {**COMMON, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 48}
RNET = {"embedding_size": 16, "hidden_sizes": [16, 32], "num_labels": 7, "depths": [1, 2]}

Example = dict[str, Any]
Build = Callable[[], tuple[nn.Module, Example]]


def tokens(batch: int = 2, length: int = LENGTH, seed: int = 0) -> Tensor:
    """Ids without the special ones, int64 of shape `[batch, length]`."""
    return torch.randint(3, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sentence() -> Example:
    return {"input_ids": tokens()}


def masked_sentence() -> Example:
    return {"input_ids": tokens(), "attention_mask": torch.ones(2, LENGTH, dtype=torch.long)}


def two_sentences() -> Example:
    return {"input_ids": tokens(), "decoder_input_ids": tokens(2, 5, seed=1)}


def image(side: int = 32) -> Example:
    return {"pixel_values": noise(2, 3, side, side)}


def clip(frames: int = 4) -> Example:
    return {"pixel_values": noise(2, frames, 3, 32, 32)}


def image_and_text() -> Example:
    return {**image(), "input_ids": tokens()}


def image_with_its_text() -> Example:
    return {**image_and_text(), "attention_mask": torch.ones(2, LENGTH, dtype=torch.long)}


def waves() -> Example:
    return {"input_values": noise(2, 400)}


def spectrum() -> Example:
    return {"input_features": noise(2, 16, 40), "decoder_input_ids": tokens(2, 5)}


def build(kind: str, example: Callable[[], Example], **options: Any) -> tuple[nn.Module, Example]:
    """A model of the class named `kind`, of its own configuration class with `options`, in evaluation mode."""
    import transformers

    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    model_class = getattr(transformers, kind)
    model = model_class(model_class.config_class(**options)).eval()
    return model, example()


def entry(kind: str, example: Callable[[], Example], *parts: Mapping[str, Any], **options: Any) -> Build:
    return partial(build, kind, example, **{key: value for part in (*parts, options) for key, value in part.items()})


def build_detector(kind: str, **options: Any) -> tuple[nn.Module, Example]:
    """A detection transformer on a small residual network of the same library."""
    import transformers

    backbone = transformers.ResNetConfig(**RNET, layer_type="basic", out_features=["stage2"])
    return build(kind, partial(image, 64), backbone_config=backbone, use_timm_backbone=False, **options)


def build_two_towers(kind: str, text: Mapping[str, Any], vision: Mapping[str, Any]) -> tuple[nn.Module, Example]:
    """A model of a text and an image encoder that meet in a common space."""
    return build(kind, image_and_text, text_config=dict(text), vision_config=dict(vision), projection_dim=24)


def build_adapter(kind: str, text: str, vision: str) -> tuple[nn.Module, Example]:
    """A language model that reads the patches of an image in the place of special tokens."""
    import transformers

    configs = {
        "text_config": getattr(transformers, text)(**GROUPED),
        "vision_config": getattr(transformers, vision)(**{**IMAGE, "num_hidden_layers": 3}),
    }
    model, example = build(kind, image_and_text, image_token_index=3, image_token_id=3, **configs)
    patches = torch.full((2, 16), 3)
    return model, {**example, "input_ids": torch.cat([patches, example["input_ids"].clamp(min=4)], 1)}


MODELS: dict[str, Build] = {
    # encoders of text
    "bert": entry("BertForMaskedLM", masked_sentence, TEXT),
    "bert-classifier": entry("BertForSequenceClassification", masked_sentence, TEXT, num_labels=5),
    "roberta": entry("RobertaForMaskedLM", sentence, TEXT),
    "xlm-roberta": entry("XLMRobertaForTokenClassification", sentence, TEXT),
    "distilbert": entry(
        "DistilBertForMaskedLM", sentence, COMMON, dim=32, hidden_dim=56, n_layers=2, n_heads=4,
        max_position_embeddings=48,
    ),
    "albert": entry("AlbertForMaskedLM", sentence, TEXT, embedding_size=24),
    "electra": entry("ElectraForPreTraining", sentence, TEXT, embedding_size=24),
    "ernie": entry("ErnieForMaskedLM", sentence, TEXT),
    "mpnet": entry("MPNetForMaskedLM", sentence, TEXT),
    "deberta": entry(
        "DebertaForMaskedLM", sentence, TEXT, relative_attention=True, pos_att_type=["p2c", "c2p"], type_vocab_size=0
    ),
    "deberta-v2": entry(
        "DebertaV2ForMaskedLM", sentence, TEXT, relative_attention=True, pos_att_type=["p2c", "c2p"],
        position_buckets=16,
    ),
    "modernbert": entry("ModernBertForMaskedLM", sentence, TEXT, cls_token_id=1, sep_token_id=2),
    "mobilebert": entry(
        "MobileBertForMaskedLM", sentence, TEXT, embedding_size=24, intra_bottleneck_size=16, true_hidden_size=16
    ),
    "squeezebert": entry("SqueezeBertForMaskedLM", sentence, TEXT, embedding_size=32),
    "convbert": entry("ConvBertForMaskedLM", sentence, TEXT, embedding_size=24),
    "roformer": entry("RoFormerForMaskedLM", sentence, TEXT, embedding_size=24),
    "xlnet": entry("XLNetLMHeadModel", sentence, COMMON, d_model=32, n_layer=2, n_head=4, d_inner=56),
    "fnet": entry("FNetForMaskedLM", sentence, TEXT),
    "funnel": entry(
        "FunnelForMaskedLM", sentence, COMMON, block_sizes=[1, 1], num_decoder_layers=1, d_model=32, n_head=4,
        d_head=8, d_inner=56,
    ),
    "longformer": entry("LongformerForMaskedLM", sentence, TEXT, attention_window=4),
    "nystromformer": entry("NystromformerForMaskedLM", sentence, TEXT, num_landmarks=4, segment_means_seq_len=4),
    "esm": entry("EsmForMaskedLM", sentence, TEXT, mask_token_id=3, position_embedding_type="rotary"),
    # decoders of text
    "gpt2": entry("GPT2LMHeadModel", sentence, GPT),
    "gpt2-classifier": entry("GPT2ForSequenceClassification", sentence, GPT, num_labels=5),
    "gpt-neo": entry(
        "GPTNeoForCausalLM", sentence, COMMON, hidden_size=32, num_layers=2, num_heads=4, intermediate_size=56,
        attention_types=[[["global", "local"], 1]], window_size=4, max_position_embeddings=48,
    ),
    "gptj": entry("GPTJForCausalLM", sentence, GPT, rotary_dim=4),
    "codegen": entry("CodeGenForCausalLM", sentence, GPT, rotary_dim=4),
    "gpt-bigcode": entry("GPTBigCodeForCausalLM", sentence, GPT),
    "gpt-neox": entry("GPTNeoXForCausalLM", sentence, TEXT),
    "opt": entry("OPTForCausalLM", masked_sentence, TEXT, ffn_dim=56, word_embed_proj_dim=32),
    "opt-350m": entry(
        "OPTForCausalLM", sentence, TEXT, ffn_dim=56, word_embed_proj_dim=24, do_layer_norm_before=False
    ),
    "bloom": entry("BloomForCausalLM", sentence, COMMON, hidden_size=32, n_layer=2, n_head=4),
    "mpt": entry("MptForCausalLM", sentence, COMMON, d_model=32, n_layers=2, n_heads=4, max_seq_len=48),
    "llama": entry("LlamaForCausalLM", sentence, TEXT),
    "llama-gqa": entry("LlamaForCausalLM", masked_sentence, GROUPED),
    "llama-tied": entry("LlamaForCausalLM", sentence, GROUPED, tie_word_embeddings=True, attention_bias=True),
    "llama-classifier": entry("LlamaForSequenceClassification", sentence, GROUPED, num_labels=5),
    "mistral": entry("MistralForCausalLM", sentence, GROUPED, sliding_window=5),
    "qwen2": entry("Qwen2ForCausalLM", sentence, GROUPED),
    "qwen3": entry("Qwen3ForCausalLM", sentence, GROUPED, head_dim=10),
    "gemma": entry("GemmaForCausalLM", sentence, GROUPED, head_dim=10),
    "gemma2": entry("Gemma2ForCausalLM", sentence, GROUPED, head_dim=10, query_pre_attn_scalar=10, sliding_window=5),
    "gemma3": entry("Gemma3ForCausalLM", sentence, GROUPED, head_dim=10, sliding_window=5),
    "phi": entry("PhiForCausalLM", sentence, TEXT),
    "phi3": entry("Phi3ForCausalLM", sentence, GROUPED),
    "falcon": entry("FalconForCausalLM", sentence, TEXT),
    "falcon-new": entry("FalconForCausalLM", sentence, TEXT, new_decoder_architecture=True, num_kv_heads=2),
    "stablelm": entry("StableLmForCausalLM", sentence, GROUPED),
    "starcoder2": entry("Starcoder2ForCausalLM", sentence, GROUPED),
    "olmo": entry("OlmoForCausalLM", sentence, GROUPED),
    "olmo2": entry("Olmo2ForCausalLM", sentence, GROUPED),
    "cohere": entry("CohereForCausalLM", sentence, GROUPED),
    "granite": entry("GraniteForCausalLM", sentence, GROUPED),
    "glm": entry("GlmForCausalLM", sentence, GROUPED, head_dim=8),
    "nemotron": entry("NemotronForCausalLM", sentence, GROUPED),
    "persimmon": entry("PersimmonForCausalLM", sentence, TEXT),
    "smollm3": entry("SmolLM3ForCausalLM", sentence, GROUPED),
    "biogpt": entry("BioGptForCausalLM", sentence, TEXT),
    "xglm": entry(
        "XGLMForCausalLM", sentence, COMMON, d_model=32, ffn_dim=56, num_layers=2, attention_heads=4,
        max_position_embeddings=48,
    ),
    # mixtures of experts
    "mixtral": entry("MixtralForCausalLM", sentence, GROUPED, num_local_experts=4, num_experts_per_tok=2),
    "qwen2-moe": entry("Qwen2MoeForCausalLM", sentence, GROUPED, EXPERTS, shared_expert_intermediate_size=40),
    "qwen3-moe": entry("Qwen3MoeForCausalLM", sentence, GROUPED, EXPERTS, head_dim=10),
    "granite-moe": entry("GraniteMoeForCausalLM", sentence, GROUPED, num_local_experts=4, num_experts_per_tok=2),
    "gpt-oss": entry(
        "GptOssForCausalLM", sentence, GROUPED, num_local_experts=4, num_experts_per_tok=2, head_dim=10,
        sliding_window=5,
    ),
    "deepseek-v3": entry(
        "DeepseekV3ForCausalLM", sentence, {**TEXT, "num_key_value_heads": 4}, moe_intermediate_size=24,
        n_routed_experts=4, num_experts_per_tok=2, n_group=2, topk_group=1, first_k_dense_replace=1, kv_lora_rank=16,
        q_lora_rank=24, qk_rope_head_dim=4, qk_nope_head_dim=6, v_head_dim=8,
    ),
    # state spaces and other recurrences
    "mamba": entry(
        "MambaForCausalLM", sentence, COMMON, hidden_size=32, num_hidden_layers=2, state_size=6, time_step_rank=4
    ),
    "mamba2": entry(
        "Mamba2ForCausalLM", sentence, COMMON, hidden_size=32, num_hidden_layers=2, state_size=6, num_heads=8,
        head_dim=8, n_groups=2, chunk_size=4,
    ),
    "falcon-mamba": entry(
        "FalconMambaForCausalLM", sentence, COMMON, hidden_size=32, num_hidden_layers=2, state_size=6,
        time_step_rank=4,
    ),
    "recurrent-gemma": entry(
        "RecurrentGemmaForCausalLM", sentence, GROUPED, num_hidden_layers=3, lru_width=32, attention_window_size=8
    ),
    "rwkv": entry("RwkvForCausalLM", sentence, COMMON, hidden_size=32, num_hidden_layers=2, intermediate_size=56),
    # encoders with decoders
    "t5": entry("T5ForConditionalGeneration", two_sentences, T5),
    "t5-gated": entry(
        "T5ForConditionalGeneration", two_sentences, T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False
    ),
    "t5-encoder": entry("T5EncoderModel", sentence, T5),
    "mt5": entry("MT5ForConditionalGeneration", two_sentences, T5),
    "switch": entry(
        "SwitchTransformersForConditionalGeneration", two_sentences, T5, num_experts=4, num_sparse_encoder_layers=1,
        num_sparse_decoder_layers=1, expert_capacity=8,
    ),
    "bart": entry("BartForConditionalGeneration", two_sentences, ENCODER_DECODER),
    "mbart": entry("MBartForConditionalGeneration", two_sentences, ENCODER_DECODER),
    "pegasus": entry("PegasusForConditionalGeneration", two_sentences, ENCODER_DECODER),
    "marian": entry("MarianMTModel", two_sentences, ENCODER_DECODER),
    "m2m-100": entry("M2M100ForConditionalGeneration", two_sentences, ENCODER_DECODER),
    "blenderbot": entry("BlenderbotForConditionalGeneration", two_sentences, ENCODER_DECODER),
    "whisper": entry(
        "WhisperForConditionalGeneration", spectrum, ENCODER_DECODER, num_mel_bins=16, max_source_positions=20,
        max_target_positions=24, suppress_tokens=None, begin_suppress_tokens=None,
    ),
    # speech
    "wav2vec2": entry("Wav2Vec2ForCTC", waves, SPEECH),
    "wav2vec2-stable": entry("Wav2Vec2ForCTC", waves, SPEECH, do_stable_layer_norm=True, feat_extract_norm="layer"),
    "hubert": entry("HubertForCTC", waves, SPEECH),
    "wavlm": entry("WavLMForCTC", waves, SPEECH),
    "ast": entry(
        "ASTForAudioClassification", lambda: {"input_values": noise(2, 24, 16)}, IMAGE, max_length=24,
        num_mel_bins=16, frequency_stride=8, time_stride=8,
    ),
    # images
    "vit": entry("ViTForImageClassification", image, IMAGE),
    "deit": entry("DeiTForImageClassificationWithTeacher", image, IMAGE),
    "beit": entry(
        "BeitForImageClassification", image, IMAGE, use_relative_position_bias=True, vocab_size=VOCABULARY
    ),
    "dinov2": entry("Dinov2ForImageClassification", image, IMAGE, mlp_ratio=2),
    "dinov3": entry("DINOv3ViTModel", image, IMAGE, num_register_tokens=2),
    "vit-mae": entry(
        "ViTMAEForPreTraining", lambda: {**image(), "noise": noise(2, 16)}, IMAGE, decoder_hidden_size=24,
        decoder_num_hidden_layers=1, decoder_num_attention_heads=4, decoder_intermediate_size=40,
    ),
    "swin": entry(
        "SwinForImageClassification", image, STAGES, image_size=32, patch_size=4, embed_dim=16, num_heads=[2, 4],
        window_size=4,
    ),
    "swinv2": entry(
        "Swinv2ForImageClassification", image, STAGES, image_size=32, patch_size=4, embed_dim=16, num_heads=[2, 4],
        window_size=4, pretrained_window_sizes=[0, 0],
    ),
    "pvt": entry(
        "PvtForImageClassification", image, {k: v for k, v in PYRAMID.items() if k != "sr_ratios"}, image_size=32,
        sequence_reduction_ratios=[2, 1], patch_sizes=[4, 2],
    ),
    "pvt-v2": entry("PvtV2ForImageClassification", partial(image, 64), PYRAMID, image_size=64),
    "segformer": entry("SegformerForSemanticSegmentation", partial(image, 64), PYRAMID),
    "glpn": entry("GLPNForDepthEstimation", partial(image, 64), PYRAMID),
    "poolformer": entry("PoolFormerForImageClassification", partial(image, 64), STAGES, hidden_sizes=[16, 32],
        num_encoder_blocks=2, patch_sizes=[7, 3], strides=[4, 2], padding=[2, 1],
    ),
    "convnext": entry("ConvNextForImageClassification", image, STAGES, hidden_sizes=[16, 32], num_stages=2),
    "convnextv2": entry("ConvNextV2ForImageClassification", image, STAGES, hidden_sizes=[16, 32], num_stages=2),
    "focalnet": entry(
        "FocalNetForImageClassification", image, STAGES, image_size=32, embed_dim=16, hidden_sizes=[32, 32],
        focal_levels=[2, 2], focal_windows=[3, 3],
    ),
    "hiera": entry(
        "HieraForImageClassification", image, embed_dim=16, image_size=[32, 32], depths=[1, 2], num_heads=[2, 4],
        masked_unit_size=[4, 4], masked_unit_attention=[True, False], num_query_pool=1, num_labels=7,
    ),
    "cvt": entry(
        "CvtForImageClassification", image, embed_dim=[16, 32], num_heads=[2, 4], depth=[1, 2], patch_sizes=[7, 3],
        patch_stride=[4, 2], patch_padding=[2, 1], mlp_ratio=[2.0, 2.0], attention_drop_rate=[0.0, 0.0],
        drop_rate=[0.0, 0.0], drop_path_rate=[0.0, 0.1], qkv_bias=[True, True], cls_token=[False, True],
        qkv_projection_method=["dw_bn", "dw_bn"], kernel_qkv=[3, 3], padding_kv=[1, 1], stride_kv=[2, 2],
        padding_q=[1, 1], stride_q=[1, 1], num_labels=7,
    ),
    "levit": entry(
        "LevitForImageClassification", partial(image, 64), image_size=64, hidden_sizes=[32, 48, 64],
        num_attention_heads=[4, 6, 8], depths=[1, 1, 1], key_dim=[8, 8, 8], num_labels=7,
    ),
    "mobilevit": entry(
        "MobileViTForImageClassification", partial(image, 64), hidden_sizes=[16, 20, 24],
        neck_hidden_sizes=[8, 12, 16, 24, 24, 24, 40], num_attention_heads=4, image_size=64, num_labels=7,
    ),
    "resnet": entry("ResNetForImageClassification", partial(image, 64), RNET),
    "regnet": entry("RegNetForImageClassification", partial(image, 64), RNET, groups_width=8),
    "efficientnet": entry(
        "EfficientNetForImageClassification", partial(image, 64), width_coefficient=0.5, depth_coefficient=0.5,
        hidden_dim=640, num_labels=7,
    ),
    "dpt": entry(
        "DPTForDepthEstimation", image, IMAGE, num_hidden_layers=4, backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 12, 16, 24], fusion_hidden_size=16,
    ),
    "yolos": entry("YolosForObjectDetection", image, {**IMAGE, "image_size": [32, 32]}, num_detection_tokens=5),
    "detr": partial(
        build_detector, "DetrForObjectDetection", d_model=32, encoder_layers=2, decoder_layers=2, num_queries=5,
        encoder_ffn_dim=56, decoder_ffn_dim=40, encoder_attention_heads=4, decoder_attention_heads=4, num_labels=7,
    ),
    # video, and text beside images
    "videomae": entry("VideoMAEForVideoClassification", clip, IMAGE, num_frames=4, tubelet_size=2),
    "timesformer": entry("TimesformerForVideoClassification", clip, IMAGE, num_frames=4),
    "clip": partial(build_two_towers, "CLIPModel", {**TEXT, "projection_dim": 24}, {**IMAGE, "projection_dim": 24}),
    "siglip": partial(build_two_towers, "SiglipModel", {**TEXT, "projection_size": 32}, IMAGE),
    "vilt": entry(
        "ViltForImagesAndTextClassification", lambda: {**image_with_its_text(), "pixel_values": noise(2, 1, 3, 32, 32)},
        TEXT, IMAGE, num_images=1, max_position_embeddings=48,
    ),
    "llava": partial(build_adapter, "LlavaForConditionalGeneration", "LlamaConfig", "CLIPVisionConfig"),
    # time series
    "patchtst": entry(
        "PatchTSTForPrediction", lambda: {"past_values": noise(2, 32, 3)}, num_input_channels=3, context_length=32,
        patch_length=8, patch_stride=8, num_hidden_layers=2, d_model=32, num_attention_heads=4, ffn_dim=56,
        prediction_length=6, loss="mse",
    ),
}  # fmt: skip

FREE_LENGTH = {"input_ids": 1, "decoder_input_ids": 1, "attention_mask": 1}
"""Inputs whose second dimension is a length of text, free at every call."""


def another(example: Mapping[str, Any], batch: int = 3, more: int = 4) -> Example:
    """An example of another batch, with `more` tokens in every text, of other values; other inputs keep their sizes."""
    made: Example = {}
    for name, value in example.items():
        shape = [batch, *value.shape[1:]]
        if name in FREE_LENGTH and "pixel_values" not in example:
            shape[FREE_LENGTH[name]] += more
        if name == "attention_mask":
            made[name] = torch.ones(shape, dtype=value.dtype)
        elif value.is_floating_point():
            made[name] = noise(*shape, seed=1)
        elif "pixel_values" in example:  # places of image tokens stay
            made[name] = value[:1].expand(shape).clone()
        else:
            made[name] = tokens(*shape, seed=2)
    return made
