"""Fused steps update the weights they should, whatever the layout of gradients and state."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import LBFGS, SGD, Adam, AdamW, RMSprop

from secateur.training.optimisers import align_state, build_optimizer
from secateur.training.precision import bf16_is_fast, resolve_channels_last, resolve_precision


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((4, 3, 3, 3), (6, 4), (5,))]


def stepped(factory, strided: bool) -> list[torch.Tensor]:
    held = parameters()
    optimizer = build_optimizer(factory, [{"params": held}])
    for step in range(3):
        for k, parameter in enumerate(held):
            gradient = torch.linspace(-1, 1 + step + k, parameter.numel()).view(parameter.shape)
            turned = strided and gradient.dim() > 1
            parameter.grad = gradient.transpose(0, 1).contiguous().transpose(0, 1) if turned else gradient
        optimizer.step()
    return [parameter.detach() for parameter in held]


@pytest.mark.parametrize("factory", [partial(SGD, lr=0.1, momentum=0.9), partial(AdamW, lr=0.1), partial(Adam, lr=0.1)])
def test_gradients_of_another_layout_update_the_same_weights(factory) -> None:
    plain = stepped(partial(factory, foreach=False), strided=True)
    for strided in (False, True):
        for found, expected in zip(stepped(factory, strided), plain, strict=True):
            torch.testing.assert_close(found, expected)


def test_fused_is_taken_where_it_can_be_and_left_where_it_was_chosen() -> None:
    def fused(factory, held=None) -> bool:
        return bool(build_optimizer(factory, [{"params": held or parameters()}]).param_groups[0].get("fused"))

    assert fused(AdamW)
    assert fused(partial(Adam, lr=0.1))
    assert not fused(partial(AdamW, lr=0.1, foreach=True))
    assert fused(partial(SGD, lr=0.1, momentum=0.9))
    assert not fused(partial(SGD, lr=0.1, momentum=0.9, dampening=0.1))
    assert not fused(lambda groups: AdamW(groups, lr=0.1))
    assert fused(AdamW, [nn.Parameter(torch.ones(2, 3, 4, 4).contiguous(memory_format=torch.channels_last))])
    assert not fused(AdamW, [nn.Parameter(torch.ones(4, 6)[:, ::2])])


def test_other_optimizers_take_their_kernels_over_lists() -> None:
    assert build_optimizer(RMSprop, [{"params": parameters()}]).param_groups[0]["foreach"]
    assert build_optimizer(partial(SGD, dampening=0.1), [{"params": parameters()}]).param_groups[0]["foreach"]
    assert not build_optimizer(partial(RMSprop, foreach=False), [{"params": parameters()}]).param_groups[0]["foreach"]
    assert "foreach" not in build_optimizer(LBFGS, [{"params": parameters()}]).param_groups[0]


@pytest.mark.parametrize("factory", [partial(SGD, lr=0.1, momentum=0.9, nesterov=True), partial(AdamW, lr=0.1)])
def test_fused_steps_equal_plain_ones_in_channels_last_and_with_fresh_parameters(factory) -> None:
    """Fresh: one that joins after the others have momentum, as after a cut."""
    ends = []
    for form in ({}, {"foreach": False}):
        held = [nn.Parameter(p.detach().contiguous(memory_format=torch.channels_last)) for p in images()]
        optimizer = build_optimizer(partial(factory, **form), [{"params": held}])
        for step in range(4):
            for k, parameter in enumerate(held):
                gradient = torch.linspace(-1, 1 + step + k, parameter.numel()).view(parameter.shape)
                parameter.grad = gradient if step > 1 or k == 0 else None
            optimizer.step()
        ends.append([parameter.detach() for parameter in held])
    for found, expected in zip(*ends, strict=True):
        torch.testing.assert_close(found, expected)


def images() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(4, 3, 3, 3, generator=generator) for _ in range(3)]


def test_state_is_laid_out_as_the_parameter() -> None:
    parameter = nn.Parameter(torch.randn(4, 3, 2, 2).contiguous(memory_format=torch.channels_last))
    optimizer = SGD([parameter], lr=0.1, momentum=0.9)
    momentum = torch.randn(4, 3, 2, 2)
    optimizer.state[parameter]["momentum_buffer"] = momentum
    align_state(optimizer)
    aligned = optimizer.state[parameter]["momentum_buffer"]
    assert aligned.stride() == parameter.stride()
    assert torch.equal(aligned, momentum)


def test_auto_means_what_the_hardware_and_the_model_allow() -> None:
    cpu = torch.device("cpu")
    assert resolve_precision("auto", nn.Linear(2, 2), cpu) == ("bf16" if bf16_is_fast(cpu) else "fp32")
    assert resolve_precision("auto", nn.Linear(2, 2).double(), cpu) == "fp32"
    assert resolve_precision("bf16", nn.Linear(2, 2), cpu) == "bf16"
    assert not bf16_is_fast(torch.device("meta"))
    assert resolve_channels_last("auto", nn.Sequential(nn.Conv2d(1, 1, 1)))
    assert not resolve_channels_last("auto", nn.Conv1d(1, 1, 1))
    assert not resolve_channels_last(False, nn.Conv2d(1, 1, 1))
