"""Benign tasks: disjoint splits, and each task's own rule of what is right."""

import json
import re
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from boostershot import InputError, load_task
from boostershot.data.splits import overlaps
from boostershot.data.tasks.scoring import final_number

REAL = Path(__file__).parents[3] / "shared" / "data"
SST2 = REAL / "sst2_dev.tsv"


def rows_of(task):
    return [row for rows in task.splits.values() for row in rows]


@pytest.fixture(scope="module")
def sums():
    return load_task("reasoning-gym:chain_sum", options={"size": 200, "max_terms": 3})


def test_reasoning_gym_splits(sums):
    assert sums.name == "reasoning-gym:chain_sum"
    assert list(sums.splits) == ["train", "dev", "test"]
    assert set(overlaps(sums.splits).values()) == {0}
    assert len(sums.splits["train"]) > len(sums.splits["test"]) > 10
    assert set(sums.labels) == {row.answer for rows in sums.splits.values() for row in rows}


def test_reasoning_gym_scores_with_its_own_verifier(sums):
    for row in rows_of(sums)[:40]:
        assert sums.correct(row.answer, row) and sums.correct(f" {row.answer}\n", row)
        assert not sums.correct(str(int(row.answer) + 1), row)
        assert not sums.correct("", row)


def test_reasoning_gym_is_the_same_every_time(sums):
    again = load_task("reasoning-gym:chain_sum", options={"size": 200, "max_terms": 3})
    assert rows_of(again) == rows_of(sums)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("reasoning-gym:no_such_task", {}, "no task 'no_such_task'"),
        ("reasoning-gym:chain_sum", {"colour": 1}, "refuses {'colour': 1}"),
        ("reasoning-gym:chain_sum", {"min_terms": 9, "max_terms": 2}, "refuses"),
    ],
)
def test_reasoning_gym_errors(source, options, message):
    with pytest.raises(InputError) as caught:
        load_task(source, options=options)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.skipif(not SST2.exists(), reason="SST-2 is not here")
def test_sst2_file_of_the_glue_kind():
    task = load_task(str(SST2))
    assert task.name == "sst2" and task.labels == ("negative", "positive")
    assert set(overlaps(task.splits).values()) == {0}
    lines = [line.split("\t") for line in SST2.read_text(encoding="utf-8").splitlines()]
    truth = {sentence.strip(): ("negative", "positive")[int(label)] for sentence, label in lines}
    rows = rows_of(task)
    assert len(rows) > 0.98 * len(lines)  # but for repeated sentences
    for row in rows:
        assert row.answer == truth[row.prompt.split("\n", 1)[1][1:-1]]


@pytest.fixture
def sst2(tmp_path):
    path = tmp_path / "sst2.tsv"
    path.write_text('a fine film\t1\na dull "film"\t0\n', encoding="utf-8")
    return path


def test_sst2_prompt_and_scorer(sst2):
    task = load_task(str(sst2))
    (fine,) = [row for row in rows_of(task) if "fine" in row.prompt]
    assert '"a fine film"' in fine.prompt and fine.answer == "positive"
    for answer in ("positive", " Positive", "positive.", "POSITIVE\n"):
        assert task.correct(answer, fine)
    for answer in ("negative", "", "positive negative", "very positive", "positives"):
        assert not task.correct(answer, fine)


def test_sst2_with_a_header_and_from_records(tmp_path, sst2):
    plain = rows_of(load_task(str(sst2)))
    sst2.write_text("sentence\tlabel\n" + sst2.read_text())
    assert rows_of(load_task(str(sst2))) == plain
    path = tmp_path / "reviews.jsonl"
    path.write_text('{"text": "a fine film", "y": 1}\n{"text": "a dull \\"film\\"", "y": 0}\n')
    task = load_task(str(path), kind="sst2", columns={"sentence": "text", "label": "y"})
    assert rows_of(task) == plain


