"""Re-estimating the running statistics of batch norm after a cut: the cheapest repair there is, without a gradient."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm

from secateur.errors import DataError, InputError, TrainingError
from secateur.training.batches import call, device_of, each_tensor
from secateur.training.keeping import kept_modes


@torch.no_grad()
def reestimate_batch_norm(model: nn.Module, loader: Iterable[Any], batches: int = 50) -> int:
    """How many norm layers got new statistics: those of the first `batches` batches of `loader`.

    Every batch- or instance-norm layer with running statistics normalises by the batch, as in training, while all other
    modules are in evaluation mode. Batch norm then holds the mean and the unbiased variance of all values a channel
    saw: the variance within batches *and* between them, pooled by Chan, Golub and LeVeque's update, so that all samples
    weigh the same. A moving average, and torch's `momentum=None`, average the variances within batches alone and let a
    small last batch weigh as much as a full one.
    Instance norm holds the means over instances, which is what it defines its statistics as. Momentum, modes and
    gradients are as before; a layer the model does not use keeps its statistics, and on any error all do. `loader`
    yields inputs, or pairs with the inputs first.

    >>> reestimate_batch_norm(model, data.train, batches=20)
    57
    """
    if batches < 1:
        raise InputError(f"The 'batches' parameter of reestimate_batch_norm must be at least 1. Got {batches} instead.")
    norms = norms_with_statistics(model)
    if not norms:
        return 0
    device = device_of(model)
    with _measuring(model, norms) as pools:
        seen = 0
        for batch in islice(iter(loader), batches):
            call(model, each_tensor(lambda tensor: tensor.to(device, non_blocking=True), _inputs(batch)))
            seen += 1
        if not seen:
            raise DataError("The loader must give at least one batch to estimate statistics from. It is empty.")
        for name, pool in pools.items():
            _store(name, norms[name], pool, seen)
    return len(pools)


def norms_with_statistics(model: nn.Module) -> dict[str, _NormBase]:
    """The batch- and instance-norm layers that have running statistics, by name."""
    return {name: norm for name, norm in model.named_modules() if isinstance(norm, _NormBase) and _tracks(norm)}


@dataclass
class _Pool:
    """Number of values a channel, their mean, and the sum of squared deviations from it."""

    number: int
    mean: Tensor
    spread: Tensor

    def add(self, number: int, mean: Tensor, spread: Tensor, between: bool) -> None:
        total = self.number + number
        shift = mean - self.mean
        self.mean = self.mean + shift * (number / total)
        self.spread = self.spread + spread
        if between:
            self.spread = self.spread + shift.square() * (self.number * number / total)
        self.number = total


def _tracks(norm: _NormBase) -> bool:
    return norm.running_mean is not None and norm.running_var is not None


def _inputs(batch: Any) -> Any:
    return batch[0] if isinstance(batch, tuple | list) and len(batch) == 2 else batch


@contextmanager
def _measuring(model: nn.Module, norms: dict[str, _NormBase]) -> Iterator[dict[str, _Pool]]:
    """A block in which every forward pass adds to the pools of the norms it uses; on an error all is put back."""
    pools: dict[str, _Pool] = {}
    before = {name: (norm.momentum, _saved(norm)) for name, norm in norms.items()}
    hooks = [norm.register_forward_hook(_observer(name, pools), with_kwargs=True) for name, norm in norms.items()]
    try:
        with kept_modes(model):
            model.eval()
            for norm in norms.values():
                norm.reset_running_stats()  # NaN would survive any momentum
                norm.training = True  # not .train(), which would reach a dropout inside the norm
                norm.momentum = 1.0  # the running statistics are then the batch's
            yield pools
        unused = [name for name in norms if name not in pools]
    except BaseException as error:
        unused = list(norms)
        if isinstance(error, ValueError) and "more than 1" in str(error):
            raise TrainingError(
                "Batch-norm statistics need more than one value per channel in a batch. Got a batch of one sample; "
                "take a larger one."
            ) from error
        raise
    finally:
        for hook in hooks:
            hook.remove()
        for name, (momentum, _) in before.items():
            norms[name].momentum = momentum
        for name in unused:
            for key, value in before[name][1].items():
                norms[name].get_buffer(key).copy_(value)


def _saved(norm: _NormBase) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in norm.named_buffers(recurse=False)}


def _observer(name: str, pools: dict[str, _Pool]) -> Any:
    def observe(norm: Any, args: tuple[Any, ...], keywords: dict[str, Any], _output: Any) -> None:
        values: Tensor = args[0] if args else keywords["input"]
        exact = torch.float64 if values.device.type != "mps" else torch.float32
        mean, variance = norm.running_mean.to(exact), norm.running_var.to(exact)
        instances = isinstance(norm, _InstanceNorm)
        number = values.numel() // mean.numel()
        spread = variance * (number if instances else number - 1)
        pool = pools.setdefault(name, _Pool(0, torch.zeros_like(mean), torch.zeros_like(mean)))
        pool.add(number, mean, spread, between=not instances)

    return observe


def _store(name: str, norm: _NormBase, pool: _Pool, batches: int) -> None:
    """Write a pool's statistics into its norm; raises `TrainingError` if they are not finite."""
    divisor = pool.number if isinstance(norm, _InstanceNorm) else pool.number - 1
    variance = pool.spread / divisor
    if not bool(torch.isfinite(pool.mean).all() and torch.isfinite(variance).all()):
        raise TrainingError(
            f"The statistics of '{name}' must be finite. Its inputs hold infinities or NaN; check the weights."
        )
    norm.get_buffer("running_mean").copy_(pool.mean)
    norm.get_buffer("running_var").copy_(variance)
    if not isinstance(norm, _InstanceNorm) and norm.num_batches_tracked is not None:
        norm.get_buffer("num_batches_tracked").fill_(batches)
