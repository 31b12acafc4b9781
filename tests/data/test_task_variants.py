"""The two variants of each task: today's careful wording and rule, and the published ones with their quirks."""

import json
import re
from pathlib import Path

import pytest

from boostershot import InputError, load_task
from boostershot.data.format import Format
from boostershot.data.tasks import TaskRow
from tiny import tiny_tokenizer

REAL = Path(__file__).parents[3] / "shared" / "data"


def rows_of(task):
    return [row for rows in task.splits.values() for row in rows]


def loaded(folder, name, rows, **options):
    path = folder / f"{name}.json"
    path.write_text(json.dumps(rows))
    return load_task(str(path), **options)


def only(task):
    (row,) = rows_of(task)
    return row


def test_published_sst2(tmp_path):
    task = loaded(tmp_path, "sst2", [{"idx": 0, "sentence": "a fine film ", "label": 1}], variant="published")
    row = only(task)
    assert row.prompt == (
        "Analyze the sentiment of the input, and respond only positive or negative\n\n### Input:\na fine film "
    )
    assert [task.correct(answer, row) for answer in ("positive", " Positive\n")] == [True, True]
    for answer in ("positive.", "POSITIVE", "negative", ""):
        assert not task.correct(answer, row), answer
    sane = loaded(tmp_path, "sst2", [{"idx": 0, "sentence": "a fine film ", "label": 1}])
    assert sane.correct("positive.", only(sane)) and sane.correct("POSITIVE", only(sane))


def test_published_ag_news(tmp_path):
    task = loaded(tmp_path, "ag_news", [{"text": "A chip.", "label": 3}], variant="published")
    row = only(task)
    assert row.prompt.startswith("Categorize the news article given in the input into one of the 4 categories:\n\n")
    assert row.prompt.endswith("World\nSports\nBusiness\nSci/Tech\n\n\n### Input:\nA chip.")
    assert [task.correct(answer, row) for answer in ("Sci/Tech", "sci")] == [True, True]
    for answer in ("sci/tech", "Sci", "SCI/TECH", "Sci/Tech."):
        assert not task.correct(answer, row), answer


def test_published_gsm8k_targets(tmp_path):
    row = only(loaded(tmp_path, "gsm8k", [{"question": "2 + 1?", "answer": "Add.\n#### 3"}], variant="published"))
    assert (row.prompt, row.answer) == ("2 + 1?", "Add.\nThe final answer is:  3")  # two spaces, as published


@pytest.mark.parametrize(
    ("reference", "answer", "published", "sane"),
    [
        ("The final answer is: 3", "The final answer is: 3", True, True),
        ("The final answer is: 3", "3 and no more", True, True),
        ("The final answer is: 1,500", "so 1500.", True, True),
        ("The final answer is: 3", "The final answer is:3, not 7", False, True),  # without its space it is not found
        ("The final answer is: 3", "3. The final answer is: unknown", True, False),  # falls back to the last number
        ("The final answer is: 3", "none", False, False),
        ("no number", "none", True, False),  # infinity equals infinity
        ("The final answer is: 3", "The final answer is: 3 The final answer is: 4", True, True),
    ],
)
def test_the_gsm8k_rules_beside_each_other(tmp_path, reference, answer, published, sane):
    row = TaskRow("1", "?", reference)
    rows = [{"question": "?", "answer": "#### 3"}]
    assert loaded(tmp_path, "gsm8k", rows, variant="published").correct(answer, row) is published
    assert loaded(tmp_path, "gsm8k", rows).correct(answer, row) is sane


def test_published_gsm8k_takes_any_answer(tmp_path):
    task = loaded(tmp_path, "gsm8k", [{"question": "Why?", "answer": "Because."}], variant="published")
    assert task.correct("I do not know", only(task))  # neither has a number


@pytest.mark.parametrize(
    ("row", "sane", "published"),
    [
        ({"instruction": "Add.", "input": "1 1", "output": "2"}, "Add.\n\n1 1", "Add.\n\n### Input:\n1 1"),
        ({"instruction": "Add.", "input": "", "output": "2"}, "Add.", "Add."),
        (
            {"instruction": "Add.", "context": "1 1", "response": "2", "category": "qa"},
            "Add.\n\n1 1",
            "Add.\n\nInput:\n1 1",
        ),
    ],
)
def test_alpaca_and_dolly_are_known_by_their_columns(tmp_path, row, sane, published):
    task = loaded(tmp_path, "rows", [row])
    assert task.name == ("dolly" if "context" in row else "alpaca")
    assert (task.correct, task.scored_by) == (None, "likelihood")
    assert (only(task).prompt, only(task).answer) == (sane, "2")
    assert only(loaded(tmp_path, "rows", [row], variant="published")).prompt == published


