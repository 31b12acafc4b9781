"""Several judges in one run: a row for each, answers generated once, an outage that costs one judge's rows only."""

import json
import shutil

import pytest

import boostershot as bs
from boostershot.config import parse_recipe
from boostershot.evaluation.judges import chat
from boostershot.pipeline import grid
from boostershot.pipeline.progress import Reporter
from boostershot.pipeline.property_stages import PropertyStages
from boostershot.pipeline.stages import RULES, Stages
from boostershot.pipeline.store import Store
from boostershot.report.reading import judges_of
from serving import Server, reply
from user_files import user_files

N = 12


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("user")
    training = {"lr": 1e-2, "steps": 1, "batch": 4}
    return {
        "name": "panel",
        **user_files(folder, 160, 60),
        "seeds": [0],
        "immunize": training | {"lora": {"rank": 4}},
        "defenses": {"sft": {"method": "sft"}},
        "attacks": {"mix": training | {"method": "harmful-mix", "p": 0.25, "n": 8, "adapter": "continue"}},
        "evaluate": {"n_harmful": N, "n_task": 4, "max_new_tokens": 4},
    }  # fmt: skip


def run(recipe, folder, judges):
    changed = {**recipe, "evaluate": {**recipe["evaluate"], "judges": judges}}
    return bs.run(parse_recipe(changed), folder, reporter=Reporter(quiet=True))


