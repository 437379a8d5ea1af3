"""Tensors without data have the shapes, strides, types and devices that real ones get."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves, tree_map_only

from secateur.graph import hollow
from secateur.graph.trace import record

X = torch.randn(2, 6, 8, 8)
ROWS = torch.randn(5, 6)
VECTOR = torch.randn(6)

CALLS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "convolution": (functional.conv2d, (X, torch.randn(4, 6, 3, 3), torch.randn(4), 2, 1)),
    "dilated convolution": (functional.conv2d, (X, torch.randn(4, 6, 3, 3), None, (1, 2), (2, 1), (2, 1))),
    "grouped convolution": (functional.conv2d, (X, torch.randn(9, 2, 1, 1), None, 1, 0, 1, 3)),
    "convolution, channels last": (
        functional.conv2d,
        (X.to(memory_format=torch.channels_last), torch.randn(4, 6, 3, 3)),
    ),
    "convolution, kernels channels last": (
        functional.conv2d,
        (X, torch.randn(4, 6, 3, 3).to(memory_format=torch.channels_last)),
    ),
    "1-d convolution": (functional.conv1d, (X[:, :, 0], torch.randn(4, 6, 3))),
    "transposed convolution": (functional.conv_transpose2d, (X, torch.randn(6, 4, 3, 3), None, 2)),
    "batch norm": (functional.batch_norm, (X, VECTOR, VECTOR.abs(), VECTOR, VECTOR)),
    "batch norm in training": (lambda *a: functional.batch_norm(*a, training=True), (X, None, None, VECTOR, VECTOR)),
    "layer norm": (functional.layer_norm, (ROWS, (6,), VECTOR, VECTOR)),
    "layer norm, permuted": (functional.layer_norm, (X.permute(0, 2, 3, 1), (6,), VECTOR, VECTOR)),
    "linear": (functional.linear, (ROWS, torch.randn(3, 6), torch.randn(3))),
    "relu": (torch.relu, (X,)),
    "relu in place": (torch.relu_, (X.clone(),)),
    "hardtanh": (functional.hardtanh, (X, 0.0, 6.0)),
    "gelu": (functional.gelu, (X,)),
    "gelu, channels last": (functional.gelu, (X.to(memory_format=torch.channels_last),)),
    "silu, transposed": (functional.silu, (ROWS.t(),)),
    "sum of two": (torch.add, (X, X)),
    "product by broadcast": (torch.mul, (X, VECTOR[:, None, None])),
    "larger by broadcast": (torch.mul, (VECTOR[:, None, None], X)),
    "product with a number": (torch.mul, (X, 2)),
    "sum of two types": (torch.add, (X, X.double())),
    "integers divided": (torch.div, (torch.arange(3), 2)),
    "comparison": (torch.gt, (X, 0)),
    "softmax": (functional.softmax, (X, -1)),
    "softmax of halves": (lambda x: functional.softmax(x, -1, dtype=torch.float64), (X,)),
    "mean": (torch.mean, (X, (2, 3), True)),
    "mean without the dimensions": (torch.mean, (X, (-1,))),
    "concatenation": (lambda *t: torch.cat(t, -1), (X, X[..., :3].contiguous())),
    "concatenation of types": (lambda *t: torch.cat(t, 1), (X, X.double())),
    "view": (lambda x: x.view(2, -1), (X,)),
    "flatten of a permutation": (lambda x: x.permute(0, 2, 3, 1).flatten(1), (X,)),
    "transposition": (lambda x: x.transpose(1, -1), (X,)),
    "transposition in place": (lambda x: x.transpose_(1, -1), (X.clone(),)),
    "matrix transposition": (torch.t, (ROWS,)),
    "expansion": (lambda x: x.expand(3, -1), (VECTOR,)),
    "pooling": (functional.max_pool2d, (X, 3, 2, 1)),
    "split": (lambda x: x.split(2, 1), (X,)),
    "positions": (lambda x, i: x[i], (ROWS, torch.tensor([0, 2, 2]))),
    "zeros": (lambda x: x.new_zeros(3, dtype=torch.long), (X,)),
    "cast": (lambda x: x.to(torch.float64), (X,)),
}  # fmt: skip


def looks(result: Any) -> list[tuple[Any, ...]]:
    """Of the first tensor, what can be known without data; of further ones (saved statistics) too, but strides."""
    return [(tuple(t.shape), t.stride(), t.dtype, t.device) for t in tree_leaves(result) if isinstance(t, Tensor)]


@pytest.mark.parametrize("name", CALLS)
def test_results_look_as_real_ones(name: str) -> None:
    function, args = CALLS[name]
    with torch.no_grad():
        real = function(*tree_map_only(Tensor, Tensor.clone, args))
        empty = function(*tree_map_only(Tensor, hollow.of, args))
    assert looks(empty) == looks(real)
    assert all(isinstance(t, hollow.Hollow) for t in tree_leaves(empty) if isinstance(t, Tensor))


def test_writing_in_place_gives_the_same_tensor() -> None:
    x = hollow.of(X)
    assert torch.relu_(x) is x
    assert x.add_(1) is x
    assert x.copy_(hollow.of(X)) is x
    assert x.transpose_(0, 1) is x
    assert x.shape == (6, 2, 8, 8)


@pytest.mark.parametrize(
    "ask",
    [lambda x: x.sum().item(), torch.nonzero, lambda x: x[x > 0], lambda x: x.resize_(3), lambda x: x.unsqueeze_(0)],
)  # fmt: skip
def test_what_needs_data_or_changes_a_shape_in_place_is_refused(ask: Callable[[Tensor], Any]) -> None:
    with pytest.raises(hollow.NeedsDataError):
        ask(hollow.of(X))


def test_sparse_tensors_are_refused() -> None:
    with pytest.raises(hollow.NeedsDataError):
        hollow.of(torch.eye(3).to_sparse())


def test_wrong_shapes_raise_as_real_ones_do() -> None:
    with torch.no_grad(), pytest.raises(RuntimeError):
        functional.conv2d(hollow.of(X), hollow.of(torch.randn(4, 5, 3, 3)))
    with torch.no_grad(), pytest.raises(RuntimeError):
        functional.batch_norm(hollow.of(X), hollow.of(ROWS[0, :5]), hollow.of(ROWS[0, :5]))
    with pytest.raises(RuntimeError):
        hollow.of(X).view(5, -1)


def test_a_hollow_parameter_is_a_parameter() -> None:
    made = hollow.hollow_like(nn.Parameter(X, requires_grad=False), (3, 4))
    assert isinstance(made, nn.Parameter)
    assert not made.requires_grad
    assert made.shape == (3, 4)
    assert not isinstance(hollow.hollow_like(X, (3, 4)), nn.Parameter)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "vit_b_16"])
def test_models_are_recorded_without_data(name: str) -> None:
    with torch.device("meta"):
        model = torchvision.models.get_model(name)
    model = model.to_empty(device="cpu")
    found = record(model, ((torch.randn(1, 3, 224, 224),), {}))
    assert found.medium == "hollow"
    assert found.outputs[0].shape == (1, 1000)


def test_a_model_that_reads_values_is_recorded_with_what_it_read() -> None:
    class Reads(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if x.sum() > 0 else x

    found = record(Reads(), ((torch.ones(2, 3),), {}))
    assert found.medium == "hollow"
    assert [result for _, result in found.choices.made] == [True]
    assert [call.op for call in found.calls][-1] == "mul"
