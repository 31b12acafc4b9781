"""Which rows of the other roles stand beside an alignment row: fixed by the seed, whoever loads the batches."""

from collections import Counter

import pytest
import torch
from torch.utils.data import DataLoader

import boostershot as bs
from boostershot.core.step import Batch
from boostershot.data.format import TokenizedRow
from boostershot.data.rows import Completion
from boostershot.training.data import RolesCollator, RolesDataset, rows_of
from boostershot.training.trainer import DefenseTrainer
from tiny import preference_rows, tiny_llama, tiny_tokenizer

ALIGN = [TokenizedRow(f"a{i}", (1, 2), (3,) * (1 + i % 3)) for i in range(24)]
HARMFUL = [TokenizedRow(f"h{i}", (4,), (5, 6)) for i in range(8)]
PAIRED = [TokenizedRow(f"p{i}", (1, 2), (7,)) for i in range(24)]


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


def test_a_longer_role_is_passed_over_in_the_epochs_that_it_takes():
    data = RolesDataset({"align": ALIGN[:8], "harmful": ALIGN, "paired": ALIGN[:8]}, 1)
    seen = []
    for data.epoch in range(6):
        seen += [data[i]["harmful"][0].name for i in range(8)]
        assert [data[i]["paired"][0].name for i in range(8)] == [row.name for row in ALIGN[:8]]
    assert sorted(seen[:24]) == sorted(row.name for row in ALIGN)
    assert seen[24:] == seen[:24]


class Stop(Exception):
    """The kill."""


def test_a_training_reads_all_harmful_rows_and_goes_on_with_the_same_ones(tmp_path, monkeypatch):
    """4 aligned rows, 10 harmful ones, 10 steps of 2: each harmful row is read twice, with a stop within the second
    epoch too."""
    harmful = [Completion(f"h{i}", row["prompt"], row["rejected"]) for i, row in enumerate(preference_rows(10))]
    training_step, read, stops = DefenseTrainer.training_step, [], []

    def watched(self, model, inputs, *args):
        if self.state.global_step in stops:
            raise Stop
        read.append(inputs["harmful"]["ids"])
        return training_step(self, model, inputs, *args)

    monkeypatch.setattr(DefenseTrainer, "training_step", watched)

    def run(folder):
        args = bs.ImmunizeArguments(
            output_dir=str(folder), max_steps=10, per_device_train_batch_size=2, save_steps=1, lora=None,
            disable_tqdm=True, use_cpu=True,
        )  # fmt: skip
        defense = bs.Booster(lam=1, alpha=0.1)
        bs.immunize(tiny_llama(320), tiny_tokenizer(True), preference_rows(4), defense, args, harmful=harmful)

    run(tmp_path / "whole")
    whole = list(read)
    assert Counter(name for names in whole for name in names) == Counter({f"h{i} (harmful)": 2 for i in range(10)})
    read.clear()
    stops.append(3)
    with pytest.raises(Stop):
        run(tmp_path / "stopped")
    stops.clear()
    run(tmp_path / "stopped")
    assert read == whole


def test_harmful_rows_are_shuffled_and_alignment_rows_are_not():
    data = RolesDataset({"align": ALIGN, "harmful": HARMFUL}, 1)
    assert [data[i]["align"][0].name for i in range(24)] == [row.name for row in ALIGN]
    assert [data[i]["harmful"][0].name for i in range(8)] != [row.name for row in HARMFUL]


def test_collated_rows_keep_names_labels_and_masks():
    data = RolesDataset({"align": ALIGN, "harmful": HARMFUL}, 1)
    rows = rows_of(RolesCollator(0)([data[0], data[1], data[2]])["align"])
    assert rows.ids == ("a0", "a1", "a2")
    assert rows.labels.tolist() == [[-100, -100, 3, -100, -100], [-100, -100, 3, 3, -100], [-100, -100, 3, 3, 3]]
    assert rows.attention_mask.sum(1).tolist() == [3, 4, 5]


def steps_of(roles, batches, size=4):
    """Every step's rows as `Batch.several` cuts them: role -> its batches, each a list of names."""
    data = RolesDataset(roles, 1, batches)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0)).tolist()
    for start in range(0, len(order), size):
        collated = RolesCollator(0)([data[i] for i in order[start : start + size]])
        batch = Batch(**{role: rows_of(rows) for role, rows in collated.items()}, parts=batches)
        yield {role: [list(rows.ids) for rows in batch.several(role, n)] for role, n in batches.items()}


def test_a_step_has_as_many_batches_as_it_reads_and_each_passes_over_all_rows():
    many = [TokenizedRow(f"h{i}", (4,), (5, 6)) for i in range(36)]
    steps = list(steps_of({"align": ALIGN * 3, "harmful": many}, {"align": 1, "harmful": 3}))
    assert all([len(names) for names in step["harmful"]] == [4, 4, 4] for step in steps)
    for number in range(3):
        seen = Counter(name for step in steps for name in step["harmful"][number])
        assert seen == Counter({row.name: 2 for row in many})
    for step in steps:
        for rows in zip(*step["harmful"], strict=True):  # those of one item
            assert len(set(rows)) == 3


def test_the_first_of_several_batches_is_what_a_reader_of_one_gets():
    one = list(steps_of({"align": ALIGN, "harmful": HARMFUL}, {"align": 1, "harmful": 1}))
    several = list(steps_of({"align": ALIGN, "harmful": HARMFUL}, {"align": 1, "harmful": 4}))
    assert [step["harmful"][0] for step in several] == [step["harmful"][0] for step in one]


@pytest.mark.parametrize("n", [1, 2])
def test_a_paired_row_belongs_to_the_aligned_row_beside_it(n):
    for step in steps_of(
        {"align": ALIGN, "harmful": HARMFUL, "paired": PAIRED}, {"align": n, "harmful": 1, "paired": n}
    ):
        for aligned, paired in zip(step["align"], step["paired"], strict=True):
            assert [name[1:] for name in aligned] == [name[1:] for name in paired]


def test_roles_are_shuffled_apart():
    data = RolesDataset({"align": ALIGN, "harmful": HARMFUL, "general": HARMFUL, "dev": HARMFUL}, 1)
    orders = [tuple(data[i][role][0].name for i in range(8)) for role in ("harmful", "general", "dev")]
    assert len(set(orders)) == 3


def test_the_first_rows_of_the_batches_pass_over_all_harmful_rows_in_time():
    # What a share of a harmful batch reads: harmful rows follow the order of `align`, which each epoch draws anew.
    data, order = RolesDataset({"align": ALIGN, "harmful": HARMFUL}, seed=1), torch.Generator().manual_seed(0)
    loader = DataLoader(data, batch_size=6, shuffle=True, generator=order, collate_fn=RolesCollator(0))
    seen = Counter()
    for _ in range(60):
        for batch in loader:
            seen.update(Batch(harmful=rows_of(batch["harmful"])).first("harmful", 0.3).need("harmful").ids)
    assert set(seen) == {row.name for row in HARMFUL}
    assert sum(seen.values()) == 60 * 4 * 2
    assert max(seen.values()) < 1.6 * min(seen.values())  # 60 of each on average
