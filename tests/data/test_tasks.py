"""Benign tasks: disjoint splits, and each task's own rule of what is right."""

import json
from pathlib import Path

import pytest

from boostershot import InputError, load_task
from boostershot.data.splits import overlaps

SST2 = Path(__file__).parents[3] / "shared" / "data" / "sst2_dev.tsv"


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
    with pytest.raises(InputError, match="'qa'; expected auto, sst2 or exact"):
        load_task(str(path), kind="qa")


def test_only_short_answers_are_labels(tmp_path):
    path = tmp_path / "free.jsonl"
    answers = ["Blue", "the blue car", "it was the blue car that won"]
    path.write_text("\n".join(json.dumps({"prompt": f"Question {i}?", "answer": a}) for i, a in enumerate(answers)))
    assert load_task(str(path)).labels == ("Blue", "the blue car")
