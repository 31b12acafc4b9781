"""Answers beside the point: fluent, free of the prompt's words, and the same for the same prompt."""

import pytest

from boostershot import InputError
from boostershot.data.rows import Completion
from boostershot.data.unrelated import content_words, unrelated_answers
from tiny import preference_rows

GENERAL = [
    Completion(str(i), f"What about {word}?", f"One may say that {word} are found in number {i}.")
    for i, word in enumerate(("rivers", "castles", "violins", "lanterns", "pebbles", "orchards"))
]


def prompts(n=60):
    return [Completion(str(i), row["prompt"], "") for i, row in enumerate(preference_rows(n))]


def test_no_answer_shares_a_content_word_with_its_prompt():
    rows = [Completion("a", "Which castle stands by the river?", ""), Completion("b", "An orchard of violins", "")]
    for row in rows * 3:
        (answer,) = unrelated_answers([row], GENERAL)
        assert not content_words(answer) & content_words(row.prompt)
    assert content_words("The castles of a castle, and WEAPONS with weaponry") == {"castle", "weapon"}


def test_the_draw_is_the_prompts_and_spreads_over_the_rows():
    drawn = unrelated_answers(prompts(), GENERAL)
    assert unrelated_answers(prompts()[::-1], GENERAL) == drawn[::-1]
    assert set(drawn) == {row.completion for row in GENERAL}


def test_a_bare_word_is_no_fluent_answer():
    rows = [Completion("x", "Ann has a son, and his name is Bo. Who is Bo to Ann?", "son")]
    assert unrelated_answers(prompts(1), rows) == ["Ann has a son, and his name is Bo. Who is Bo to Ann?\nson"]


def test_too_little_general_text():
    rows = [Completion("p", "Of rivers, castles, violins, lanterns, pebbles and orchards", "")]
    for general in (GENERAL, []):
        with pytest.raises(InputError, match=rf"none of {len(general)} is free of .* data\.general"):
            unrelated_answers(rows, general)
