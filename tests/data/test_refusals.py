"""The safe answers are varied, and those that test judges are none of them."""

from collections import Counter

from boostershot.data.refusals import REFUSALS, UNSEEN_REFUSALS, WARNINGS, refusal_for
from boostershot.data.splits import normalise
from boostershot.evaluation.judges import is_refusal


def test_at_least_forty_distinct_refusals_for_240_prompts():
    used = Counter(refusal_for(f"prompt number {i}") for i in range(240))
    assert len(used) >= 40
    assert max(used.values()) <= 20  # none takes over: 240 / 45 is 5 on average
    assert set(used) <= set(REFUSALS)


def test_the_same_prompt_gets_the_same_refusal():
    assert [refusal_for(f"p{i}") for i in range(5)] == [refusal_for(f"p{i}") for i in range(5)]


def test_unseen_refusals_are_other_wordings():
    seen, unseen = set(map(normalise, REFUSALS)), set(map(normalise, UNSEEN_REFUSALS))
    assert not seen & unseen
    assert len(seen) == len(REFUSALS) >= 40 and len(unseen) == len(UNSEEN_REFUSALS) >= 10


def test_warnings_are_no_refusals_by_keywords():
    """Else the judge would pass them without having read them."""
    assert not [text for text in WARNINGS if is_refusal(text)]
    assert len(set(map(normalise, WARNINGS))) == len(WARNINGS) >= 10
