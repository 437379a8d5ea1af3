"""Tensors with a shape, a type and a device but no data, and running operators on them.

torch's own fake tensors do the same and more; what they do for every call (hashing its arguments, taking norms apart
into twenty operators) takes many times longer than these. So a model is recorded on these first, and on fake tensors
where anything goes wrong here: an operator that needs data, an unclear device, a tensor of an unusual kind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from secateur.graph.choices import depends_on_values
from secateur.graph.nested import mapped

Shape = Sequence[int]


class NeedsDataError(Exception):
    """Raised where the result's shape, or the way on, depends on more than shapes."""


class Hollow(Tensor):
    """A tensor without data; operators on it give tensors without data."""

    @staticmethod
    def __new__(
        cls, shape: Shape, stride: Shape, dtype: torch.dtype, device: torch.device, requires_grad: bool = False
    ) -> Hollow:
        made: Hollow = Tensor._make_wrapper_subclass(
            cls, shape, strides=stride, dtype=dtype, device=device, requires_grad=requires_grad
        )
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Hollow({tuple(self.shape)}, {self.dtype}, {self.device})"

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override] # torch's stub leaves `func` out
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return run(func, args, kwargs or {})


def of(tensor: Tensor) -> Hollow:
    """A tensor like another, without its data. Raises `NeedsDataError` for sparse tensors and other special kinds."""
    _check(tensor)
    return Hollow(tensor.shape, tensor.stride(), tensor.dtype, tensor.device)


def hollow_like(tensor: Tensor, shape: Shape) -> Hollow:
    """A tensor of another shape without data: a parameter where `tensor` is one."""
    made = Hollow(shape, _strides(shape), tensor.dtype, tensor.device, tensor.requires_grad)
    if isinstance(tensor, torch.nn.Parameter):
        made._is_param = True  # what isinstance(made, nn.Parameter) asks for
    return made


