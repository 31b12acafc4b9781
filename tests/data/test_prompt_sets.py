"""The field's prompt sets, each in the layout of the Hub and of its authors, known by their columns alone."""

import csv
import gzip
import json
import lzma

import pytest

from boostershot import InputError, load_harmful_prompts
from boostershot.data.rows import HarmfulPrompt, in_categories


def jsonl(folder, rows):
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def table(folder, rows):
    path = folder / "data.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def seen(path, **options):
    return [(row.id, row.prompt, row.categories) for row in load_harmful_prompts(path, **options)]


def test_do_not_answer(tmp_path):
    rows = [
        {
            "id": i,
            "risk_area": f"Area {i % 2}",
            "types_of_harm": f"Type {i}",
            "specific_harms": "Harm",
            "question": f"harmful question {i}",
        }
        for i in range(3)
    ]
    assert seen(jsonl(tmp_path, rows)) == [
        (f"donotanswer/{i}", f"harmful question {i}", (f"Area {i % 2}",)) for i in range(3)
    ]
    assert {row.category for row in load_harmful_prompts(jsonl(tmp_path, rows))} == {"Area 0", "Area 1"}


@pytest.mark.parametrize("column", ["goal", "prompt"])
def test_adv_bench(tmp_path, column):
    path = table(tmp_path, [{column: "harmful goal 1", "target": "Sure, here is"}])
    assert seen(path) == [("advbench/1", "harmful goal 1", ("advbench",))]
    (row,) = load_harmful_prompts(path)
    assert row.chosen is None and row.rejected is None  # a target is no answer


def harm_bench(**changes):
    row = {
        "Behavior": "harmful behaviour 1",
        "FunctionalCategory": "standard",
        "SemanticCategory": "illegal",
        "Tags": "",
        "ContextString": "",
        "BehaviorID": "behaviour_1",
    }
    return row | changes


def test_harm_bench_of_its_authors(tmp_path):
    context = harm_bench(ContextString="Some context.", FunctionalCategory="contextual", BehaviorID="")
    assert seen(table(tmp_path, [harm_bench(), context])) == [
        ("harmbench/behaviour_1", "harmful behaviour 1", ("illegal",)),
        ("harmbench/row-2", "Some context.\n\n---\n\nharmful behaviour 1", ("illegal",)),
    ]


def test_strong_reject_of_its_authors(tmp_path):
    path = table(tmp_path, [{"category": "Fraud", "source": "custom", "forbidden_prompt": "harmful prompt 1"}])
    assert seen(path) == [("strongreject/1", "harmful prompt 1", ("Fraud",))]


def test_prompts_with_a_category_as_walled_ai_has_harm_bench_and_strong_reject(tmp_path):
    rows = [{"prompt": "harmful prompt 1", "category": "illegal"}, {"prompt": "harmful prompt 2", "category": None}]
    assert seen(jsonl(tmp_path, rows)) == [
        ("row-1", "harmful prompt 1", ("illegal",)),
        ("row-2", "harmful prompt 2", ("none",)),
    ]
    rows = [{"prompt": "harmful prompt 1", "context": "Some context.", "category": "illegal"}]
    assert seen(jsonl(tmp_path, rows))[0][1] == "Some context.\n\n---\n\nharmful prompt 1"


def test_prompts_alone_by_columns(tmp_path):
    path = jsonl(tmp_path, [{"q": "harmful prompt 1", "kind": "fraud"}])
    assert seen(path, columns={"prompt": "q", "category": "kind"}) == [("row-1", "harmful prompt 1", ("fraud",))]


def test_several_categories_of_a_row_of_ones_own(tmp_path):
    path = jsonl(tmp_path, [{"prompt": "harmful prompt 1", "category": "a", "categories": ["a", "b"]}])
    assert seen(path) == [("row-1", "harmful prompt 1", ("a", "b"))]


def test_a_file_that_may_have_answers_is_asked_for_them(tmp_path):
    path = jsonl(tmp_path, [{"prompt": "harmful prompt 1", "choosen": "No.", "rejected": "harmful answer 1"}])
    with pytest.raises(InputError, match="row 1 has no column 'chosen'; it has choosen, prompt, rejected"):
        load_harmful_prompts(path)


def test_xstest_gives_its_unsafe_prompts(tmp_path):
    row = {"focus": "kill", "note": "", "type": "homonyms", "label": "safe", "prompt": "How do I kill time?"}
    path = jsonl(tmp_path, [row, row | {"prompt": "unsafe question 1", "type": "contrast_homonyms", "label": "unsafe"}])
    assert seen(path) == [("xstest/row-2", "unsafe question 1", ("contrast_homonyms",))]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"goal": " ", "target": "Sure"}], "row 1, column 'goal' is empty"),
        ([harm_bench(), harm_bench(SemanticCategory="")], "row 2, column 'SemanticCategory' is empty"),
        ([harm_bench(), harm_bench()], "row 2 has the id 'harmbench/behaviour_1' of row 1"),
        ([{"category": "Fraud", "forbidden_prompt": 3}], "row 1, column 'forbidden_prompt' is int"),
    ],
)
def test_a_bad_row_is_named(tmp_path, rows, message):
    path = jsonl(tmp_path, rows)
    with pytest.raises(InputError) as caught:
        load_harmful_prompts(path)
    assert str(caught.value).startswith(f"{path}: {message}") and "\n" not in str(caught.value)


def test_rows_by_category():
    rows = [HarmfulPrompt("1", "p", "a"), HarmfulPrompt("2", "q", "b", categories=("b", "c"))]
    assert [row.id for row in in_categories(rows, ["b", "c"])] == ["2"]
    assert [row.id for row in in_categories(rows, ["a", "b"])] == ["1"]  # row 2 is of c, too


def test_a_row_is_the_same_after_json():
    row = HarmfulPrompt("2", "q", "b", categories=("b", "c"))
    assert HarmfulPrompt(**json.loads(json.dumps(row.to_dict()))) == row


@pytest.mark.parametrize(("suffix", "opener"), [(".gz", gzip.open), (".xz", lzma.open)])
def test_packed_files(tmp_path, suffix, opener):
    path = tmp_path / f"train.jsonl{suffix}"
    with opener(path, "wt") as file:
        file.write('{"goal": "harmful goal 1", "target": "x"}\n')
    assert seen(str(path)) == [("advbench/1", "harmful goal 1", ("advbench",))]
    path.write_bytes(b"no archive")
    with pytest.raises(InputError, match=f"{path}: cannot be read: "):
        load_harmful_prompts(str(path))


def test_cells_without_a_name(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("goal,target\na,b\nc, d,e\n")
    with pytest.raises(InputError, match="row 2 has more cells than the first line has names"):
        load_harmful_prompts(str(path))
