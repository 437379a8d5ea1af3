"""What a loader may be: any sized iterable of (inputs, targets); moving, counting and ordering its batches."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any

import torch
from torch import Tensor, nn

from secateur.errors import DataError, InputError

Batch = tuple[Any, Any]


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter or buffer; the CPU for a model without either."""
    tensor = next(itertools.chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


def call(model: nn.Module, inputs: Any) -> Any:
    """The model's outputs: a mapping is passed as keywords, a tuple or list as positional arguments."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, tuple | list):
        return model(*inputs)
    return model(inputs)


def each_tensor(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """`value` with `function` applied to every tensor inside its tuples, lists and mappings."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: each_tensor(function, item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        items = [each_tensor(function, item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors inside tuples, lists and mappings, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors(list(value.values()))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors(item)


def count(value: Any) -> int:
    """How many samples `value` holds: the first dimension of its first tensor, 1 if there is none."""
    return next((tensor.shape[0] for tensor in tensors(value) if tensor.dim()), 1)


def pair(batch: Any) -> Batch:
    """A batch as (inputs, targets)."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        found = f"{len(batch)} items" if isinstance(batch, tuple | list) else type(batch).__name__
        raise InputError(f"The loader must yield pairs (inputs, targets). Got {found} instead.")
    return batch[0], batch[1]


def moved(batch: Any, device: torch.device, channels_last: bool = False) -> Batch:
    """The pair (inputs, targets) on `device`, 4-d inputs in channels-last layout if asked."""
    inputs, targets = pair(batch)

    def place(tensor: Tensor) -> Tensor:
        tensor = tensor.to(device, non_blocking=True)
        return tensor.contiguous(memory_format=torch.channels_last) if channels_last and tensor.dim() == 4 else tensor

    on_device: Callable[[Tensor], Tensor] = lambda tensor: tensor.to(device, non_blocking=True)  # noqa: E731
    return each_tensor(place, inputs), each_tensor(on_device, targets)


def splits(data: Any) -> tuple[Iterable[Any], Iterable[Any] | None]:
    """The training loader and the validation loader (or None) of a `Data`-like object or of a bare loader."""
    if hasattr(data, "train") and not isinstance(data, nn.Module):
        return data.train, getattr(data, "validation", None)
    if not isinstance(data, Iterable):
        raise InputError(
            "The 'data' parameter of fit must have .train and .validation, or be an iterable of (inputs, targets). "
            f"Got {type(data).__name__} instead."
        )
    return data, None


def steps_in(loader: Iterable[Any], asked: int | None, epochs: int) -> int:
    """The number of batches of one epoch: `asked`, or the loader's length."""
    if isinstance(loader, Iterator) and epochs > 1:
        raise InputError(
            f"The training data must be iterable once an epoch, {epochs} times. Got a one-shot {type(loader).__name__} "
            "instead; pass a list or a loader."
        )
    try:
        length = asked or len(loader)  # type: ignore[arg-type]
    except TypeError:
        raise InputError(
            f"The training data must have a length. {type(loader).__name__} has none; give fit 'steps_per_epoch'."
        ) from None
    if length == 0:
        raise DataError("The training data must hold at least one batch. Got an empty loader instead.")
    return length


def announce_epoch(loader: Iterable[Any], epoch: int) -> None:
    """Tell the loader, or its sampler, which epoch comes next, where it wants to know."""
    parts: tuple[Any, ...] = (loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None))
    for part in parts:
        if hasattr(part, "set_epoch"):
            part.set_epoch(epoch)


def generators(loader: Iterable[Any]) -> list[torch.Generator]:
    """The random generators a loader owns (a DataLoader's `generator`): their state moves on from epoch to epoch."""
    parts = (loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None))
    found = [getattr(part, "generator", None) for part in parts]
    unique = {id(generator): generator for generator in found if isinstance(generator, torch.Generator)}
    return list(unique.values())


def groups_of(loader: Iterable[Any], start: int, batches: int, size: int, seed: Callable[[int], None]) -> Iterator[Any]:
    """The batches of an epoch in groups of `size`, one group a step, from step `start` on; `batches` at most in all.

    A loader with `since` gives its batches from there, functions of the epoch and their number. Any other is gone
    through from its beginning, and `seed` is called with the number of each step before its batches are fetched, so
    that what loading draws is the same for a run that starts in the middle.
    """
    anywhere = callable(getattr(loader, "since", None))
    first = start if anywhere else 0
    source = loader.since(first * size) if anywhere else iter(loader)  # type: ignore[attr-defined]
    source = itertools.islice(source, batches - first * size)
    for step in itertools.count(first):
        if not anywhere:
            seed(step)
        group = tuple(itertools.islice(source, size))
        if not group:
            return
        if step >= start:
            yield group


def last_batch(loader: Iterable[Any]) -> int | None:
    """The number of samples in an epoch's last batch, None where the loader does not tell or leaves it out."""
    size = getattr(loader, "batch_size", None)
    samples = getattr(loader, "samples", None)
    if samples is None and hasattr(loader, "dataset"):
        samples = len(loader.dataset) if hasattr(loader.dataset, "__len__") else None
    if not isinstance(size, int) or not isinstance(samples, int) or getattr(loader, "drop_last", False):
        return None
    steps = len(loader) if isinstance(loader, Sized) else 0
    return samples % size or size if steps == -(-samples // size) else None