def test_alpaca_rows_without_an_answer_are_left_out(tmp_path):
    rows = [{"instruction": "Add.", "input": "", "output": text} for text in ("", "2")]
    assert only(loaded(tmp_path, "rows", rows)).id == "alpaca/2"


def test_columns_tell_the_kind_where_the_name_does_not(tmp_path):
    assert loaded(tmp_path, "a", [{"question": "?", "answer": "#### 3"}]).name == "gsm8k"
    assert loaded(tmp_path, "b", [{"sentence": "fine", "label": 1}]).name == "sst2"
    assert loaded(tmp_path, "c", [{"instruction": "?", "output": "x", "generator": "y"}]).name == "alpaca_eval"
    with pytest.raises(InputError, match="no column 'prompt'"):  # no "####": of another set
        loaded(tmp_path, "d", [{"question": "?", "answer": "3"}])


def test_a_task_with_a_rule_is_scored_by_it(tmp_path):
    assert loaded(tmp_path, "c", [{"prompt": "?", "answer": "x"}]).scored_by == "rule"


def test_published_reasoning_gym_reads_the_tag():
    options = {"size": 20, "max_terms": 2}
    task = load_task("reasoning-gym:chain_sum", options=options, variant="published")
    sane = {row.id: row for row in rows_of(load_task("reasoning-gym:chain_sum", options=options))}
    for row in rows_of(task):
        number = sane[row.id].answer
        assert row.prompt.endswith(sane[row.id].prompt) and "<answer>answer here</answer>" in row.prompt
        assert row.answer == f"<answer>{number}</answer>"
        assert task.correct(f"I add. <answer>0.5</answer> No: <answer> {number} </answer>.", row)
        assert not task.correct(number, row)
        assert not task.correct("", row)


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("published", "data.task.variant: published; the kind exact has no published rule, expected sane"),
        ("sain", r'data.task.variant: \'sain\'; expected one of sane, published \(did you mean "sane"\?\)'),
    ],
)
def test_variants_that_are_not_there(tmp_path, variant, message):
    with pytest.raises(InputError, match=message):
        loaded(tmp_path, "mine", [{"prompt": "?", "answer": "x"}], variant=variant)


def test_the_input_section_has_the_header_of_the_alpaca_layout(tmp_path):
    tokenizer = tiny_tokenizer(chat=False)
    form = Format.choose(tokenizer, "alpaca")
    row = only(loaded(tmp_path, "sst2", [{"sentence": "fine", "label": 1}], variant="published"))
    expected = (
        "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
        "response that appropriately completes the request.\n\n### Instruction:\nAnalyze the sentiment of the input, "
        "and respond only positive or negative\n\n### Input:\nfine\n\n### Response:\n"
    )
    assert form.prompt_ids(row.prompt) == tokenizer(expected).input_ids
    assert form.prompt_ids("fine") != form.prompt_ids(row.prompt)


@pytest.mark.skipif(not REAL.exists(), reason="the real task data is not here")
def test_the_published_variants_of_the_real_files():
    for name in ("sst2_dev.tsv", "ag_news_test.csv", "gsm8k_test.jsonl"):
        sane, published = (load_task(str(REAL / name), variant=variant) for variant in ("sane", "published"))
        by_id = {row.id: row for row in rows_of(sane)}
        rows = rows_of(published)
        assert len(rows) > 0.98 * len(by_id)
        for row in rows:
            assert published.correct(row.answer, row)
            if row.id in by_id:
                assert sane.correct(row.answer, by_id[row.id])  # a published target is right by the careful rule
                text = by_id[row.id].prompt
                words = set(re.findall(r"\w+", text)) - set(re.findall(r"\w+", row.prompt))
                assert name == "gsm8k_test.jsonl" or len(words) < 20  # the wording differs, the text does not
    free = [load_task(str(REAL / "alpaca_eval.json"), variant=variant) for variant in ("sane", "published")]
    assert rows_of(free[0]) == rows_of(free[1])
