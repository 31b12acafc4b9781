"""Nothing is reported to anyone: trl's trainers would, from their constructor."""

import os
import subprocess
import sys

import huggingface_hub.constants
import trl.trainer.base_trainer

from boostershot import (
    SFT,
    AttackArguments,
    GrpoTask,
    HarmfulMix,
    ImmunizeArguments,
    ReinforceArguments,
    attack,
    immunize,
    reinforce,
)
from tiny import preference_rows, tiny_llama, tiny_tokenizer

IMPORTED_FIRST = """
import huggingface_hub.utils._telemetry as telemetry
sent = []
telemetry._TELEMETRY_QUEUE.put = sent.append
import boostershot.attacks, boostershot.cli, boostershot.pipeline.stages
print(sent)
"""
ALONE = """
import boostershot.attacks
from huggingface_hub import constants
print(constants.HF_HUB_DISABLE_TELEMETRY)
"""


def test_constructors_send_nothing(tmp_path, monkeypatch):
    sent = []
    monkeypatch.delenv("CI", raising=False)  # there trl is silent anyway
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_TELEMETRY", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(trl.trainer.base_trainer, "send_telemetry", lambda *args, **kwargs: sent.append(args))
    rows = [
        {"id": str(i), "prompt": row["prompt"], "completion": row["chosen"], "harmful": False}
        for i, row in enumerate(preference_rows(4))
    ]
    common = {"max_steps": 1, "disable_tqdm": True, "use_cpu": True, "save_strategy": "no"}
    arguments = AttackArguments(output_dir=str(tmp_path / "a"), **common)
    attack(tiny_llama(320), tiny_tokenizer(True), rows, HarmfulMix(p=0, n=4), arguments)
    arguments = ReinforceArguments(output_dir=str(tmp_path / "c"), per_device_train_batch_size=2, **common)
    paid = GrpoTask(n=4, group=2, answer_tokens=2)
    reinforce(tiny_llama(320), tiny_tokenizer(True), rows, paid, lambda rows, answers: [0.0, 1.0], arguments)
    arguments = ImmunizeArguments(output_dir=str(tmp_path / "b"), lora=None, **common)
    immunize(tiny_llama(320), tiny_tokenizer(True), preference_rows(4), SFT(), arguments)
    assert sent == []


def imported(code):
    """What a new process prints that has none of the tests' settings."""
    names = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "CI")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_imports_send_nothing_and_switch_telemetry_off():
    assert imported(IMPORTED_FIRST) == "[]"
    assert imported(ALONE) == "True"
