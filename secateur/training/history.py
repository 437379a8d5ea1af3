"""History: what a training did, one row an epoch."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Epoch:
    """One epoch: `epoch` counts from 1, `lr` is the first group's at the last step, losses are means per sample.

    `train_loss` includes penalties and label smoothing and is taken while the weights move; `val_loss` is the loss
    alone. Accuracies are shares in [0, 1]; None where there is no validation or the outputs are not class scores.
    `seconds` and `images_per_second` are those of training, without validation.
    """

    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float | None
    val_loss: float | None
    val_accuracy: float | None
    seconds: float
    images_per_second: float


@dataclass(frozen=True)
class Manner:
    """How a training computes: what each "auto" came to, and how many processes share its batches."""

    precision: str
    channels_last: bool
    compiled: bool
    ranks: int


@dataclass
class History:
    """The rows of a training and the model it ended with: another object than went in if a method replaced it.

    `manner` is how it computed; `ema` is the moving average of the weights, where one was asked for: what the
    validation columns tell of.

    >>> history.model.load_state_dict(history.ema)
    """

    model: nn.Module
    manner: Manner
    rows: list[Epoch] = field(default_factory=list)
    ema: dict[str, Tensor] | None = None

    @property
    def best(self) -> Epoch | None:
        """The epoch of the highest validation accuracy; among equals, or without accuracies, of the lowest loss."""

        def worth(row: Epoch) -> tuple[float, float]:
            loss = row.train_loss if row.val_loss is None else row.val_loss
            return (row.val_accuracy or 0.0, -loss if math.isfinite(loss) else -math.inf)

        return max(self.rows, key=worth, default=None)

    def to_dict(self) -> dict[str, Any]:
        """The rows as plain values, with numbers that are not finite as None."""
        rows = [{name: _finite(value) for name, value in asdict(row).items()} for row in self.rows]
        return {"rows": rows, "best": self.best.epoch if self.best else None}

    def to_json(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=1)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
