"""The answers stage: SIGKILL loses no finished batch, and vLLM gives the answers where the recipe says so."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import types

import pytest
import torch
import yaml

from boostershot.cli import call
from boostershot.config import load_recipe
from boostershot.evaluation import generation
from boostershot.pipeline import answer_stages
from boostershot.pipeline.progress import Reporter
from boostershot.pipeline.property_stages import PropertyStages
from boostershot.pipeline.stages import Stages
from boostershot.pipeline.store import Store
from tiny import tiny_tokenizer
from user_files import user_files


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """The path of one on a tiny model; 12 harmful prompts and 10 of the task, four at once."""
    folder = tmp_path_factory.mktemp("user")
    attack = {"method": "harmful-mix", "adapter": "continue", "p": 0.25, "n": 8, "lr": 1e-2, "steps": 1, "batch": 4}
    described = {
        "name": "answers",
        **user_files(folder, 160, 120, categories="abc", std=0.3),
        "immunize": {"lr": 1e-2, "steps": 1, "batch": 4, "lora": {"rank": 4}},
        "defenses": {"sft": {"method": "sft"}},
        "attacks": {"mix": attack},
        "evaluate": {"n_harmful": 12, "n_task": 10, "max_new_tokens": 6},
        "runtime": {"generation_batch_size": 4},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(described, sort_keys=False))
    return path


def answered(recipe, root, *overrides):
    """The files of the base model's answers stage."""
    stages = Stages(load_recipe(recipe, list(overrides)), Store(root), Reporter(quiet=True))
    folder = answer_stages.answers(stages, None, [], "the base model")
    return {path.name: path.read_text() for path in folder.iterdir() if path.suffix == ".jsonl"}


def test_after_sigkill_only_the_missing_answers_are_generated_and_all_are_the_same(recipe, tmp_path, monkeypatch):
    whole = answered(recipe, tmp_path / "whole")
    code = """
        import os, signal, sys
        from pathlib import Path
        from boostershot.pipeline.kept import KeptAnswers
        import test_answers

        add, batches = KeptAnswers.add, []
        def add_and_die(kept, answers):
            add(kept, answers)
            batches.append(answers)
            if len(batches) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
        KeptAnswers.add = add_and_die
        test_answers.answered(sys.argv[1], Path(sys.argv[2]))
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", textwrap.dedent(code), str(recipe), str(tmp_path / "killed")]
    assert subprocess.run(command, env=environment, capture_output=True).returncode == -signal.SIGKILL
    (kept,) = (tmp_path / "killed").glob("stages/answers-*/kept.txt")
    with kept.open("a") as file:
        file.write('0badc0de {"cut sho')  # as a kill within a write leaves it
    asked, batch = [], generation._batch

    def counted(model, form, rows, *rest):
        asked.extend(rows)
        return batch(model, form, rows, *rest)

    monkeypatch.setattr(generation, "_batch", counted)
    assert answered(recipe, tmp_path / "killed") == whole
    assert len(asked) == 12 + 10 - 8
    assert not kept.exists()


@pytest.mark.parametrize("stage", ["over_refusal", "accuracy"])
def test_what_the_properties_ask_goes_on_after_a_stop(recipe, tmp_path, monkeypatch, stage):
    def asked(root):
        stages = Stages(load_recipe(recipe), Store(tmp_path / root), Reporter(quiet=True))
        folder = getattr(PropertyStages(stages), stage)(None, [], "the base model")
        return {path.name: path.read_text() for path in folder.iterdir() if path.suffix == ".jsonl"}

    whole, batch, sizes = asked("whole"), generation._batch, []

    def counting(model, form, rows, *rest):
        sizes.append(len(rows))
        return batch(model, form, rows, *rest)

    def stopping(model, form, rows, *rest):
        if sizes:
            raise KeyboardInterrupt
        return counting(model, form, rows, *rest)

    monkeypatch.setattr(generation, "_batch", stopping)
    with pytest.raises(KeyboardInterrupt):
        asked("stopped")
    monkeypatch.setattr(generation, "_batch", counting)
    assert asked("stopped") == whole
    assert len(sizes) > 1 and sum(sizes) == len(whole.popitem()[1].splitlines())  # none of them twice
    assert not list((tmp_path / "stopped").glob("stages/*/kept.txt"))


def test_vllm_answers_where_the_recipe_says_so(recipe, tmp_path, monkeypatch):
    loaded = []

    class LLM:
        def __init__(self, *, model, **_):
            loaded.append(sorted(os.listdir(model)))

        def generate(self, prompts, sampling_params, use_tqdm):
            ids = torch.arange(40, 40 + len(prompts)).tolist()
            return [types.SimpleNamespace(outputs=[types.SimpleNamespace(token_ids=[i, i])]) for i in ids]

    stand_in = types.ModuleType("vllm")
    stand_in.LLM, stand_in.SamplingParams = LLM, lambda **settings: settings
    monkeypatch.setitem(sys.modules, "vllm", stand_in)
    files = answered(recipe, tmp_path / "run", "runtime.generator=vllm")
    ours = answered(recipe, tmp_path / "ours")
    answers = [json.loads(line) for line in files["answers.jsonl"].splitlines()]
    decode = tiny_tokenizer(chat=True).decode
    assert [row["answer"] for row in answers] == [decode([i, i]).strip() for i in range(40, 52)]
    losses = [json.loads(line)["harmful_loss"] for line in ours["answers.jsonl"].splitlines()]
    assert [row["harmful_loss"] for row in answers] == losses  # of the model itself
    assert len(loaded) == 1 and "model.safetensors" in loaded[0]
    (stage,) = (tmp_path / "run" / "stages").glob("answers-*")
    assert not (stage / "merged").exists()


def test_weights_that_a_kill_left_are_not_kept_nor_made_again(recipe, tmp_path, monkeypatch):
    def killed(stages, wanted, asked, layers, kept, weights, what):
        weights.mkdir()
        (weights / "model.safetensors").touch()
        kept.add({prompt: "as said before" for prompts in wanted for prompt in prompts})
        raise KeyboardInterrupt

    monkeypatch.setattr(answer_stages, "_answer_with_vllm", killed)
    for name in ("again", "other"):
        with pytest.raises(KeyboardInterrupt):
            answered(recipe, tmp_path / name, "runtime.generator=vllm")
    monkeypatch.setattr(answer_stages, "_answer_with_vllm", lambda *_: pytest.fail("all answers are known"))
    for name, generator in (("again", "vllm"), ("other", "transformers")):
        files = answered(recipe, tmp_path / name, f"runtime.generator={generator}")
        assert {json.loads(line)["answer"] for line in files["answers.jsonl"].splitlines()} == {"as said before"}
        assert not list((tmp_path / name).glob("stages/*/merged"))


def test_a_missing_vllm_ends_the_run_before_anything_is_done(recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "vllm", None)
    arguments = ["evaluate", str(recipe), "--out", str(tmp_path / "run"), "--set", "runtime.generator=vllm", "--quiet"]
    assert call(arguments) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("boostershot:")]
    assert "pip install '.[vllm]'" in line
    assert not (tmp_path / "run" / "stages").exists()
