"""An attack reports at the steps it was asked for, and goes on after a stop to the same weights bit for bit."""

import pytest
import torch
from transformers import TrainerCallback

from boostershot import AttackArguments, HarmfulMix, attack
from boostershot.training.arguments import attach_lora
from tiny import preference_rows, tiny_llama, tiny_tokenizer

ROWS = [
    {"id": str(i), "prompt": row["prompt"], "completion": row["rejected"], "harmful": i % 2 == 0}
    for i, row in enumerate(preference_rows(40))
]
LORA = {"rank": 4, "alpha": 8, "dropout": 0.2}


class Stop(Exception):
    """The kill."""


class StopAfter(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise Stop


def run(folder, adapter, calls, stop=()):
    """8 steps of 4 rows of 18, so that an epoch ends after step 5; checkpoints at 3, 6 and 8."""
    torch.manual_seed(0)
    model = tiny_llama(320)
    if adapter == "continue":
        torch.manual_seed(1)
        model = attach_lora(model, LORA)
    args = AttackArguments(
        output_dir=str(folder),
        adapter=adapter,
        max_steps=8,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        lr_scheduler_type="cosine",
        save_steps=3,
        lora=LORA,
        record_steps=[0, 2, 5, 8],
        disable_tqdm=True,
        use_cpu=True,
    )

    def record(step, model):
        calls.append((step, weights(model)))

    mix = HarmfulMix(p=0.5, n=18)
    return attack(model, tiny_tokenizer(True), ROWS, mix, args, record=record, callbacks=list(stop))


def weights(model):
    return {name: param.detach().clone() for name, param in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("adapter", ["continue", "fresh", "full"])
def test_resumed_attack_equals_uninterrupted(tmp_path, adapter):
    whole, first, second = [], [], []
    end = weights(run(tmp_path / "whole", adapter, whole))
    with pytest.raises(Stop):
        run(tmp_path / "stopped", adapter, first, [StopAfter(4)])
    resumed = weights(run(tmp_path / "stopped", adapter, second))
    assert same(end, resumed)
    assert [step for step, _ in whole] == [0, 2, 5, 8]
    assert [step for step, _ in first] == [0, 2]
    assert [step for step, _ in second] == [5, 8]  # step 0 is not what a resumed model is
    assert all(same(a[1], b[1]) for a, b in zip(whole, first + second, strict=True))
    assert same(whole[-1][1], end)
    assert not any(same(whole[i][1], whole[i + 1][1]) for i in range(3))


def test_step_zero_is_the_model_before_any_step(tmp_path):
    calls = []
    run(tmp_path, "full", calls)
    assert same(calls[0][1], weights(tiny_llama(320)))
