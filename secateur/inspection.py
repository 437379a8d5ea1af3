"""What can be pruned of a model and what cannot: groups with what they would free, as plain values and as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Group as Together
from rich.markup import escape
from rich.table import Table

from secateur.report import summary, text
from secateur.report.record import FrozenRow

if TYPE_CHECKING:
    from secateur.graph.units import Group, Groups


def described(spec: str, groups: Groups) -> dict[str, Any]:
    """Everything about the groups of a model in JSON types.

    `frees` says how many parameters and MACs (of one call on the example) leave with one unit, and with all units, of a
    group while all other groups stay whole.
    """
    dense = groups.cost_model.dense
    return {
        "model": spec,
        "kind": groups.kind,
        "params": dense.params,
        "macs": dense.macs,
        "groups": [_group(group, groups) for group in groups],
        "frozen": [
            {"name": f.name, "units": f.units, "reason": f.reason, "operator": f.operator, "module": f.module}
            for f in groups.frozen
        ],
        "unreached": list(groups.unreached),
        "unknown": list(groups.unknown),
    }


def _group(group: Group, groups: Groups) -> dict[str, Any]:
    return {
        "name": group.name,
        "units": group.units,
        "multiple": group.multiple,
        "minimum": group.minimum,
        "proof": group.proof,
        "modules": list(group.modules),
        "members": [{"tensor": m.name, "role": m.role, "shape": list(m.shape)} for m in group.members],
        "note": group.note,
        "frees": {
            "one unit": _freed(groups, group, group.units - 1),
            "all units": _freed(groups, group, 0),
        },
    }


def _freed(groups: Groups, group: Group, left: int) -> dict[str, int]:
    dense, cost = groups.cost_model.dense, groups.cost({group.name: left})
    return {"params": dense.params - cost.params, "macs": dense.macs - cost.macs}


def tables(found: dict[str, Any]) -> Together:
    """The description as tables: groups first, then what is not prunable by reason."""
    parts: list[Any] = [_summary(found), "", _groups_table(found)]
    if found["frozen"]:
        parts += [
            "",
            "[bold]Not prunable[/], by the reason and the operator that stops it",
            *_frozen_parts(found["frozen"]),
        ]
    for name, title in (("unreached", "Parameters that the example never reaches"), ("unknown", "Operators not known")):
        if found[name]:
            parts += ["", f"[bold]{title}[/]", *(f"  {escape(item)}" for item in found[name])]
    return Together(*parts)


def _summary(found: dict[str, Any]) -> str:
    units = sum(group["units"] for group in found["groups"])
    return (
        f"[bold]{escape(found['model'])}[/]: {text.count(found['params'])} parameters, "
        f"{text.count(found['macs'])} MACs on the example; {len(found['groups'])} groups of {units:,} units"
    )


def _groups_table(found: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, title="What can be pruned", title_justify="left", title_style="bold")
    table.add_column("group", overflow="fold")
    for name in ("width", "layers", "params\na unit", "MACs\na unit", "params\nof all", "MACs\nof all"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("proof")
    for group in found["groups"]:
        one, whole = group["frees"]["one unit"], group["frees"]["all units"]
        numbers = (one["params"], one["macs"], whole["params"], whole["macs"])
        width = f"{group['units']}×{group['multiple']}" if group["multiple"] > 1 else str(group["units"])
        cells = [width, str(len(group["modules"])), *map(text.count, numbers), group["proof"]]
        table.add_row(escape(group["name"]), *cells)
    return table


def _frozen_parts(frozen: list[dict[str, Any]]) -> list[Any]:
    """One table a reason, the reason that holds most units first."""
    parts: list[Any] = []
    for entry in summary.blocked(FrozenRow(**row) for row in frozen):
        where = f" [dim]({escape(entry.operator)})[/]" if entry.operator else ""
        parts.append(f"  [bold]{escape(entry.reason)}[/]{where}")
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column("dimension", overflow="fold", min_width=32)
        table.add_column("units", justify="right")
        table.add_column("module", overflow="fold")
        for row in entry.rows:
            table.add_row(f"    {escape(row.name)}", f"{row.units:,}", f"in {escape(row.module)}" if row.module else "")
        parts.append(table)
    return parts