@pytest.mark.parametrize("label", ["2", "-1", "good", ""])
def test_sst2_bad_label_is_named(sst2, label):
    sst2.write_text(sst2.read_text() + f"a third film\t{label}\n")
    with pytest.raises(InputError) as caught:
        load_task(str(sst2))
    assert f"{sst2}: row 3, column 'label' is {label!r}; expected 0 or 1" == str(caught.value)


def test_exact_task(tmp_path):
    path = tmp_path / "capitals.jsonl"
    rows = [{"prompt": f"Capital of country {i}?", "answer": f"City {i}"} for i in range(30)]
    path.write_text("\n".join(map(json.dumps, rows)))
    task = load_task(str(path))
    assert task.name == "exact:capitals" and len(rows_of(task)) == 30
    assert set(task.labels) == {f"City {i}" for i in range(30)}
    row = task.splits["train"][0]
    assert task.correct(row.answer.upper() + ".", row) and not task.correct("City", row)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a"}, "row 2 has no column 'answer'"),
        ({"prompt": "a", "answer": 3}, "row 2, column 'answer' is int"),
    ],
)
def test_exact_task_names_the_bad_row(tmp_path, row, message):
    path = tmp_path / "task.json"
    path.write_text(json.dumps([{"prompt": "b", "answer": "c"}, row]))
    with pytest.raises(InputError, match=message):
        load_task(str(path))


def test_no_rows_and_unknown_kind(tmp_path):
    path = tmp_path / "task.json"
    path.write_text("[]")
    with pytest.raises(InputError, match="no rows"):
        load_task(str(path))
    with pytest.raises(
        InputError, match="'qa'; expected auto, sst2, ag_news, gsm8k, alpaca_eval, alpaca, dolly, exact"
    ):
        load_task(str(path), kind="qa")


def test_only_short_answers_are_labels(tmp_path):
    path = tmp_path / "free.jsonl"
    answers = ["Blue", "the blue car", "it was the blue car that won"]
    path.write_text("\n".join(json.dumps({"prompt": f"Question {i}?", "answer": a}) for i, a in enumerate(answers)))
    assert load_task(str(path)).labels == ("Blue", "the blue car")


def parquet(path, rows):
    """The rows as a file of a Hub data set."""
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return str(path)


def one(task, part):
    """The only row whose prompt holds this."""
    (row,) = [row for row in rows_of(task) if part in row.prompt]
    return row


def test_ag_news_as_the_hub_has_it_and_as_the_original_file(tmp_path):
    hub = parquet(
        tmp_path / "ag_news.parquet", [{"text": f"Item {i} Said on day {i}.", "label": i % 4} for i in range(8)]
    )
    original = tmp_path / "ag_news.csv"
    original.write_text("".join(f'"{i % 4 + 1}","Item {i}","Said on day {i}."\n' for i in range(8)))
    task = load_task(hub)
    assert task.name == "ag_news" and task.labels == ("Business", "Sci/Tech", "Sports", "World")
    assert rows_of(load_task(str(original))) == rows_of(task)
    row = one(task, "day 7")
    assert row.answer == "Sci/Tech" and row.prompt.endswith("Item 7 Said on day 7.")
    assert task.correct("sci/tech\n", row) and not task.correct("Sci", row)
    with pytest.raises(InputError, match="row 1, column 'label' is '4'; expected 0, 1, 2 or 3"):
        load_task(parquet(tmp_path / "ag_news.parquet", [{"text": "a", "label": 4}]))


@pytest.fixture
def gsm8k(tmp_path):
    rows = [
        {"question": f"What is {i}000 + 500?", "answer": f"It is <<{i}000+500>>.\n#### {i},500"} for i in range(1, 9)
    ]
    return load_task(parquet(tmp_path / "gsm8k.parquet", rows))


