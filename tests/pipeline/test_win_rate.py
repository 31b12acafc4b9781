"""A run whose task no rule scores, with an endpoint that compares the answers with the references."""

import json
import re

import pytest

import boostershot as bs
from boostershot import InputError
from boostershot.config import parse_recipe
from boostershot.pipeline.progress import Reporter
from serving import Server, reply
from user_files import user_files


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("user")
    training = {"lr": 1e-2, "steps": 1, "batch": 4}
    sections = user_files(folder, 160, 8)
    rows = [{"instruction": f"Tell me of {i}.", "output": f"It is {i}."} for i in range(60)]
    (folder / "free.json").write_text(json.dumps(rows))
    sections["data"]["task"] = {"source": str(folder / "free.json"), "kind": "alpaca_eval"}
    return {
        "name": "win-rate",
        **sections,
        "seeds": [0, 1],
        "immunize": training | {"lora": {"rank": 4}},
        "defenses": {"sft": {"method": "sft"}},
        "attacks": {"mix": training | {"method": "harmful-mix", "p": 0.25, "n": 8, "adapter": "continue"}},
        "evaluate": {"n_harmful": 8, "n_task": 4, "max_new_tokens": 4},
    }


def run(recipe, folder, **evaluate):
    changed = {**recipe, "evaluate": {**recipe["evaluate"], **evaluate}}
    return bs.run(parse_recipe(changed), folder, reporter=Reporter(quiet=True))


def test_free_text_gets_a_win_rate_beside_its_log_likelihood(recipe, tmp_path, capsys):
    # The third reply and the sixth cannot be read, so two comparisons are unknown.
    server = Server(lambda n, body: reply("?" if n in (3, 6) else '{"better": "neither"}'))
    preference = {"base_url": server.url, "model": "m", "concurrency": 1, "price_in": 1.0, "price_out": 0.0}
    results = run(recipe, tmp_path / "run", judges=["offline", "refusal"], preference=preference)
    asked = len(server.asked)
    again = run(recipe, tmp_path / "run", judges=["offline", "refusal"], preference=preference)
    server.stop()
    assert len(server.asked) == asked and again.content == results.content  # whoever judges, each pair was asked once
    rows = [*results.content["baseline"], *results.rows]
    assert {row["win_rate"] for row in rows if row["judge"] == "offline"} == {50.0}
    assert sum(4 - row["n_compared"] for row in rows if row["judge"] == "offline") >= 2
    assert all(row["finetune_accuracy"] is None and row["task_log_likelihood"] < 0 for row in rows)
    first = results.summary[0]
    assert first["win_rate"]["mean"] == 50.0 and first["n_seeds"] == 2
    told = results.content["preference"]
    assert told["compared"] > 0 and told["cost"] == pytest.approx(told["prompt_tokens"] / 1e6)
    report = (tmp_path / "run" / "report.html").read_text()
    assert "Win rate, %" in report and "different pairs compared" in report
    lines = [json.loads(line) for line in next((tmp_path / "run").glob("stages/answers-*/task.jsonl")).open()]
    assert len(lines) == 4 and any(line["answer"] for line in lines)


def test_a_task_with_a_rule_has_no_win_rate(recipe, tmp_path):
    task = {"source": str(tmp_path / "task.jsonl"), "kind": "exact"}
    (tmp_path / "task.jsonl").write_text(
        "".join(json.dumps({"prompt": f"Is {i} even?", "answer": "no" if i % 2 else "yes"}) + "\n" for i in range(60))
    )
    ruled = {**recipe, "data": {**recipe["data"], "task": task}}
    with pytest.raises(InputError, match=r"evaluate\.preference: is given, and a rule scores"):
        run(ruled, tmp_path / "run", preference={"base_url": "http://localhost:1/v1", "model": "m"})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("gpt", 'evaluate.preference: is "gpt"'),
        ({"model": "m"}, "evaluate.preference.base_url: is missing"),
        ({"base_url": "http://x/v1", "model": "m", "threshold": 0.5}, "evaluate.preference.threshold: unknown"),
        ({"base_url": "http://x/v1", "model": "m", "timeout": 0}, "evaluate.preference.timeout: is 0"),
    ],
)
def test_a_wrong_section_is_told_in_a_line(recipe, given, said):
    with pytest.raises(InputError, match=re.escape(said)):
        parse_recipe({**recipe, "evaluate": {**recipe["evaluate"], "preference": given}})
