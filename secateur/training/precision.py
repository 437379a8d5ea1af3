"""Number formats and memory layouts that make training faster, and when they do."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.utils._triton import has_triton

from secateur.errors import InputError

Precision = Literal["fp32", "bf16", "fp16"]
CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
COMPILING_PAYS = 5000  # steps; compiling takes a minute or two, and saves some ten milliseconds of a step


def bf16_is_fast(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware; where it does not, autocast halves the speed instead."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    tests = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return device.type == "cpu" and any(test() for test in tests if test is not None)


def resolve_precision(
    asked: Literal["auto", "fp32", "bf16", "fp16"], model: nn.Module, device: torch.device
) -> Precision:
    """What "auto" means for this model here: "bf16" for float32 models on devices that are fast at it."""
    if asked == "fp16" and device.type != "cuda":
        raise InputError(
            f'The precision "fp16" needs a CUDA device for its loss scaling. The model is on {device.type}; '
            'take "bf16", or "auto".'
        )
    if asked != "auto":
        return asked
    single = all(parameter.dtype == torch.float32 for parameter in model.parameters())
    return "bf16" if single and bf16_is_fast(device) else "fp32"


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """A block whose matrix products run in half precision (parameters and sums stay), or that changes nothing."""
    kind = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, kind, enabled=precision != "fp32")


def gradient_scaler(precision: Precision, device: torch.device) -> GradScaler | None:
    """What keeps small gradients of "fp16" from vanishing; the other formats have the range of float32."""
    return GradScaler(device.type) if precision == "fp16" else None


def resolve_compile(asked: bool | Literal["auto"], device: torch.device, steps: int) -> bool:
    """What "auto" means: compiled on CUDA, where Triton is there and the training is long enough to win it back."""
    if asked != "auto":
        return asked
    return device.type == "cuda" and steps >= COMPILING_PAYS and has_triton()


def widened(outputs: Any) -> Any:
    """A tensor of half precision in float32, for losses are taken in full precision; anything else as it is."""
    half = isinstance(outputs, Tensor) and outputs.dtype in (torch.bfloat16, torch.float16)
    return outputs.float() if half else outputs


def resolve_channels_last(asked: bool | Literal["auto"], model: nn.Module) -> bool:
    """What "auto" means for this model: channels-last where it has two-dimensional convolutions."""
    return any(isinstance(module, CONVOLUTIONS) for module in model.modules()) if asked == "auto" else asked


def set_layout(model: nn.Module, memory_format: torch.memory_format) -> bool:
    """Lay the weights of 2-d convolutions out anew, the parameters staying the same objects; whether any changed."""
    changed = False
    for module in model.modules():
        weight = module._parameters.get("weight") if isinstance(module, CONVOLUTIONS) else None
        if weight is not None and not weight.is_contiguous(memory_format=memory_format):
            weight.data = weight.data.contiguous(memory_format=memory_format)
            changed = True
    return changed
