"""Every product of a model with one of its weights, seen while the model runs on one example after the other.

A convolution, a linear layer, attention's projections, a recurrent cell: to an operator they are all `W @ A`, with `W`
a part of a parameter and `A` the patches of activations that it meets. So layers are found where they run, by the
parameter that is read, and never by the class of a module.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from secateur.errors import InputError
from secateur.graph.state import undisturbed
from secateur.graph.trace import normalise, plain_kernels
from secateur.sensitivity.samples import sample_size

EPSILON = torch.finfo(torch.float32).eps
"""Sums of contributions no larger than this count as none at all, as in torchprune."""

Examples = Iterable[tuple[Any, Any]]


class Product(NamedTuple):
    """One use of a weight: `weight @ inputs`, in `G` independent parts (the groups of a grouped convolution).

    `name`: the parameter; `weight`: `[G, I, J]`, a row a neuron; `inputs`: `[G, J, P]`, a column a patch; `entries`:
    int64 `[G, I, J]`, where each weight lies in the flattened parameter; `taps`: how many weights of a row one input
    channel has.
    """

    name: str
    weight: Tensor
    inputs: Tensor
    entries: Tensor
    taps: int

    @property
    def points(self) -> list[Tensor]:
        """The inputs as points without negative entries: themselves, or their positive and their negative part."""
        if bool((self.inputs >= 0).all()):
            return [self.inputs]
        return [self.inputs.clamp_min(0), self.inputs.neg().clamp_min(0)]


def signed(product: Product) -> Tensor:
    """`[G, 2 I, J]`: the positive parts of all rows of a product's weight, then the negative ones."""
    return torch.cat([product.weight.clamp_min(0), product.weight.clamp_max(0)], dim=-2)


def reciprocal(sums: Tensor) -> Tensor:
    """`1 / z`, and zero where `z` is no more than rounding."""
    return torch.where(sums.abs() > EPSILON, 1 / sums, 0.0)


class Watched(NamedTuple):
    """How many examples were looked at, and how many the formula of the papers asks for."""

    examples: int
    asked: int

    def __str__(self) -> str:
        return f"examples={self.examples}" + (f" of {self.asked}" if self.examples < self.asked else "")


@torch.no_grad()
def watch(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    examples: Examples,
    visit: Callable[[Product], None],
    *,
    samples: int | None = None,
    failure: float = 1e-16,
) -> Watched:
    """Call `visit` with every product that reads one of `tensors`, for one example after the other.

    `examples` yields `(inputs, targets)` batches, whose first dimension counts examples; `samples` is how many are
    looked at, left out: `sample_size` of what the model computes, with `failure`. The model runs in evaluation mode and
    stays as it was. Raises `InputError` for no examples, and for products that are not finite.
    """
    if samples is not None and (isinstance(samples, bool) or not isinstance(samples, int) or samples < 1):
        raise InputError(f"The 'samples' parameter must be a positive integer. Got {samples!r} instead.")
    device = next((t.device for t in tensors.values()), torch.device("cpu"))
    watcher, seen, asked = _Watcher(tensors, visit), 0, samples
    with undisturbed(model), plain_kernels():
        for inputs in _one_by_one(examples):
            args, kwargs = normalise(tree_map_only(Tensor, lambda tensor: tensor.to(device), inputs))
            with watcher:
                model(*args, **kwargs)
            asked = sample_size(watcher.outputs, failure) if asked is None else asked
            watcher.outputs.clear()
            seen += 1
            if seen >= asked:
                break
    if asked is None:
        raise InputError("The 'examples' parameter must yield at least one (inputs, targets) pair. Got none.")
    return Watched(seen, asked)


def _one_by_one(examples: Examples) -> Iterator[Any]:
    """The inputs of every example, as a batch of one."""
    for batch in examples:
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            kind = type(batch).__name__
            raise InputError(f"The 'examples' parameter must yield (inputs, targets) pairs. Got {kind} instead.")
        sizes = {len(leaf) for leaf in tree_leaves(batch[0]) if isinstance(leaf, Tensor) and leaf.dim()}
        if len(sizes) != 1:
            raise InputError(
                "All inputs of a batch must have one first dimension, which counts examples. "
                f"Got {sorted(sizes) or 'no tensor'} instead."
            )
        for i in range(sizes.pop()):
            yield tree_map_only(Tensor, partial(_one, number=i), batch[0])


def _one(tensor: Tensor, number: int) -> Tensor:
    return tensor[number : number + 1] if tensor.dim() else tensor


