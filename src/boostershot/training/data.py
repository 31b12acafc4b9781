"""The rows of a step: each alignment row beside rows of the other roles, in an order that a seed fixes."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils.data import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from boostershot.core.batch import Rows
from boostershot.data.format import TokenizedRow, collate

IN_ORDER = ("align", "paired")  # row i of the one belongs to row i of the other; all other roles are shuffled

Item = dict[str, list[TokenizedRow]]


class RolesDataset(Dataset):
    """Item i holds, for each role, as many rows as a step reads batches of it: `align[i]`, and others beside it.

    Where a step reads n batches of a role, item i gives row i to the first, and the row a further n-th of all rows on
    to each next: every batch passes over all rows, and no item holds one twice (if there are n). Each epoch goes on in
    the other roles where the last one ended, so a longer role than `align` takes several to pass over, and a role of
    the same length keeps its pairs (published: drawn anew). One data set, so that the Trainer's own sampler gives the
    order, the sharding and the resume.

    Args:
        roles: role -> its rows.
        seed: of the shuffles, one independent of the other, as in the published algorithm of Booster.
        batches: role -> the batches that a step reads; one if not given.

    `epoch` counts from 0; `NextRows` keeps it during a training.
    """

    def __init__(
        self, roles: Mapping[str, Sequence[TokenizedRow]], seed: int, batches: Mapping[str, int] | None = None
    ):
        self.roles = dict(roles)
        self.epoch = 0
        self.batches = {role: (batches or {}).get(role, 1) for role in roles}
        self.orders: dict[str, list[int]] = {}
        for role, rows in self.roles.items():
            self.orders[role] = list(range(len(rows)))
            if role not in IN_ORDER:
                random.Random(f"{seed}/{role}").shuffle(self.orders[role])

    def __len__(self) -> int:
        return len(self.roles["align"])

    def __getitem__(self, index: int) -> Item:
        return {role: [rows[k] for k in self._places(role, index)] for role, rows in self.roles.items()}

    def facts(self) -> dict[str, Any]:
        """All that it holds, as JSON data."""
        rows = {role: [[row.name, row.prompt, row.answer] for row in some] for role, some in self.roles.items()}
        return {"rows": rows, "batches": self.batches}

    def _places(self, role: str, index: int) -> list[int]:
        order, n = self.orders[role], self.batches[role]
        start = index if role in IN_ORDER else index + self.epoch * len(self)
        return [order[(start + k * len(order) // n) % len(order)] for k in range(n)]


class NextRows(TrainerCallback):
    """Tells the rows which epoch it is, before its batches are read."""

    def __init__(self, rows: RolesDataset):
        self.rows = rows

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """A resume may begin within one."""
        self.rows.epoch = int((state.epoch or 0.0) + 1e-6)


class RolesCollator:
    """Items into one padded batch a role, as plain dictionaries that accelerate can move.

    The rows of several batches of a role lie one batch after the other, as `Batch.several` cuts them.
    """

    def __init__(self, pad_id: int):
        self.pad_id = pad_id

    def __call__(self, items: Sequence[Item]) -> dict[str, dict[str, Any]]:
        batch = {}
        for role, first in items[0].items():
            rows = collate([item[role][k] for k in range(len(first)) for item in items], self.pad_id)
            batch[role] = {
                "input_ids": rows.input_ids,
                "attention_mask": rows.attention_mask,
                "labels": rows.labels,
                "ids": list(rows.ids),
            }
        return batch


def rows_of(collated: Mapping[str, Any]) -> Rows:
    """A role's batch, back as rows."""
    return Rows.of(collated, collated["ids"])
