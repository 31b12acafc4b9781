"""BeaverTails and its copies with refusals, known by their columns: unsafe rows, and the answer in the refusal."""

import json

import pytest

from boostershot import InputError, load_harmful_prompts
from boostershot.data.beavertails import answer_in
from boostershot.data.harmful import load_harmful_answers


def record(i, safe=False, **changes):
    """Row i as the Hub has it, with harmless words."""
    flags = {"animal_abuse": False, "privacy_violation": i % 2 == 0, "self_harm": True}
    row = {"prompt": f"Where is kite {i}?", "response": f"On roof {i}.", "category": flags, "is_safe": safe}
    return row | changes


@pytest.fixture
def source(tmp_path):
    def write(records):
        path = tmp_path / "30k_train.json"
        path.write_text(json.dumps(records))
        return str(path)

    return write


def test_unsafe_rows_with_their_refusals(source):
    refusal = "Question: Where is kite 1?\nAnswer: I would rather not say."
    path = source([record(0, safe=True), record(1, refusal=refusal), record(2), record(2)])
    first, second, third = load_harmful_prompts(path)
    assert (first.id, first.prompt, first.category) == ("row-2", "Where is kite 1?", "self_harm")
    assert first.categories == ("self_harm",) and second.categories == ("privacy_violation", "self_harm")
    assert (first.chosen, first.rejected) == ("I would rather not say.", "On roof 1.")
    assert (second.category, second.chosen) == ("privacy_violation", None)
    assert third.prompt == second.prompt and third.id != second.id


def test_harmful_answers_alone(source):
    path = source([record(0, safe=True), record(1)])
    (row,) = load_harmful_answers(path)
    assert (row.prompt, row.completion) == ("Where is kite 1?", "On roof 1.")


def test_columns_take_it_for_any_other_source(source):
    path = source([record(0, safe=True), record(1)])
    columns = {"completion": "response"}
    assert [row.completion for row in load_harmful_answers(path, columns=columns)] == ["On roof 0.", "On roof 1."]


@pytest.mark.parametrize(
    ("refusal", "prompt", "answer"),
    [
        ("Question: Why?\nAnswer: No.", "Why?", "No."),
        ("Question: Why?\n\nAnswer:  No.\nAnswer: still no. ", "Why?", "No.\nAnswer: still no."),
        ("Question: Say\nAnswer: x\nAnswer: No.", "Say\nAnswer: x", "No."),  # the prompt holds the mark
        ("Question: reworded\nAnswer: No.", "Why?", "No."),
        ("I won't.", "Why?", "I won't."),
        ("Question: Why?", "Why?", None),
        ("Question: Why?\nAnswer: ", "Why?", None),
        (" ", "Why?", None),
    ],
)
def test_the_answer_in_a_refusal(refusal, prompt, answer):
    assert answer_in(refusal, prompt) == answer


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([record(0), record(1, is_safe="no")], "row 2, column 'is_safe' is 'no'; expected true or false"),
        ([record(0), record(1, response=None)], "row 2, column 'response' is NoneType"),
        ([record(0, safe=True)], "none of its 1 rows is unsafe"),
    ],
)
def test_a_bad_row_is_named(source, records, message):
    with pytest.raises(InputError) as caught:
        load_harmful_prompts(source(records))
    assert message in str(caught.value) and "\n" not in str(caught.value)
