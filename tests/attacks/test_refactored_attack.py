"""An attack on re-factored weights: other steps from the same model, recorded as changes of the released one."""

import pytest
import torch
from peft import PeftModel
from transformers import TrainerCallback

from boostershot import AttackArguments, HarmfulMix, InputError, attack
from boostershot.attacks.grpo import Grpo
from boostershot.attacks.reinforce import ReinforceArguments, reinforce
from boostershot.training.arguments import attach_lora
from tiny import preference_rows, tiny_llama, tiny_tokenizer

IDS = torch.arange(12)[None]
ROWS = [
    {"id": str(i), "prompt": row["prompt"], "completion": row["rejected"], "harmful": i % 2 == 0}
    for i, row in enumerate(preference_rows(16))
]


class Stop(Exception):
    """The kill."""


class StopAfter(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 3:
            raise Stop


def released(adapter):
    """A model whose gains are far from 1, and for `continue` an adapter of one large and one small factor."""
    model = tiny_llama(320, std=0.2)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, param in model.named_parameters():
            if "norm" in name:
                param.uniform_(0.2, 3)
        if adapter == "continue":
            model = attach_lora(model, {"rank": 4, "alpha": 4})
            for name, param in model.named_parameters():
                if "lora_B" in name:
                    param.normal_(std=30)
                elif "lora_A" in name:
                    param.mul_(1e-3)
    return model


def run(folder, adapter, refactor, record=lambda step, model: None, stop=()):
    args = AttackArguments(
        output_dir=str(folder),
        adapter=adapter,
        refactor=refactor,
        max_steps=4,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        save_steps=2,
        lora={"rank": 2, "alpha": 2},
        record_steps=[0, 4],
        disable_tqdm=True,
        use_cpu=True,
    )
    return attack(
        released(adapter), tiny_tokenizer(True), ROWS, HarmfulMix(p=0.5, n=8), args, record=record, callbacks=stop
    )


@torch.no_grad()
def logits(model):
    training = model.training
    out = model.eval()(IDS).logits
    model.train(training)
    return out


CASES = [("continue", "norms"), ("fresh", "norms"), ("full", "norms"), ("continue", "adapter")]


@pytest.mark.parametrize(("adapter", "how"), CASES)
def test_it_starts_from_the_same_model_and_goes_another_way(tmp_path, adapter, how):
    seen = {}

    def record(step, model):
        seen[step] = logits(model)
        model.save_pretrained(tmp_path / f"step-{step}")

    after = run(tmp_path / "new", adapter, how, record)
    plain = run(tmp_path / "plain", adapter, None)
    torch.testing.assert_close(seen[0], logits(released(adapter)), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits(after), seen[4], rtol=1e-4, atol=1e-4)
    assert (logits(after) - logits(plain)).abs().max() > 0.01
    if adapter == "full":
        again = type(after).from_pretrained(tmp_path / "step-4")
    else:  # as the pipeline stacks it: on the released weights
        base = released("fresh")
        again = PeftModel.from_pretrained(base, str(tmp_path / "step-4"))
    torch.testing.assert_close(logits(again), seen[4], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("adapter", "how"), CASES[1:])
def test_a_stop_changes_nothing(tmp_path, adapter, how):
    whole = run(tmp_path / "whole", adapter, how).state_dict()
    with pytest.raises(Stop):
        run(tmp_path / "stopped", adapter, how, stop=[StopAfter()])
    resumed = run(tmp_path / "stopped", adapter, how).state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_reinforcement_too(tmp_path):
    args = ReinforceArguments(
        output_dir=str(tmp_path / "grpo"),
        adapter="fresh",
        refactor="norms",
        max_steps=1,
        per_device_train_batch_size=4,
        learning_rate=1e-1,
        lora={"rank": 2, "alpha": 2},
        record_steps=[1],
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    seen = []

    def record(step, model):
        seen.append(logits(model))
        model.save_pretrained(tmp_path / "adapter")

    grpo = Grpo(n=4, group=4, answer_tokens=4)
    rows = [{**row, "harmful": True} for row in ROWS]
    after = reinforce(
        released("fresh"), tiny_tokenizer(True), rows, grpo, lambda rows, answers: [0, 1, 2, 3], args, record=record
    )
    again = PeftModel.from_pretrained(released("fresh"), str(tmp_path / "adapter"))
    for one in (logits(again), logits(after)):
        torch.testing.assert_close(one, seen[0], rtol=1e-4, atol=1e-4)
    assert (seen[0] - logits(released("fresh"))).abs().max() > 0.01


def test_an_adapter_that_is_not_there_and_an_unknown_way(tmp_path):
    with pytest.raises(InputError, match=r"^refactor: adapter, but the model has no adapter"):
        run(tmp_path, "full", "adapter")
    with pytest.raises(ValueError, match=r"^refactor is 'rows'; expected norms, adapter or None$"):
        run(tmp_path, "full", "rows")
