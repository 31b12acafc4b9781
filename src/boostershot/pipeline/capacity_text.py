"""The capacity plan in words: a table for each way to use the devices, a stage a line."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from boostershot.pipeline.capacity import USABLE, Planned
from boostershot.pipeline.devices import GIB

COLUMNS = (
    *("stage", "times", "weights", "base", "gradients", "optimiser", "defence", "activations", "(checkpointed)"),
    *("vocabulary", "gathered", "total GiB", "fits", "time"),
)


def lines(plans: Sequence[Planned]) -> list[str]:
    """What `boostershot plan` prints."""
    one = plans[0]
    weights = one.stage.footprint.weights()
    precisions = dict.fromkeys(planned.setting.precision for planned in plans)
    told = [
        f"{weights.all / 1e9:.3g} billion weights, {weights.trainable / 1e6:.4g} million trained by the alignment; "
        f"{one.device.name}: {one.device.memory / GIB:.3g} GiB, of which {USABLE:.0%} can be planned with",
        f"arithmetic in {' or '.join(precisions)}; rows of {one.stage.length} tokens that share no prefix (the longest "
        "there can be); GiB on one device",
    ]
    for (layout, count), group in groupby(plans, key=lambda planned: (planned.setting.layout, planned.setting.count)):
        rows = [planned.to_dict() for planned in group]
        devices = "" if count == 1 else f" over {count} devices"
        told += ["", f"{layout}{devices}", *_table([COLUMNS, *(_row(row) for row in rows)])]
        told += [f"{row['stage']} does not fit; what would make it: {row['remedy']}" for row in rows if not row["fits"]]
        total = sum(row["times"] * row["seconds"] for row in rows)
        told.append(f"about {_about(total)} in all, one stage after the other")
    return told


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    memory, checkpointed = row["memory"], row["activations_checkpointed"]
    parts = ("weights", "base", "gradients", "optimizer", "defense", "activations")
    return (
        *(row["stage"], str(row["times"]), *(_gib(memory[part]) for part in parts)),
        *("" if checkpointed is None else f"({_gib(checkpointed)})", _gib(memory["vocabulary"])),
        *(_gib(memory["gathered"]), _gib(memory["total"]), "yes" if row["fits"] else "NO", _about(row["seconds"])),
    )


def _gib(size: float) -> str:
    return "0" if not size else f"{size / GIB:.2f}" if size < 100 * GIB else f"{size / GIB:.0f}"


def _about(seconds: float) -> str:
    """Such as 40 s, 12 min, 3.1 h, 12 d."""
    for size, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.2g} s"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
