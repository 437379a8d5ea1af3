"""Whether an importance can be believed: how it ranks the inputs beside others, and what is lost when followed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from scipy.stats import rankdata
from torch import Tensor

from secateur.errors import InputError
from secateur.explain.columns import chain, read_inputs
from secateur.explain.importance import Loss, usual_loss
from secateur.sparse import Network


def rank_correlations(importances: Mapping[str, Tensor]) -> Tensor:
    """Spearman's rho of each pair, `[names, names]`, float64, ties at their mean rank; not a number beside a constant.

    Raises `InputError` for importances of different numbers of inputs.
    """
    sizes = {name: len(values) for name, values in importances.items()}
    if len(set(sizes.values())) > 1:
        raise InputError(f"All importances must be of the same inputs. Got {sizes} instead.")
    ranks = torch.stack([torch.from_numpy(rankdata(values.double().numpy())) for values in importances.values()])
    centred = ranks - ranks.mean(1, keepdim=True)
    lengths = centred.norm(dim=1)
    rho: Tensor = (centred @ centred.t()) / (lengths[:, None] * lengths)
    return rho


@dataclass(frozen=True)
class Deletion:
    """What is left after inputs were set to their means, the most important first: `loss` and, for labels, `accuracy`.

    Element i is for `deleted[i]` inputs.
    """

    deleted: tuple[int, ...]
    loss: tuple[float, ...]
    accuracy: tuple[float, ...] | None

    @property
    def area(self) -> float:
        """The mean of the accuracy over the deletion, or of the loss where there is none: low (high) is good."""
        values = torch.tensor(self.accuracy or self.loss, dtype=torch.float64)
        at = torch.tensor(self.deleted, dtype=torch.float64)
        return float(torch.trapezoid(values, at) / (at[-1] - at[0])) if len(values) > 1 else float(values[0])


def deletion_curve(
    network: Network,
    inputs: Tensor,
    targets: Tensor,
    importance: Tensor,
    *,
    counts: Sequence[int] | None = None,
    loss: Loss | None = None,
) -> Deletion:
    """How the network does as inputs are set to their means in the order of an importance `[in]`.

    `counts`: after how many inputs it is measured; if left out, at 0, at all, and about 20 times between.
    """
    x, loss = read_inputs(network, inputs), loss or usual_loss(targets)
    if importance.shape != (x.shape[1],):
        raise InputError(
            f"The 'importance' parameter of deletion_curve must have a number for each of {x.shape[1]} inputs. Got "
            f"shape {tuple(importance.shape)} instead."
        )
    every = max(1, x.shape[1] // 20)
    counts = counts if counts is not None else sorted({*range(0, x.shape[1], every), x.shape[1]})
    order = importance.argsort(descending=True, stable=True)
    means, losses, shares = x.mean(0), [], []
    for count in counts:
        gone = order[:count]
        x[:, gone] = means[gone]
        outputs = chain(network, x)
        losses.append(float(loss(outputs, targets)))
        if not targets.is_floating_point():
            shares.append(float((outputs.argmax(1) == targets).double().mean()))
    return Deletion(tuple(counts), tuple(losses), tuple(shares) or None)