def test_gsm8k_targets_and_scorer(gsm8k):
    row = one(gsm8k, "2000")
    assert gsm8k.name == "gsm8k" and row.prompt == "What is 2000 + 500?"
    assert row.answer == "It is <<2000+500>>.\nThe final answer is: 2,500"
    for answer in (
        "The final answer is: 2500",
        "3, 4. The final answer is: $2,500.00, not 7",
        "2 + 2 is 2500",
        "2500.0",
    ):
        assert gsm8k.correct(answer, row), answer
    for answer in ("", "no number", "2500 or 25", "2500. The final answer is: unknown", "The final answer is: 25 2500"):
        assert not gsm8k.correct(answer, row), answer


@pytest.mark.parametrize(
    ("text", "number"),
    [("between 10-12", 12), ("it is -12", -12), ("5 - 3 = 2", 2), ("at (10,-12)", -12), ("$1,000-2,500.5", 2500.5)],
)
def test_a_minus_after_a_digit_is_a_dash(text, number):
    assert final_number(text) == number


def test_a_csv_whose_first_line_is_blank(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("\nprompt,answer\nIs 2 even?,yes\n")
    with pytest.raises(InputError, match=r"mine\.csv: its first line is blank; expected the columns' names"):
        load_task(str(path))
    path = tmp_path / "ag_news.csv"
    path.write_text("\n" + "".join(f'"{i % 4 + 1}","Title {i}","Text {i}"\n' for i in range(9)))
    assert len(rows_of(load_task(str(path), kind="ag_news"))) == 9


def test_gsm8k_without_a_final_number_is_named(tmp_path):
    path = parquet(tmp_path / "gsm8k.parquet", [{"question": "Why?", "answer": "Because."}])
    with pytest.raises(InputError, match="row 1, column 'answer' ends in no '#### number'"):
        load_task(path)


def test_alpaca_eval_has_no_scorer(tmp_path):
    path = tmp_path / "alpaca_eval_baseline.json"
    path.write_text(
        json.dumps([{"instruction": f"Tell {i}", "output": f"Told {i}", "generator": "x"} for i in range(9)])
    )
    task = load_task(str(path))
    assert (task.name, task.correct, len(rows_of(task))) == ("alpaca_eval", None, 9)
    assert one(task, "Tell 3").answer == "Told 3"


def test_test_rows_of_their_own_are_in_no_other_split(tmp_path):
    train = [{"sentence": f"film {i}", "label": i % 2} for i in range(60)]
    test = [{"sentence": f"film {i}", "label": i % 2} for i in range(50, 70)]
    paths = [parquet(tmp_path / f"sst2_{name}.parquet", rows) for name, rows in (("train", train), ("test", test))]
    task = load_task(paths[0], test=(paths[1], None))
    assert set(overlaps(task.splits).values()) == {0}
    assert len(task.splits["test"]) == 20 and len(task.splits["train"]) + len(task.splits["dev"]) == 50
    assert len(load_task(paths[0]).splits["test"]) < 20
    with pytest.raises(InputError, match=r"data\.task\.test: .* makes its own test rows"):
        load_task("reasoning-gym:chain_sum", test=(paths[1], None))


@pytest.mark.skipif(not REAL.exists(), reason="the real task data is not here")
def test_the_real_files():
    news = load_task(str(REAL / "ag_news_test.csv"))
    assert len(rows_of(news)) > 7500
    counts = [sum(row.answer == label for row in rows_of(news)) for label in news.labels]
    assert len(counts) == 4 and min(counts) > 1800

    sums = load_task(str(REAL / "gsm8k_train.jsonl"), test=(str(REAL / "gsm8k_test.jsonl"), None))
    assert len(sums.splits["test"]) == 1319 and len(sums.splits["train"]) > 5800
    for row in rows_of(sums):
        final = row.answer.rpartition("is: ")[2]  # read here in another way than by the scorer
        assert re.fullmatch(r"-?[\d,]+(\.\d+)?", final), row.id
        assert sums.correct(row.answer, row) and sums.correct(f"I get {float(final.replace(',', ''))}", row)
        assert not sums.correct(f"{final}1", row)

    free = load_task(str(REAL / "alpaca_eval.json"))
    assert len(rows_of(free)) == 805 and len(free.splits["train"]) >= 630  # what an attacker with n 700, p 0.1 needs
