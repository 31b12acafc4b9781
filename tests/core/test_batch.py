"""Rows: what is supervised, how they split, and what a trie of them looks like."""

import pytest
import torch

from batches import batch_of
from boostershot.core.batch import Rows, padded, trie


def rows_of(*rows, **padding) -> Rows:
    return Rows.of(batch_of(rows, **padding))


SHARED = rows_of(
    ([5, 6, 7, 8], [-100, -100, 7, 8]),
    ([5, 6, 7, 9], [-100, -100, 7, 9]),
    ([5, 6, 7, 8], [-100, -100, 7, 8]),
    ([6, 5], [-100, 5]),
)


def test_a_trie_holds_every_distinct_prefix_once():
    layout = trie(SHARED, torch.float32)
    # 5, 56, 567, 5678, 5679, 6, 65
    assert layout.inputs["input_ids"].tolist() == [[5, 6, 7, 8, 9, 6, 5]]
    assert layout.inputs["position_ids"].tolist() == [[0, 1, 2, 3, 3, 0, 1]]
    assert layout.tokens == 7
    seen = (layout.inputs["attention_mask"][0, 0] == 0).int().tolist()
    assert seen == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 1, 1],
    ]
    # Each prediction once for each row that makes it.
    assert layout.positions.tolist() == [1, 2, 1, 2, 1, 2, 5]
    assert layout.targets.tolist() == [7, 8, 7, 9, 7, 8, 5]
    assert layout.rows.tolist() == [0, 0, 1, 1, 2, 2, 3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_mask_of_a_trie_is_additive_and_finite_in_the_dtype_of_the_model(dtype):
    mask = trie(SHARED, dtype).inputs["attention_mask"]
    assert mask.dtype == dtype
    assert set(mask.unique().tolist()) == {0.0, torch.finfo(dtype).min}


def test_padded_positions_count_from_the_first_token():
    layout = padded(rows_of(([5, 6, 7], [-100, 6, 7]), ([8, 9], [-100, 9]), side="left", extra=1))
    assert layout.inputs["position_ids"].tolist() == [[0, 0, 1, 2], [0, 0, 0, 1]]
    assert layout.positions.tolist() == [1, 2, 6]  # of the flattened 2 x 4
    assert layout.targets.tolist() == [6, 7, 9]
    assert layout.tokens == 8


def test_a_label_counts_only_between_two_attended_tokens():
    labels = torch.tensor([[3, 4, 5, -100, 7]])
    mask = torch.tensor([[0, 1, 1, 1, 0]])
    rows = Rows.of({"input_ids": labels.clamp_min(0), "attention_mask": mask, "labels": labels})
    # The first token of a row is predicted from nothing; the last column is padding.
    assert rows.supervised().tolist() == [[False, False, True, False, False]]
    whole = Rows.of({"input_ids": labels, "attention_mask": torch.ones_like(mask), "labels": labels})
    assert whole.supervised().tolist() == [[False, True, True, False, True]]


@pytest.mark.parametrize(("size", "sizes"), [(None, [4]), (1, [1, 1, 1, 1]), (3, [3, 1]), (9, [4])])
def test_split_keeps_the_rows_in_order(size, sizes):
    parts = SHARED.split(size)
    assert [len(part) for part in parts] == sizes
    for key in ("input_ids", "attention_mask", "labels"):
        assert torch.equal(torch.cat([getattr(part, key) for part in parts]), getattr(SHARED, key))
    assert tuple(name for part in parts for name in part.ids) == SHARED.ids


def test_rows_are_named_and_measured():
    assert SHARED.ids == ("row 0", "row 1", "row 2", "row 3")
    assert SHARED.named("align").ids[3] == "align row 3"
    assert Rows.of(batch_of([([1], [1])]), ["d41d8"]).ids == ("d41d8",)
    assert SHARED.longest() == 4


@pytest.mark.parametrize("first", ["short", "long"])
def test_rows_beside_others_are_padded_to_one_width(first):
    short, long = rows_of(([5, 6], [-100, 6])), rows_of(([7, 8, 9], [-100, -100, 9]), side="left", extra=1)
    ours, theirs = (short, long) if first == "short" else (long, short)
    joined = ours.beside(theirs)
    assert joined.ids == (*ours.ids, *theirs.ids)
    for row, part in zip(joined.split(1), (ours, theirs), strict=True):
        width = part.input_ids.shape[1]
        assert torch.equal(row.input_ids[:, :width], part.input_ids)
        assert torch.equal(row.labels[:, :width], part.labels)
        assert row.attention_mask.sum() == part.attention_mask.sum()
        assert row.supervised().sum() == part.supervised().sum()


def test_a_prompt_is_what_stands_before_the_first_supervised_token():
    rows = [([5, 0, 6, 7], [-100, -100, 6, 7]), ([5, 0], [-100, -100]), ([8, 9], [8, 9])]
    for padding in ({"side": "left"}, {"extra": 2}):
        assert rows_of(*rows, **padding).prompts() == [[5, 0], None, [8]]


INTERLEAVED = rows_of(
    *[([start, 7, 8, 9, i], [-100, -100, -100, 9, i]) for i in range(20, 25) for start in (5, 6)], side="left", extra=2
)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize(("size", "tokens"), [(None, 9), (2, 100), (None, 1), (3, 11)])
def test_packed_rows_keep_within_the_budget_and_are_all_there(shared, in_order, size, tokens):
    parts = INTERLEAVED.packed(size, tokens, shared, in_order)
    for part in parts:
        read = trie(part, torch.float32).tokens if shared else len(part) * part.longest()
        assert len(part) == 1 or (read <= tokens and len(part) <= (size or len(part)))
    assert sorted(name for part in parts for name in part.ids) == sorted(INTERLEAVED.ids)
    by_name = {name: row for part in parts for name, row in zip(part.ids, part.input_ids.tolist(), strict=True)}
    assert [by_name[name] for name in INTERLEAVED.ids] == INTERLEAVED.input_ids.tolist()
    if in_order:
        assert [name for part in parts for name in part.ids] == list(INTERLEAVED.ids)


def test_rows_with_common_prefixes_are_packed_together():
    """Two prefixes of four tokens that take turns: nine tokens hold five rows of one, or one row of either."""
    assert [len(part) for part in INTERLEAVED.packed(None, 9, True, in_order=False)] == [5, 5]
    assert [len(part) for part in INTERLEAVED.packed(None, 9, True, in_order=True)] == [1] * 10


def test_padded_rows_of_like_length_are_packed_together():
    rows = rows_of(*[([5] * n, [-100] + [5] * (n - 1)) for n in (9, 2, 9, 2, 9, 2)])
    assert [len(part) for part in rows.packed(None, 18, False, in_order=False)] == [3, 2, 1]
    assert [len(part) for part in rows.packed(None, 18, False, in_order=True)] == [2, 2, 2]
