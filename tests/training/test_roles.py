"""Which harmful row stands beside which alignment row: fixed by the seed, whoever loads the batches."""

from collections import Counter

import pytest
import torch
from torch.utils.data import DataLoader

from boostershot.data.format import TokenizedRow
from boostershot.training.data import RolesCollator, RolesDataset, rows_of

ALIGN = [TokenizedRow(f"a{i}", (1, 2), (3,) * (1 + i % 3)) for i in range(24)]
HARMFUL = [TokenizedRow(f"h{i}", (4,), (5, 6)) for i in range(8)]


def pairs(seed, workers=0):
    """(align, harmful) names in the order in which a loader with this many workers gives them."""
    data = RolesDataset({"align": ALIGN, "harmful": HARMFUL}, seed)
    order = torch.Generator().manual_seed(0)
    loader = DataLoader(
        data, batch_size=5, shuffle=True, generator=order, num_workers=workers, collate_fn=RolesCollator(0)
    )
    return [pair for batch in loader for pair in zip(batch["align"]["ids"], batch["harmful"]["ids"], strict=True)]


@pytest.mark.parametrize("workers", [1, 3])
def test_pairing_does_not_depend_on_the_workers(workers):
    assert pairs(seed=1, workers=workers) == pairs(seed=1)


def test_pairing_is_the_seeds():
    torch.rand(3)  # no global random state takes part
    assert pairs(seed=1) == pairs(seed=1)
    assert dict(pairs(seed=1)) != dict(pairs(seed=2))


def test_every_row_is_used_equally():
    found = pairs(seed=1)
    assert Counter(a for a, _ in found) == Counter({row.name: 1 for row in ALIGN})
    assert Counter(h for _, h in found) == Counter({row.name: 3 for row in HARMFUL})


def test_harmful_rows_are_shuffled_and_alignment_rows_are_not():
    data = RolesDataset({"align": ALIGN, "harmful": HARMFUL}, 1)
    assert [data[i]["align"].name for i in range(24)] == [row.name for row in ALIGN]
    assert [data[i]["harmful"].name for i in range(8)] != [row.name for row in HARMFUL]


def test_collated_rows_keep_names_labels_and_masks():
    data = RolesDataset({"align": ALIGN, "harmful": HARMFUL}, 1)
    rows = rows_of(RolesCollator(0)([data[0], data[1], data[2]])["align"])
    assert rows.ids == ("a0", "a1", "a2")
    assert rows.labels.tolist() == [[-100, -100, 3, -100, -100], [-100, -100, 3, 3, -100], [-100, -100, 3, 3, 3]]
    assert rows.attention_mask.sum(1).tolist() == [3, 4, 5]