class _Watcher(TorchDispatchMode):
    """Sees every operator of a run, and tells of those that multiply by a weight."""

    def __init__(self, tensors: Mapping[str, Tensor], visit: Callable[[Product], None]) -> None:
        super().__init__()
        self.visit = visit
        self.outputs: list[int] = []
        self._owners: dict[int, list[tuple[str, Tensor]]] = {}
        for name, tensor in tensors.items():
            self._owners.setdefault(_memory(tensor), []).append((name, tensor.detach()))
        self._entries: dict[Any, Tensor] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else the first call imports torch's compiler

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name == "convolution":
            self._convolution(*args)
        elif name in ("mm", "bmm"):
            self._matrices(*args)
        elif name in ("addmm", "baddbmm"):
            self._matrices(*args[1:3])
        return result

    def _matrices(self, left: Tensor, right: Tensor) -> None:
        owners = self._owner(left), self._owner(right)
        if owners[0] is not None and owners[1] is None:
            self._tell(owners[0], left, lambda t: t if t.dim() == 3 else t[None], right, form="left")
        elif owners[1] is not None and owners[0] is None:
            self._tell(owners[1], right, lambda t: t.mT if t.dim() == 3 else t.mT[None], left.mT, form="right")

    def _convolution(
        self,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,  # noqa: ARG002 - the operator's own signature
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        transposed: bool,
        _: Sequence[int],
        groups: int,
    ) -> None:
        owner = self._owner(weight)
        if owner is None or transposed:
            return
        taps = math.prod(weight.shape[2:])
        windows = _patches(inputs, weight.shape[2:], stride, padding, dilation)
        columns = windows.reshape(groups, weight.shape[1] * taps, -1)
        form = f"convolution of {groups}"
        self._tell(owner, weight, lambda t: t.reshape(groups, len(t) // groups, -1), columns, form=form, taps=taps)

    def _tell(
        self,
        owner: tuple[str, Tensor],
        weight: Tensor,
        matrix: Callable[[Tensor], Tensor],
        inputs: Tensor,
        *,
        form: str,
        taps: int = 1,
    ) -> None:
        name, parameter = owner
        inputs = inputs if inputs.dim() == 3 else inputs[None]
        kind = inputs.dtype if inputs.dtype == torch.float64 else torch.float32
        place = (name, tuple(weight.shape), weight.stride(), weight.storage_offset(), form)
        if place not in self._entries:
            self._entries[place] = matrix(_numbered(parameter, weight))
        rows = matrix(weight.detach()).to(kind)
        self.outputs.append(rows.shape[0] * rows.shape[1] * inputs.shape[-1])
        if not bool(inputs.isfinite().all() and rows.isfinite().all()):
            raise InputError(
                f"The products with '{name}' must be finite to be looked at. Its weights or what they meet hold NaN or "
                "infinite values; look for a training run that diverged."
            )
        self.visit(Product(name, rows, inputs.to(kind), self._entries[place], taps))

    def _owner(self, tensor: Tensor) -> tuple[str, Tensor] | None:
        """The parameter that a tensor is a view of."""
        for name, parameter in self._owners.get(_memory(tensor), ()):
            offset = tensor.storage_offset() - parameter.storage_offset()
            if 0 <= offset < parameter.numel() and tensor.dtype == parameter.dtype:
                return name, parameter
        return None


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else 0


def _numbered(parameter: Tensor, view: Tensor) -> Tensor:
    """For every entry of a view of a parameter, its index in the flattened parameter."""
    numbers = torch.empty_strided(parameter.shape, parameter.stride(), dtype=torch.long, device=parameter.device)
    numbers.copy_(torch.arange(parameter.numel(), device=parameter.device).view(parameter.shape))
    return numbers.as_strided(view.shape, view.stride(), view.storage_offset() - parameter.storage_offset())


def _patches(
    inputs: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    """`[channels, taps, patches]`: what every tap of a kernel meets, in one, two or three dimensions."""
    around = [side for width in reversed(padding) for side in (width, width)]
    windows = nn.functional.pad(inputs, around)
    for axis, (size, step, gap) in enumerate(zip(kernel, stride, dilation, strict=True)):
        windows = windows.unfold(2 + axis, (size - 1) * gap + 1, step)[..., ::gap]
    places = len(kernel)
    order = (1, *range(2 + places, 2 + 2 * places), 0, *range(2, 2 + places))
    return windows.permute(order).reshape(inputs.shape[1], math.prod(kernel), -1)
