"""Splits are by prompt: disjoint, the same for everyone, and blind to punctuation, case and the order of rows."""

import random
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boostershot.data.splits import SPLITS, normalise, overlaps, prompt_hash, split_of, split_rows


@dataclass(frozen=True)
class Row:
    prompt: str
    number: int = 0


PROMPTS = st.lists(st.text("abcXYZ019 ?!.éß'", min_size=1, max_size=12), max_size=40)


@given(PROMPTS)
@settings(deadline=None, max_examples=25)
def test_every_prompt_lands_in_exactly_one_split(prompts):
    parts = split_rows([Row(prompt) for prompt in prompts])
    assert list(parts) == list(SPLITS)
    found = [normalise(row.prompt) for rows in parts.values() for row in rows]
    assert Counter(found) == Counter(set(map(normalise, prompts)))
    assert all(split_of(row.prompt) == name for name, rows in parts.items() for row in rows)
    assert set(overlaps(parts).values()) == {0}


@given(PROMPTS, st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=25)
def test_the_order_of_rows_does_not_matter(prompts, draw):
    shuffled = list(prompts)
    draw.shuffle(shuffled)
    assert split_rows(map(Row, prompts)) == split_rows(map(Row, shuffled))


def test_variants_of_a_prompt_are_one_prompt():
    variants = ["How tall is a tree?", "how tall is a tree", "HOW  tall, is a tree?!", " How-tall is a\ttree. "]
    assert len({prompt_hash(text) for text in variants}) == 1
    assert sum(len(rows) for rows in split_rows(map(Row, variants)).values()) == 1
    assert prompt_hash("How tall is the tree?") != prompt_hash(variants[0])


def test_a_prompt_keeps_its_split_whatever_stands_beside_it():
    alone = {text: split_of(text) for text in (f"prompt {i}" for i in range(50))}
    parts = split_rows([Row(f"prompt {i}") for i in range(500)])
    assert all(any(row.prompt == text for row in parts[name]) for text, name in alone.items())


def test_known_prompts_stay_where_they_are():
    """Splits of finished runs must not move with a new version."""
    assert [split_of(f"prompt {i}") for i in range(6)] == ["align", "attack", "align", "dev", "dev", "attack"]


def test_repeated_prompts_stay_together_and_are_spread_over_their_split():
    rows = [Row(f"question number {i % 300}", i) for i in range(900)]
    parts = split_rows(rows, repeated=("align", "attack"))
    assert set(overlaps(parts).values()) == {0}
    distinct = split_rows(rows)
    for name, part in parts.items():
        assert len(part) == len(distinct[name]) * (3 if name in ("align", "attack") else 1)
    first = parts["align"][:40]
    assert len({row.prompt for row in first}) > 25  # not thirteen prompts, each three times


def test_a_merged_share_changes_no_other_split():
    rows = [Row(f"question number {i}") for i in range(300)]
    plain, merged = split_rows(rows), split_rows(rows, merged={"test": "align"})
    assert set(merged) == set(plain) - {"test"}
    assert {row.prompt for row in merged["align"]} == {row.prompt for row in plain["align"] + plain["test"]}
    assert all(merged[name] == plain[name] for name in ("attack", "dev", "calibration"))


def test_shares_are_as_asked():
    parts = split_rows([Row(f"question number {i}") for i in range(4000)])
    for name, share in SPLITS.items():
        sd = (share * (1 - share) / 4000) ** 0.5
        assert len(parts[name]) / 4000 == pytest.approx(share, abs=4 * sd)
    assert set(split_rows([Row("a")], {"train": 0.5, "test": 0.5})) == {"train", "test"}


def test_first_rows_of_a_split_are_a_random_sample():
    """Not the source's order, and not the order of the splitting hash."""
    rows = split_rows([Row(f"question number {i}", i) for i in range(2000)])["align"]
    first = [row.number for row in rows[:100]]
    assert 800 < sum(first) / 100 < 1200
    hashes = [prompt_hash(row.prompt) for row in rows]
    assert hashes != sorted(hashes)


def test_overlaps_count_shared_prompts():
    a, b, c = [Row("One?"), Row("two")], [Row("one"), Row("three"), Row("TWO!")], [Row("four")]
    assert overlaps({"a": a, "b": b, "c": c}) == {"a&b": 2, "a&c": 0, "b&c": 0}
    random.Random(0).shuffle(b)
    assert overlaps({"a": a, "b": b})["a&b"] == 2
