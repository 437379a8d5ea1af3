"""A plan: which units stay, as a plain value that can be printed, saved and replayed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from secateur.errors import CheckpointError, InputError
from secateur.files import atomic_write
from secateur.graph.cost import Cost
from secateur.graph.naming import nearest
from secateur.graph.units import Groups, Kind
from secateur.planning.budget import pretty
from secateur.version import __version__

FORMAT, FORMAT_VERSION = "secateur plan", 1
PLAIN = ("kind", "units", "budget", "asked", "criterion", "allocation", "versions", "notes")
NOUNS = {"slices": "units", "elements": "weights", "blocks": "blocks"}


class Row(NamedTuple):
    """One group of a plan: its units before and after."""

    group: str
    before: int
    after: int


@dataclass(frozen=True, eq=False)
class Plan:
    """The units that stay of every group.

    `keep`: group name -> the kept unit indices, sorted, int64; `units`: group name -> how many there are. `factors`:
    group name -> what a randomised method multiplies each kept unit by (float, one a kept unit). `budget` is the text
    that was asked and `asked` its number for this model (empty and None where no budget decided); `reached` and
    `dense` are the costs with and without the plan. Raises `InputError` for indices that are not units of their group.
    """

    keep: Mapping[str, Tensor]
    units: Mapping[str, int]
    kind: Kind
    reached: Cost
    dense: Cost
    budget: str = ""
    asked: float | None = None
    criterion: str = ""
    allocation: str = ""
    factors: Mapping[str, Tensor] = field(default_factory=dict)
    versions: Mapping[str, str] = field(
        default_factory=lambda: {"secateur": __version__, "torch": str(torch.__version__)}
    )
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if set(self.keep) != set(self.units):
            odd = sorted(set(self.keep) ^ set(self.units))
            raise InputError(
                f"The 'keep' and 'units' of a plan must name the same groups. Only one of them has: {odd[:5]}."
            )
        for name, kept in self.keep.items():
            _check_kept(name, kept, self.units[name])
        for name, factor in self.factors.items():
            if name not in self.keep or factor.shape != self.keep[name].shape:
                raise InputError(f"The 'factors' of group '{name}' must hold one number for each of its kept units.")

    @staticmethod
    def of(
        groups: Groups,
        keep: Mapping[str, Tensor],
        *,
        criterion: str = "",
        factors: Mapping[str, Tensor] | None = None,
        notes: tuple[str, ...] = (),
    ) -> Plan:
        """The plan that keeps the given units: for methods that choose by themselves; groups not named stay whole.

        Raises `InputError` for groups that do not exist and for numbers of units that the model cannot have.

        >>> Plan.of(groups, {"layer1.0.conv1": torch.tensor([0, 3, 4, 7])})
        """
        names = [g.name for g in groups]
        for name in keep:
            if name not in names:
                raise InputError(
                    f"The 'keep' parameter names group {name!r}, which does not exist.{nearest(name, names)}"
                )
        kept = {g.name: keep[g.name].cpu() if g.name in keep else torch.arange(g.units) for g in groups}
        counts = {name: indices.numel() for name, indices in kept.items()}
        for name, count in groups.balance(counts).items():
            if count != counts[name]:
                raise InputError(
                    f"Group '{name}' must keep {count} units beside the others. Got {counts[name]} instead."
                )
        return Plan(
            keep=kept,
            units={g.name: g.units for g in groups},
            kind=groups.kind,
            reached=groups.cost(counts),
            dense=groups.cost_model.dense,
            criterion=criterion,
            factors=factors or {},
            notes=notes,
        )

    @property
    def counts(self) -> dict[str, int]:
        """Group name -> how many units stay."""
        return {name: kept.numel() for name, kept in self.keep.items()}

    def removed(self, name: str) -> Tensor:
        """The unit indices of a group that leave, sorted, int64."""
        gone = ~self.mask(name)
        return gone.nonzero().flatten()

    def mask(self, name: str) -> Tensor:
        """Bool of shape `[units]`: which units of a group stay."""
        mask = torch.zeros(self.units[name], dtype=torch.bool)
        mask[self.keep[name]] = True
        return mask

    def table(self) -> tuple[Row, ...]:
        """Units before and after, one row a group."""
        return tuple(Row(name, self.units[name], kept.numel()) for name, kept in self.keep.items())

    def check(self, groups: Groups) -> None:
        """Raises `InputError` if the plan was made for other groups than these."""
        theirs = {g.name: g.units for g in groups}
        if self.kind != groups.kind:
            raise InputError(
                f"The plan is made of {self.kind} and the groups of {groups.kind}. Make the plan from these groups."
            )
        odd = sorted(name for name in set(theirs) | set(self.units) if theirs.get(name) != self.units.get(name))
        if odd:
            found = f"{theirs.get(odd[0], 0)} units in the model and {self.units.get(odd[0], 0)} in the plan"
            raise InputError(
                f"The plan was made for another model: group '{odd[0]}' has {found} ({len(odd)} groups differ)."
            )

    def to_json(self) -> dict[str, Any]:
        """The plan as plain values that `json` can write; `from_json` reads them back."""
        kept = {name: indices.tolist() for name, indices in self.keep.items()}
        return {**self._head(), "keep": kept, "factors": {name: f.tolist() for name, f in self.factors.items()}}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Plan:
        """The plan that `to_json` wrote. Raises `CheckpointError` that names the field which is missing or wrong."""
        head = _check_head(data)
        return _read(head, _tensors(head, "keep", torch.int64), _tensors(head, "factors", torch.float64))

    def save(self, path: str | Path) -> Path:
        """Write the plan and return the file: JSON for slices, safetensors with packed bits for elements and blocks.

        `path` is a file with that suffix, or an existing folder, which gets `units.json` or `units.safetensors`.
        """
        path, suffix = Path(path), ".json" if self.kind == "slices" else ".safetensors"
        path = path / f"units{suffix}" if path.is_dir() else path
        if path.suffix != suffix:
            raise InputError(f"The 'path' of a plan of {self.kind} must end in '{suffix}'. Got '{path}' instead.")
        with atomic_write(path) as partial:
            if self.kind == "slices":
                partial.write_text(json.dumps(self.to_json()))
            else:
                tensors = {f"keep/{name}": _pack(self.mask(name)) for name in self.keep}
                tensors |= {f"factors/{name}": factor.contiguous() for name, factor in self.factors.items()}
                save_file(tensors, partial, metadata={"plan": json.dumps(self._head())})
        return path

    @staticmethod
    def load(path: str | Path) -> Plan:
        """The plan that `save` wrote. Raises `CheckpointError` with the name of the file and what is wrong in it."""
        path = Path(path)
        if not path.is_file():
            raise CheckpointError(f"There is no plan at '{path}'.")
        try:
            if path.suffix != ".safetensors":
                return Plan.from_json(json.loads(path.read_text()))
            with safe_open(path, "pt") as file:
                head = _check_head(json.loads((file.metadata() or {}).get("plan", "null")))
                return _read(head, _unpack(file, head["units"]), _stored(file, "factors/"))
        except CheckpointError as error:
            raise CheckpointError(f"The plan at '{path}' cannot be read: {error}") from error
        except (json.JSONDecodeError, UnicodeDecodeError, SafetensorError) as error:
            raise CheckpointError(f"The plan at '{path}' is damaged or no plan at all: {error}") from error

    def _head(self) -> dict[str, Any]:
        """Everything but the indices, as plain values."""
        values = {name: getattr(self, name) for name in PLAIN}
        costs = {"reached": dataclasses.asdict(self.reached), "dense": dataclasses.asdict(self.dense)}
        return {"format": FORMAT, "format_version": FORMAT_VERSION, **values, **costs}

    def __str__(self) -> str:
        parts = [_change(NOUNS[self.kind], sum(self.counts.values()), sum(self.units.values()))]
        if self.kind != "slices":
            parts.insert(0, _change("parameters", self.reached.weights, self.dense.weights))
            if self.dense.macs:
                parts.append(_change("non-zero MACs", self.reached.nonzero_macs, self.dense.nonzero_macs))
        else:
            parts.insert(0, _change("MACs", self.reached.macs, self.dense.macs))
            parts.insert(1, _change("parameters", self.reached.params, self.dense.params))
        origin = ", ".join(
            filter(None, [f"asked '{self.budget}'" if self.budget else "", self.allocation, self.criterion])
        )
        return f"keeps {', '.join(parts)} in {len(self.keep)} groups" + (f" ({origin})" if origin else "")

    def __repr__(self) -> str:
        return f"Plan({self})"


def _change(noun: str, now: float, before: float) -> str:
    """`50.2 % of MACs (62.9M of 125.5M)`."""
    share = 100 * now / before if before else 100.0
    return f"{share:.1f} % of {noun} ({pretty(now)} of {pretty(before)})"


def _check_kept(name: str, kept: Tensor, units: int) -> None:
    found = ""
    if kept.dim() != 1 or kept.dtype != torch.int64:
        found = f"a tensor of {kept.dtype} with {kept.dim()} dimensions"
    elif kept.numel() and (int(kept[0]) < 0 or int(kept[-1]) >= units):
        found = f"indices from {int(kept[0])} to {int(kept[-1])}"
    elif bool((kept[1:] <= kept[:-1]).any()):
        found = "indices that are out of order or repeated"
    if found:
        raise InputError(
            f"The kept units of group '{name}' must be sorted int64 indices below {units}. Got {found} instead."
        )


def _pack(mask: Tensor) -> Tensor:
    """Eight units a byte, the first in the highest bit."""
    return torch.from_numpy(np.packbits(mask.numpy()))


def _unpack(file: Any, units: Mapping[str, int]) -> dict[str, Tensor]:
    packed = _stored(file, "keep/")
    if set(units) != set(packed):
        raise CheckpointError("the field 'units' and the stored masks do not name the same groups.")
    kept = {}
    for name, count in units.items():
        if packed[name].dtype != torch.uint8 or packed[name].numel() != -(-count // 8):
            raise CheckpointError(f"the mask of group '{name}' does not hold {count} bits.")
        kept[name] = torch.from_numpy(np.unpackbits(packed[name].numpy(), count=count)).nonzero().flatten()
    return kept


def _stored(file: Any, prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): file.get_tensor(key) for key in file.keys() if key.startswith(prefix)}  # noqa: SIM118 - no mapping


def _tensors(head: Mapping[str, Any], name: str, dtype: torch.dtype) -> dict[str, Tensor]:
    try:
        return {group: torch.tensor(row, dtype=dtype) for group, row in head[name].items()}
    except (KeyError, AttributeError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise CheckpointError(f"the field '{name}' must hold a list of numbers for every group.") from error


def _check_head(head: Any) -> dict[str, Any]:
    """The fields of a plan, each looked at before it is believed."""
    if not isinstance(head, Mapping) or head.get("format") != FORMAT:
        raise CheckpointError(f"the field 'format' must be {FORMAT!r}.")
    if head.get("format_version") != FORMAT_VERSION:
        found = head.get("format_version")
        raise CheckpointError(f"the field 'format_version' must be {FORMAT_VERSION}. Got {found!r}; update Secateur.")
    missing = [name for name in (*PLAIN, "reached", "dense") if name not in head]
    if missing:
        raise CheckpointError(f"the field '{missing[0]}' is missing.")
    if head["kind"] not in NOUNS:
        raise CheckpointError(f"the field 'kind' must be one of {', '.join(NOUNS)}. Got {head['kind']!r} instead.")
    units = head["units"]
    if not isinstance(units, Mapping) or not all(type(count) is int and count >= 0 for count in units.values()):
        raise CheckpointError("the field 'units' must hold a number of units for every group.")
    return dict(head)


def _read(head: dict[str, Any], keep: Mapping[str, Tensor], factors: Mapping[str, Tensor]) -> Plan:
    try:
        values: dict[str, Any] = {name: head[name] for name in PLAIN} | {"notes": tuple(head["notes"])}
        values |= {name: Cost(**head[name]) for name in ("reached", "dense")}
        return Plan(keep=keep, factors=factors, **values)
    except (TypeError, InputError) as error:
        raise CheckpointError(f"a field does not fit the others: {error}") from error
