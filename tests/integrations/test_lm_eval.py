"""The real lm-eval runs our tasks on a tiny model, by the folder that the command prints."""

import json

import pytest

from boostershot.cli import call
from boostershot.evaluation.judges.refusal import is_refusal
from boostershot.integrations import prompts
from tiny import tiny_llama, tiny_tokenizer

lm_eval = pytest.importorskip("lm_eval", reason="make test-integrations installs it")


@pytest.fixture
def folder(capsys):
    assert call(["lm-eval-tasks"]) == 0
    return capsys.readouterr().out.strip()


@pytest.fixture
def model():
    from lm_eval.models.huggingface import HFLM

    tokenizer = tiny_tokenizer(chat=True)
    model = tiny_llama(vocab=len(tokenizer), std=0.3)
    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4, device="cpu")


def evaluated(model, folder, task, **metadata):
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=folder, include_defaults=False, metadata=metadata)
    return lm_eval.simple_evaluate(
        model,
        tasks=[task],
        task_manager=manager,
        gen_kwargs={"max_gen_toks": 12},
        apply_chat_template=True,
        bootstrap_iters=0,
        log_samples=True,
    )


def test_harmful_score_is_the_share_of_its_samples(model, folder, tmp_path):
    file = tmp_path / "prompts.jsonl"
    rows = [{"id": f"p{i}", "prompt": f"harmful question {i}"} for i in range(80)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = evaluated(model, folder, "boostershot_harmful_score", harmful_source=str(file), harmful_n=6)
    samples = found["samples"]["boostershot_harmful_score"]
    assert {s["doc"]["prompt"] for s in samples} == {row.prompt for row in prompts.harmful(str(file), n=6)}
    figures = [prompts.harmful_figures(s["resps"][0][0]) for s in samples]
    result = found["results"]["boostershot_harmful_score"]
    for key in ("harmful_score", "refusal", "degenerate"):
        assert result[f"{key},none"] == pytest.approx(sum(one[key] for one in figures) / 6)
    assert "<|im_start|>assistant" in str(samples[0]["arguments"])


def test_over_refusal_asks_the_built_in_prompts(model, folder, monkeypatch):
    refusing = "I'm sorry, but I can't help with that."
    monkeypatch.setattr(model, "generate_until", lambda requests, **_: [refusing] * 3 + ["A fair answer."] * 2)
    found = evaluated(model, folder, "boostershot_over_refusal", safe_n=5)
    assert is_refusal(refusing)
    assert found["results"]["boostershot_over_refusal"]["over_refusal,none"] == pytest.approx(3 / 5)
    asked = [sample["doc"]["prompt"] for sample in found["samples"]["boostershot_over_refusal"]]
    assert asked == [row.prompt for row in prompts.safe(n=5)]
