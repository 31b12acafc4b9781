"""Neutral text: plain, as prompt and completion, procedural, or the built-in paragraphs."""

import json

import pytest

from boostershot import InputError, load_task, load_texts
from boostershot.data.texts import BUILT_IN


def written(tmp_path, rows):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_text_column_without_its_blank_rows(tmp_path):
    path = written(tmp_path, [{"text": ""}, {"text": " = Ferns = \n"}, {"text": "A fern has fronds."}])
    assert [(row.id, row.prompt, row.completion) for row in load_texts(path)] == [
        ("row-2", "", "= Ferns ="),
        ("row-3", "", "A fern has fronds."),
    ]


def test_columns_and_completions(tmp_path):
    path = written(tmp_path, [{"body": "One.", "prompt": "What?", "completion": "That."}])
    assert [(row.prompt, row.completion) for row in load_texts(path, columns={"text": "body"})] == [("", "One.")]
    assert [(row.prompt, row.completion) for row in load_texts(path)] == [("What?", "That.")]


def test_reasoning_gym_gives_its_test_rows():
    options = {"size": 60, "max_terms": 2}
    rows = load_texts("reasoning-gym:chain_sum", options=options)
    expected = load_task("reasoning-gym:chain_sum", options=options).splits["test"]
    assert rows and [(row.prompt, row.completion) for row in rows] == [(row.prompt, row.answer) for row in expected]


def test_the_built_in_paragraphs():
    rows = load_texts(BUILT_IN)
    assert len(rows) == len({row.completion for row in rows}) == 30
    assert all(row.prompt == "" and 20 < len(row.completion.split()) < 60 for row in rows)


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        ([{"text": " "}], {}, "all 1 rows of column 'text' are blank"),
        ([{"text": "a"}, {"text": None}], {}, "row 2, column 'text' is NoneType"),
        ([{"body": "a"}], {}, "row 1 has no column 'prompt'"),
        ([{"body": "a"}], {"text": "corpus"}, "row 1 has no column 'corpus'"),
        ([], {}, "no rows"),
    ],
)
def test_bad_rows_are_named(tmp_path, rows, columns, message):
    with pytest.raises(InputError, match=message):
        load_texts(written(tmp_path, rows), columns=columns)


def test_an_unknown_built_in_names_the_one_there_is():
    with pytest.raises(InputError, match="'built-in:prose'; expected built-in:neutral"):
        load_texts("built-in:prose")
