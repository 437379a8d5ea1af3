"""Tensors with a shape, a type and a device but no data, and running operators on them.

torch's own fake tensors do the same and more; what they do for every call (hashing its arguments, decomposing norms into
twenty operators) takes a hundred times longer than these. So a model is recorded on these first, and on fake tensors
where anything goes wrong here: an operator that needs data, a device that is not clear, a tensor of an unusual kind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

Shape = Sequence[int]


class NeedsDataError(Exception):
    """Raised where the result's shape, or the way on, depends on more than shapes."""


class Hollow(Tensor):
    """A tensor without data; operators on it give tensors without data."""

    @staticmethod
    def __new__(
        cls, shape: Shape, stride: Shape, dtype: torch.dtype, device: torch.device, requires_grad: bool = False
    ) -> Hollow:
        made: Hollow = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, shape, strides=stride, dtype=dtype, device=device, requires_grad=requires_grad
        )
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def of(tensor: Tensor) -> Hollow:
    """A tensor like another, without its data. Raises `NeedsDataError` for sparse tensors and other special kinds."""
    _check(tensor)
    return Hollow(tensor.shape, tensor.stride(), tensor.dtype, tensor.device)


def parameter(tensor: Tensor, shape: Shape) -> Hollow:
    """A tensor of another shape without data: a parameter where `tensor` is one."""
    made = Hollow(shape, _strides(shape), tensor.dtype, tensor.device, tensor.requires_grad)
    if isinstance(tensor, torch.nn.Parameter):
        made._is_param = True  # type: ignore[attr-defined] # what isinstance(made, nn.Parameter) asks for
    return made


def run(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """What one ATen call gives: tensors without data; the tensor written to, where it writes in place."""
    quick = SHORTCUTS.get(func)
    if quick is not None and not kwargs:
        result = quick(*args)
        if result is not None:
            return result
    return _on_meta(func, args, kwargs)


def _on_meta(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Any operator, by torch's kernels for the meta device."""
    if torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags:
        raise NeedsDataError(str(func))
    twins: dict[int, tuple[Tensor, Tensor]] = {}

    def twin(tensor: Tensor) -> Tensor:
        if id(tensor) not in twins:
            _check(tensor)
            meta = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
            twins[id(tensor)] = tensor, meta
        return twins[id(tensor)][1]

    meta_args, meta_kwargs = tree_map_only(Tensor, twin, (tuple(args), kwargs))
    device = _device(kwargs.get("device"), [tensor for tensor, _ in twins.values()])
    if "device" in kwargs or not twins:
        meta_kwargs["device"] = torch.device("meta")
    result = func(*meta_args, **meta_kwargs)
    written = {id(meta): tensor for tensor, meta in twins.values()} if func._schema.is_mutable else {}

    def back(meta: Tensor) -> Tensor:
        original = written.get(id(meta))
        if original is None:
            return Hollow(meta.shape, meta.stride(), meta.dtype, device)
        if original.shape != meta.shape or original.stride() != meta.stride():
            raise NeedsDataError(f"{func} changes the shape of its argument")
        return original

    return tree_map_only(Tensor, back, result)


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


def _vector(tensor: Any, like: Tensor, length: int) -> bool:
    return tensor is None or (tensor.shape == (length,) and tensor.dtype is like.dtype and tensor.device == like.device)


def _pointwise(x: Any, *others: Any) -> Any:
    if not _usual(x):
        return None
    for other in others:
        if isinstance(other, Tensor) and not (
            _usual(other) and other.shape == x.shape and other.dtype is x.dtype and other.device == x.device
        ):
            return None
        if isinstance(other, complex):
            return None
    return Hollow(x.shape, x.stride(), x.dtype, x.device)


def _pointwise_in_place(x: Any, *others: Any) -> Any:
    return None if _pointwise(x, *others) is None else x


def _batch_norm(x: Any, weight: Any, bias: Any, mean: Any, var: Any, training: bool, *_: Any) -> Any:
    if training or not _usual(x) or x.dim() < 2 or not all(_vector(t, x, x.shape[1]) for t in (weight, bias, mean, var)):
        return None
    return _new(x, x.shape), _new(x, (0,)), _new(x, (0,))


def _layer_norm(x: Any, shape: Shape, weight: Any, bias: Any, _: float) -> Any:
    if not _usual(x) or len(shape) != 1 or not x.dim() or x.shape[-1] != shape[0]:
        return None
    if not (_vector(weight, x, shape[0]) and _vector(bias, x, shape[0])):
        return None
    statistics = (*x.shape[:-1], 1)
    return _new(x, x.shape), _new(x, statistics), _new(x, statistics)


def _addmm(bias: Any, a: Any, b: Any) -> Any:
    if not (_usual(a) and a.dim() == 2 and b.dim() == 2 and a.shape[1] == b.shape[0] and b.dtype is a.dtype):
        return None
    return _new(a, (a.shape[0], b.shape[1])) if _vector(bias, a, b.shape[1]) and b.device == a.device else None


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
    return table


SHORTCUTS: dict[Any, Quick] = {
    **_pointwise_calls(),
    torch.ops.aten.native_batch_norm.default: _batch_norm,
    torch.ops.aten.native_layer_norm.default: _layer_norm,
    torch.ops.aten.addmm.default: _addmm,
    torch.ops.aten.mean.dim: _mean,
}
