"""Each bad cell is named by source, row and column; TRL's conversational forms are read."""

import pytest

from boostershot import InputError
from boostershot.data.rows import completions, harmful_prompts

PREFERENCE = {"prompt": "Why?", "chosen": "No.", "rejected": "Because."}
COMPLETION = {"prompt": "Why?", "completion": "Because."}
BAD = {"missing": None, "number": 7, "None": None, "empty": "", "blank": " \n", "list": ["a"], "two turns": [{}, {}]}


def turn(text, role="assistant"):
    return [{"role": role, "content": text}]


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize(
    ("reader", "good", "column"),
    [(harmful_prompts, PREFERENCE, c) for c in PREFERENCE] + [(completions, COMPLETION, c) for c in COMPLETION],
    ids=lambda value: getattr(value, "__name__", value if isinstance(value, str) else ""),
)
def test_bad_cell_is_named(reader, good, column, kind):
    bad = {**good, column: BAD[kind]}
    if kind == "missing":
        del bad[column]
    with pytest.raises(InputError) as caught:
        reader([good, good, bad], "some/file.jsonl", {})
    message = str(caught.value)
    assert message.startswith("some/file.jsonl: row 3") and f"column {column!r}" in message and "\n" not in message
    if kind == "missing":
        assert ", ".join(sorted(bad)) in message


@pytest.mark.parametrize("reader", [harmful_prompts, completions])
def test_no_rows(reader):
    with pytest.raises(InputError, match=r"some/file\.jsonl: no rows; expected at least one"):
        reader([], "some/file.jsonl", {})


def test_preference_rows():
    records = [{**PREFERENCE, "id": 12, "category": "fraud", "other": 1}, {**PREFERENCE, "prompt": "  Who? "}]
    first, second = harmful_prompts(records, "x", {})
    assert (first.id, first.prompt, first.category, first.chosen, first.rejected) == (
        "12", "Why?", "fraud", "No.", "Because.",
    )  # fmt: skip
    assert (second.id, second.prompt, second.category) == ("row-2", "Who?", "none")


def test_conversational_preference_rows():
    record = {"prompt": turn("Why?", "user"), "chosen": turn("No."), "rejected": turn("Because.")}
    assert harmful_prompts([record], "x", {}) == harmful_prompts([PREFERENCE], "x", {})


def test_columns_map_names_and_errors_say_the_sources_own():
    record = {"question": "Why?", "safe": "No.", "unsafe": "Because.", "kind": "fraud"}
    columns = {"prompt": "question", "chosen": "safe", "rejected": "unsafe", "category": "kind"}
    (row,) = harmful_prompts([record], "x", columns)
    assert (row.prompt, row.chosen, row.rejected, row.category) == ("Why?", "No.", "Because.", "fraud")
    with pytest.raises(InputError, match="column 'unsafe'"):
        harmful_prompts([{**record, "unsafe": 3}], "x", columns)


def test_rejected_may_be_missing_only_where_nobody_reads_it():
    record = {"prompt": "Why?", "chosen": "No."}
    assert harmful_prompts([record], "x", {}, need_rejected=False)[0].rejected is None
    assert harmful_prompts([PREFERENCE], "x", {}, need_rejected=False)[0].rejected == "Because."
    with pytest.raises(InputError, match="no column 'rejected'"):
        harmful_prompts([record], "x", {})


def test_messages_column():
    record = {"messages": turn("Why?", "user") + turn("Because.")}
    assert completions([record], "x", {}) == completions([COMPLETION], "x", {})
    assert completions([{**COMPLETION, "messages": None}], "x", {"prompt": "prompt"})[0].completion == "Because."


@pytest.mark.parametrize(
    "messages",
    [turn("Why?", "user"), turn("a") + turn("b", "user"), turn("a", "user") * 2, "text", None, ["a", "b"]],
)
def test_messages_of_another_shape_are_named(messages):
    with pytest.raises(InputError, match="x: row 1, column 'messages': expected one user turn and one assistant turn"):
        completions([{"messages": messages}], "x", {})


def test_message_without_text_is_named():
    messages = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": None}]
    with pytest.raises(InputError, match="x: row 1, column 'completion'"):
        completions([{"messages": messages}], "x", {})