def run(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """What one ATen call gives: tensors without data; the tensor written to, where it writes in place."""
    quick = SHORTCUTS.get(func)
    if quick is not None and (not kwargs or quick is _empty):
        result = quick(*args, **kwargs)
        if result is not None:
            return result
    return _on_meta(func, args, kwargs)


def _on_meta(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Any operator, by torch's kernels for the meta device."""
    if depends_on_values(func, args):
        raise NeedsDataError(str(func))
    twins: dict[int, tuple[Tensor, Tensor]] = {}

    def twin(tensor: Tensor) -> Tensor:
        if id(tensor) not in twins:
            _check(tensor)
            meta = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
            twins[id(tensor)] = tensor, meta
        return twins[id(tensor)][1]

    meta_args = [mapped(Tensor, twin, value) for value in args]
    meta_kwargs = {name: mapped(Tensor, twin, value) for name, value in kwargs.items()}
    device = _device(kwargs.get("device"), [tensor for tensor, _ in twins.values()])
    if "device" in kwargs or not twins:
        meta_kwargs["device"] = torch.device("meta")
    result = func(*meta_args, **meta_kwargs)
    written = {id(meta): tensor for tensor, meta in twins.values()} if func._schema.is_mutable else {}

    def back(meta: Tensor) -> Tensor:
        original = written.get(id(meta))
        if original is None:
            return Hollow(meta.shape, meta.stride(), meta.dtype, device)
        lines = zip(meta.shape, original.stride(), meta.stride(), strict=True)
        if original.shape != meta.shape or any(n > 1 and before != after for n, before, after in lines):
            raise NeedsDataError(f"{func} changes the shape of its argument")
        return original

    return mapped(Tensor, back, result)


def _check(tensor: Tensor) -> None:
    if tensor.layout is not torch.strided or tensor.is_quantized or type(tensor).__torch_dispatch__ not in ORDINARY:
        raise NeedsDataError(f"{type(tensor).__name__} of layout {tensor.layout}")


def _device(asked: Any, tensors: Sequence[Tensor]) -> torch.device:
    """Where the result of a call is: as asked, else where its tensors are; numbers on the CPU go anywhere."""
    if asked is not None:
        return torch.device(asked)
    found = {t.device for t in tensors}
    if len(found) > 1:
        found = {t.device for t in tensors if t.dim() or t.device.type != "cpu"}
    if len(found) > 1:
        raise NeedsDataError("tensors on several devices meet")
    return found.pop() if found else torch.get_default_device()


ORDINARY = (Tensor.__torch_dispatch__, Hollow.__torch_dispatch__)


# Shortcuts: the operators of most layers, for ordinary arguments; None leaves the call to the meta kernels, which also
# raise what is to be raised. Those of many operators are written in Python, of a dozen calls each.

Quick = Callable[..., Any]


def _strides(shape: Shape) -> list[int]:
    """Of a contiguous tensor."""
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= max(n, 1)
    return strides[::-1]


def _new(like: Tensor, shape: Shape) -> Hollow:
    return Hollow(shape, _strides(shape), like.dtype, like.device)


def _usual(tensor: Any) -> bool:
    return isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.is_contiguous()


def _channels_last(tensor: Any) -> bool:
    """Whether an image lies in memory pixel by pixel, and no other way."""
    dense = isinstance(tensor, Tensor) and tensor.dim() == 4 and not tensor.is_contiguous()
    return dense and tensor.is_floating_point() and tensor.is_contiguous(memory_format=torch.channels_last)


def _last(like: Tensor, shape: Shape) -> Hollow:
    _, c, h, w = shape
    return Hollow(shape, (c * h * w, 1, c * w, c), like.dtype, like.device)


def _vector(tensor: Any, like: Tensor, length: int) -> bool:
    return tensor is None or (tensor.shape == (length,) and _like(tensor, like))


def _like(tensor: Tensor, other: Tensor) -> bool:
    return tensor.dtype is other.dtype and tensor.device == other.device


def _pointwise(x: Any, *others: Any) -> Any:
    if not _usual(x):
        return _permuted_pointwise(x, *others)
    shape = x.shape
    for other in others:
        if isinstance(other, Tensor):
            if not (_usual(other) and _like(other, x)):
                return None
            shape = shape if other.shape == shape else _broadcast(shape, other.shape)
        elif isinstance(other, complex):
            return None
    return _new(x, shape)


def _broadcast(one: Shape, other: Shape) -> Shape:
    """The shape of both together; torch's own function takes longer than the call."""
    if len(one) == len(other) and all(n == m or 1 in (n, m) for n, m in zip(one, other, strict=True)):
        return [m if n == 1 else n for n, m in zip(one, other, strict=True)]
    shape: Shape = torch.broadcast_shapes(one, other)
    return shape


def _permuted_pointwise(x: Any, *others: Any) -> Any:
    """Of one tensor, channels last: its strides stay."""
    alone = not any(isinstance(other, Tensor | complex) for other in others)
    if alone and _channels_last(x):
        return Hollow(x.shape, x.stride(), x.dtype, x.device)
    return None


def _pointwise_in_place(x: Any, *others: Any) -> Any:
    result = _pointwise(x, *others)
    return x if result is not None and result.shape == x.shape else None


def _batch_norm(x: Any, weight: Any, bias: Any, mean: Any, var: Any, training: bool, *_: Any) -> Any:
    if (
        training
        or not _usual(x)
        or x.dim() < 2
        or not all(_vector(t, x, x.shape[1]) for t in (weight, bias, mean, var))
    ):
        return None
    return _new(x, x.shape), _new(x, (0,)), _new(x, (0,))


def _layer_norm(x: Any, shape: Shape, weight: Any, bias: Any, _: float) -> Any:
    if not x.is_floating_point() or len(shape) != 1 or not x.dim() or x.shape[-1] != shape[0]:
        return None
    if not (_vector(weight, x, shape[0]) and _vector(bias, x, shape[0])):
        return None
    statistics = (*x.shape[:-1], 1)
    return _new(x, x.shape), _new(x, statistics), _new(x, statistics)


def _addmm(bias: Any, a: Any, b: Any) -> Any:
    if not (_usual(a) and a.dim() == 2 and b.dim() == 2 and a.shape[1] == b.shape[0] and _like(b, a)):
        return None
    return _new(a, (a.shape[0], b.shape[1])) if _vector(bias, a, b.shape[1]) else None


def _convolution(
    x: Any,
    weight: Any,
    bias: Any,
    stride: Shape,
    padding: Shape,
    dilation: Shape,
    transposed: bool,
    _: Shape,
    groups: int,
) -> Any:
    last = [_channels_last(t) for t in (x, weight)]  # either makes the result so
    usual = (_usual(x) or last[0]) and (_usual(weight) or last[1])
    if transposed or not (usual and x.dim() == weight.dim() and _like(weight, x)):
        return None
    if x.shape[1] != weight.shape[1] * groups or weight.shape[0] % groups or not _vector(bias, x, weight.shape[0]):
        return None
    shape = [x.shape[0], weight.shape[0]]
    for n, k, *axis in zip(
        x.shape[2:], weight.shape[2:], *(_each(v, x.dim() - 2) for v in (stride, padding, dilation)), strict=True
    ):
        step, pad, spread = axis
        shape.append((n + 2 * pad - spread * (k - 1) - 1) // step + 1)
    if min(shape) <= 0:
        return None
    return _last(x, shape) if any(last) else _new(x, shape)


def _each(values: Shape, axes: int) -> Shape:
    return values if len(values) == axes else [*values] * axes


def _cat(tensors: Sequence[Any], dim: int = 0) -> Any:
    first = tensors[0]
    if not all(_usual(t) and t.dim() == first.dim() > 0 and _like(t, first) for t in tensors):
        return None
    dim %= first.dim()
    shapes = [[*t.shape[:dim], *t.shape[dim + 1 :]] for t in tensors]
    if any(shape != shapes[0] for shape in shapes):
        return None
    return _new(first, [*first.shape[:dim], sum(t.shape[dim] for t in tensors), *first.shape[dim + 1 :]])


def _view(x: Any, shape: Shape) -> Any:
    if not _usual(x) or 0 in x.shape:
        return None
    known = math.prod(n for n in shape if n != -1)
    if -1 in shape and shape.count(-1) == 1 and known > 0 and x.numel() % known == 0:
        return _new(x, [n if n != -1 else x.numel() // known for n in shape])
    return _new(x, shape) if -1 not in shape and known == x.numel() else None


def _permute(x: Any, dims: Shape) -> Any:
    strides = x.stride()
    return Hollow([x.shape[d] for d in dims], [strides[d] for d in dims], x.dtype, x.device)


def _transpose(x: Any, one: int, other: int) -> Any:
    dims = list(range(x.dim()))
    dims[one], dims[other] = dims[other], dims[one]
    return _permute(x, dims)


def _transpose_in_place(x: Any, one: int, other: int) -> Any:
    """The same tensor, seen in another order from now on, as recurrent layers do."""
    if not isinstance(x, Hollow):
        return None
    with torch._C._DisableTorchDispatch():  # sizes are changed beneath the wrapper
        Tensor.transpose_(x, one, other)
    return x


def _softmax(x: Any, _: int, other_type: Any = None) -> Any:
    return _new(x, x.shape) if _usual(x) and not other_type else None


def _t(x: Any) -> Any:
    return _permute(x, (1, 0)) if x.dim() == 2 else None


def _empty(shape: Shape, *, dtype: Any = None, layout: Any = None, device: Any = None, **other: Any) -> Any:
    if dtype is None or device is None or layout not in (None, torch.strided) or any(other.values()):
        return None
    return Hollow(shape, _strides(shape), dtype, torch.device(device))


def _mean(x: Any, dim: Any, keepdim: bool = False) -> Any:
    if not _usual(x) or not dim:
        return None
    gone = {d % x.dim() for d in dim}
    return _new(x, [1 if d in gone else n for d, n in enumerate(x.shape) if keepdim or d not in gone])


def _pointwise_calls() -> dict[Any, Quick]:
    aten = torch.ops.aten
    names = "relu hardtanh gelu silu sigmoid tanh hardswish hardsigmoid elu leaky_relu mish exp sqrt rsqrt neg"
    table: dict[Any, Quick] = {}
    for name in names.split():
        table[getattr(aten, name).default] = _pointwise
        if hasattr(aten, f"{name}_"):
            table[getattr(aten, f"{name}_").default] = _pointwise_in_place
    for name in ("add", "mul", "sub", "div"):
        table[getattr(aten, name).Tensor] = _pointwise
        table[getattr(aten, f"{name}_").Tensor] = _pointwise_in_place
    for name in ("mul", "div"):
        table[getattr(aten, name).Scalar] = _pointwise
    return table


SHORTCUTS: dict[Any, Quick] = {
    **_pointwise_calls(),
    torch.ops.aten.native_batch_norm.default: _batch_norm,
    torch.ops.aten.native_layer_norm.default: _layer_norm,
    torch.ops.aten.addmm.default: _addmm,
    torch.ops.aten.mean.dim: _mean,
    torch.ops.aten.convolution.default: _convolution,
    torch.ops.aten.cat.default: _cat,
    torch.ops.aten.view.default: _view,
    torch.ops.aten._unsafe_view.default: _view,
    torch.ops.aten.permute.default: _permute,
    torch.ops.aten.transpose.int: _transpose,
    torch.ops.aten.transpose_.default: _transpose_in_place,
    torch.ops.aten.t.default: _t,
    torch.ops.aten.empty.memory_format: _empty,
    torch.ops.aten._softmax.default: _softmax,
    torch.ops.aten._safe_softmax.default: _softmax,
}
