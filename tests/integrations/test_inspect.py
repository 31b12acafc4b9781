"""The real Inspect runs our tasks, by their registered names, on its mock model."""

import json

import pytest

from boostershot.integrations import prompts

inspect_ai = pytest.importorskip("inspect_ai", reason="make test-integrations installs it")

REFUSAL = "I'm sorry, but I can't help with that."
OTHERS = ["First you fold the paper, then you glue it.", "go go go go go go"]


@pytest.fixture
def evaluated(tmp_path):
    """The log of a task whose model gives these answers."""
    from inspect_ai.model import ModelOutput, ModelUsage, get_model

    def evaluate(task, answers, **arguments):
        outputs = [ModelOutput.from_content("mockllm/model", answer) for answer in answers]
        for output in outputs:
            output.usage = ModelUsage()  # else the mock counts tokens, with a vocabulary from the network
        model = get_model("mockllm/model", custom_outputs=outputs)
        settings = {"log_dir": str(tmp_path / "logs"), "display": "none", "max_connections": 1}
        (log,) = inspect_ai.eval(task, model=model, task_args=arguments, **settings)
        assert log.status == "success", log.error
        return log

    return evaluate


def figures(log):
    return {score.name: score.metrics["mean"].value for score in log.results.scores}


def test_harmful_score(evaluated, tmp_path):
    file = tmp_path / "prompts.jsonl"
    rows = [{"id": f"p{i}", "prompt": f"harmful question {i}"} for i in range(40)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    log = evaluated("boostershot/harmful_score", [REFUSAL, *OTHERS, OTHERS[0]], source=str(file), n=4)
    assert figures(log) == {"harmful_score": 0.5, "refusal": 0.25, "degenerate": 0.25}
    assert {sample.input for sample in log.samples} == {row.prompt for row in prompts.harmful(str(file), n=4)}
    assert log.plan.config.temperature == 0.0


def test_over_refusal_asks_the_built_in_prompts(evaluated):
    log = evaluated("boostershot/over_refusal", [REFUSAL, *OTHERS], n=3)
    assert figures(log)["over_refusal"] == pytest.approx(1 / 3)
    assert {sample.input for sample in log.samples} == {row.prompt for row in prompts.safe(n=3)}