@pytest.fixture(scope="module")
def one_judge(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    run(recipe, folder, ["offline"])
    return folder


def figures(results, judge):
    """What a judge's rows hold but the stage."""
    rows = [*results["baseline"], *results["rows"]]
    return [{k: v for k, v in row.items() if k != "stage"} for row in rows if row["judge"] == judge]


def test_a_judge_is_added_without_answering_again_and_the_old_figures_stay(recipe, one_judge, tmp_path, monkeypatch):
    monkeypatch.setenv("PANEL_KEY", "sk-never-written")
    folder = tmp_path / "run"
    shutil.copytree(one_judge, folder)
    before = {path.name for path in folder.glob("stages/*")}
    alone = json.loads((folder / "results.json").read_text())

    def grade(n, body):  # every third judgement cannot be read
        return reply("no idea" if n % 3 == 0 else '{"refusal": 0, "convincing": 3, "specific": 5}')

    server = Server(grade)
    graded = {"name": "endpoint", "label": "grader", "base_url": server.url, "model": "m", "key_env": "PANEL_KEY",
              "price_in": 1.0, "price_out": 2.0, "concurrency": 1}  # fmt: skip
    results = run(recipe, folder, ["offline", "refusal", graded]).content
    server.stop()
    new = {path.name.rpartition("-")[0] for path in folder.glob("stages/*") if path.name not in before}
    assert new == {"evaluate"}
    assert figures(results, "offline") == figures(alone, "offline")
    assert [row["judge"] for row in results["rows"]] == ["offline", "refusal", "grader"] * 2
    answers = [
        {(line["prompt"], line["answer"]) for line in map(json.loads, path.read_text().splitlines())}
        for path in folder.glob("stages/answers-*/answers.jsonl")
    ]
    assert len(server.asked) == len(set.union(*answers))  # each once
    rows = [row for row in [*results["baseline"], *results["rows"]] if row["judge"] == "grader"]
    assert sum(row["n_unknown"] for row in rows) >= len(server.asked) // 3
    for row in rows:
        lines = map(json.loads, (folder / "stages" / row["stage"] / "verdicts.jsonl").read_text().splitlines())
        said = [line["harmful"] for line in lines]
        assert row["n_unknown"] == said.count(None) and row["harmful_score"] == 100.0
        assert row["harmful_score_bounds"] == pytest.approx([100 * said.count(True) / N, 100.0])
        assert row["off_topic_share"] is None and row["degenerate_share"] is not None
    shares = [{row["degenerate_share"] for row in results["rows"][i : i + 3]} for i in (0, 3)]
    assert [len(share) for share in shares] == [1, 1]  # the same whoever judges
    grader = results["judges"][2]
    assert grader["judge"] == "grader" and grader["judged"] == len(server.asked)
    spent = len(server.asked) * (100 + 2 * 10) / 1e6
    assert grader["cost"] == pytest.approx(spent)
    assert [pair["judges"] for pair in results["agreement"]] == [
        ["offline", "refusal"], ["offline", "grader"], ["refusal", "grader"]
    ]  # fmt: skip
    kept = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert b"PANEL_KEY" in kept and b"sk-never-written" not in kept
    report = (folder / "report.html").read_text()
    assert "Agreement of judges" in report and "grader gave no readable verdict" in report


def test_an_outage_fails_one_judges_rows_and_the_next_run_asks_for_the_rest(recipe, one_judge, tmp_path, monkeypatch):
    monkeypatch.setattr(chat, "FIRST_WAIT", 0.001)
    folder = tmp_path / "run"
    shutil.copytree(one_judge, folder)
    out_of_order = [False]

    def grade(n, body):
        out_of_order[0] = out_of_order[0] or n == 8
        return (503, "", {}) if out_of_order[0] else reply('{"refusal": 1, "convincing": 1, "specific": 1}')

    server = Server(grade)
    graded = {"name": "endpoint", "base_url": server.url, "model": "m", "retries": 1, "concurrency": 1}
    with pytest.raises(bs.StageFailed, match="what is judged is kept"):
        run(recipe, folder, [graded, "offline"])
    rows = json.loads((folder / "results.json").read_text())["rows"]
    assert [(row["judge"], row["status"]) for row in rows] == [("endpoint", "failed"), ("offline", "done")] * 2
    assert all("503" in row["error"] for row in rows if row["status"] == "failed")
    kept = {body["messages"][1]["content"] for body in server.asked[:6]}  # three whole batches of two
    server.asked.clear()
    server.script = lambda n, body: reply('{"refusal": 1, "convincing": 1, "specific": 1}')
    results = run(recipe, folder, [graded, "offline"])
    server.stop()
    assert {row["status"] for row in results.rows} == {"done"}
    assert not kept & {body["messages"][1]["content"] for body in server.asked}


def test_an_outage_at_the_base_model_leaves_the_headline_to_the_first_judge(recipe, one_judge, tmp_path, monkeypatch):
    monkeypatch.setattr(chat, "FIRST_WAIT", 0.001)
    folder = tmp_path / "run"
    shutil.copytree(one_judge, folder)
    judged, out_of_order = grid._judged, []

    def judging(stages, of, *rest):
        if of is None:
            out_of_order.append(True)
        return judged(stages, of, *rest)

    def grade(n, body):
        return (503, "", {}) if out_of_order else reply('{"refusal": 1, "convincing": 1, "specific": 1}')

    monkeypatch.setattr(grid, "_judged", judging)
    server = Server(grade)
    graded = {"name": "endpoint", "base_url": server.url, "model": "m", "retries": 0, "concurrency": 1}
    with pytest.raises(bs.StageFailed, match="could not be scored by 1 of the judges"):
        run(recipe, folder, [graded, "offline"])
    server.stop()
    results = json.loads((folder / "results.json").read_text())
    baseline = [(row["judge"], row["status"], bool(row["error"])) for row in results["baseline"]]
    assert baseline == [("endpoint", "failed", True), ("offline", "done", False)]
    assert {row["status"] for row in results["rows"]} == {"done"}
    assert judges_of(results) == [judge["judge"] for judge in results["judges"]] == ["endpoint", "offline"]
    assert "could not be scored by endpoint" in (folder / "report.html").read_text()


def test_a_missing_key_or_judge_is_told_before_anything_is_done(recipe, tmp_path, monkeypatch):
    monkeypatch.delenv("NO_KEY", raising=False)
    judges = [{"name": "endpoint", "base_url": "http://localhost:1/v1", "model": "m", "key_env": "NO_KEY"}]
    with pytest.raises(bs.InputError, match="NO_KEY holds no API key"):
        run(recipe, tmp_path / "a", judges)
    with pytest.raises(bs.InputError, match="cannot be loaded"):
        run(recipe, tmp_path / "b", [{"name": "llama-guard", "id": str(tmp_path / "nowhere")}])
    assert not list(tmp_path.glob("*/stages/*"))


def test_the_rules_of_what_is_counted_by_keywords_are_in_the_stages_names(recipe, tmp_path, monkeypatch):
    changed = {**recipe, "evaluate": {**recipe["evaluate"], "judges": ["refusal"]}}
    done = Stages(parse_recipe(changed), Store(tmp_path), Reporter(quiet=True))
    kinds = []

    def named(store, stage, config, parents, work):
        kinds.append(stage)
        return store.folder(stage, config, parents)

    monkeypatch.setattr(Store, "run", named)

    def names():
        return {done.evaluated(None, [], "it"), PropertyStages(done).over_refusal(None, [], "it")}

    before = names()
    assert names() == before and {"evaluate", "over-refusal"} <= set(kinds)
    monkeypatch.setitem(RULES, "refusal", 99)
    assert not names() & before
