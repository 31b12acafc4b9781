"""The rows of a step: each alignment row beside a harmful one, in an order that a seed fixes."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils.data import Dataset

from boostershot.core.batch import Rows
from boostershot.data.format import TokenizedRow, collate


class RolesDataset(Dataset):
    """Item i holds, for each role, one row: `align[i]` and, for another role, `rows[order[i % n]]`.

    One data set, so that the Trainer's own sampler gives the order, the sharding and the resume.
    """

    def __init__(self, roles: Mapping[str, Sequence[TokenizedRow]], seed: int):
        self.roles = dict(roles)
        self.orders: dict[str, list[int]] = {}
        for role, rows in self.roles.items():
            self.orders[role] = list(range(len(rows)))
            if role != "align":  # an independent shuffle, as in the published algorithm
                random.Random(f"{seed}/{role}").shuffle(self.orders[role])

    def __len__(self) -> int:
        return len(self.roles["align"])

    def __getitem__(self, index: int) -> dict[str, TokenizedRow]:
        return {role: rows[self.orders[role][index % len(rows)]] for role, rows in self.roles.items()}


class RolesCollator:
    """Items into one padded batch a role, as plain dictionaries that accelerate can move."""

    def __init__(self, pad_id: int):
        self.pad_id = pad_id

    def __call__(self, items: Sequence[Mapping[str, TokenizedRow]]) -> dict[str, dict[str, Any]]:
        batch = {}
        for role in items[0]:
            rows = collate([item[role] for item in items], self.pad_id)
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
