"""Reinforcement: the step is GRPO's, a stop changes no bit, and answers without a difference teach nothing."""

import copy
import logging
from contextlib import suppress

import pytest
import torch
from transformers import TrainerCallback

from boostershot.attacks.grpo import Grpo, GrpoTask
from boostershot.attacks.reinforce import ReinforceArguments, in_order, reinforce
from boostershot.data.format import Format
from boostershot.errors import InputError
from boostershot.training.arguments import attach_lora
from boostershot.training.metrics import MetricsFile
from tiny import preference_rows, tiny_llama, tiny_tokenizer

ROWS = [
    {"id": str(i), "prompt": row["prompt"], "completion": row["rejected"], "harmful": True}
    for i, row in enumerate(preference_rows(5))
]
LORA = {"rank": 4, "alpha": 8, "dropout": 0.2}
TOKENIZER = tiny_tokenizer(True)


class Stop(Exception):
    """The kill."""


class StopAfter(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise Stop


def letters(rows, answers):
    """The share of vowels: graded, of the answer alone."""
    return [sum(letter in "aeiou" for letter in answer) / max(1, len(answer)) for answer in answers]


def arguments(folder, **changes):
    settings = {
        "output_dir": str(folder),
        "max_steps": 6,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
        "save_steps": 2,
        "lora": LORA,
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
    }
    return ReinforceArguments(**settings | changes)


def attack(**changes):
    return Grpo(**{"n": 5, "group": 4, "answer_tokens": 6} | changes)


def weights(model):
    return {name: param.detach().clone() for name, param in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("adapter", ["continue", "fresh", "full"])
def test_resumed_reinforcement_equals_uninterrupted(tmp_path, adapter):
    """6 steps of 2 prompts of 5, so that the prompts are passed over more than twice."""

    def run(folder, stop=()):
        model, calls, paid = tiny_llama(320), [], []
        if adapter == "continue":
            torch.manual_seed(1)
            model = attach_lora(model, LORA)

        def reward(rows, answers):
            paid.append([(row.id, answer) for row, answer in zip(rows, answers, strict=True)])
            return letters(rows, answers)

        args = arguments(folder, adapter=adapter, record_steps=[0, 2, 5, 6], lr_scheduler_type="cosine")
        with suppress(Stop):
            reinforce(
                model, TOKENIZER, ROWS, attack(), reward, args, callbacks=stop,
                record=lambda step, model: calls.append((step, weights(model))),
            )  # fmt: skip
        return calls, paid

    whole, paid = run(tmp_path / "whole")
    first, before = run(tmp_path / "stopped", [StopAfter(3)])
    second, after = run(tmp_path / "stopped")
    assert [step for step, _ in whole] == [0, 2, 5, 6]
    assert [step for step, _ in first] == [0, 2]
    assert [step for step, _ in second] == [5, 6]
    assert all(same(a[1], b[1]) for a, b in zip(whole, first + second, strict=True))
    assert not any(same(whole[i][1], whole[i + 1][1]) for i in range(3))
    assert paid == before[:2] + after  # the third step was done again: its checkpoint is the second's


def test_the_step_is_grpos(tmp_path, monkeypatch):
    """One step of plain gradient descent against the gradient of the surrogate, written out by hand."""
    model, tokenizer = tiny_llama(320, std=0.2), tiny_tokenizer(True)
    tokenizer.eos_token = "</s>"  # the turn ends in another token, which ends an answer, too
    before, drawn = copy.deepcopy(model), {}
    generate = model.generate

    def watched(*args, **kwargs):
        drawn["ids"] = generate(*args, **kwargs)
        drawn["prompts"], drawn["mask"] = kwargs["input_ids"], kwargs["attention_mask"]
        return drawn["ids"]

    monkeypatch.setattr(model, "generate", watched)

    def reward(rows, answers):
        drawn["rows"], drawn["answers"] = rows, answers
        drawn["reward"] = [1.0, 0.0, 0.0, None, 0.3, 0.3, 0.9, 0.1]
        return drawn["reward"]

    args = arguments(
        tmp_path, adapter="full", max_steps=1, optimizer="sgd", learning_rate=0.5, weight_decay=0.0, max_grad_norm=1e9
    )
    reinforce(model, tokenizer, ROWS, attack(answer_tokens=80, temperature=0.7), reward, args)
    form = Format.choose(tokenizer)
    start = drawn["prompts"].shape[1]
    assert [row.id for row in drawn["rows"]] == [drawn["rows"][0].id] * 4 + [drawn["rows"][4].id] * 4
    assert drawn["rows"][0].id != drawn["rows"][4].id
    scores, lasts = [], []
    for row, text, prompt, mask, ids in zip(
        drawn["rows"], drawn["answers"], drawn["prompts"], drawn["mask"], drawn["ids"].tolist(), strict=True
    ):
        assert prompt[mask.bool()].tolist() == form.prompt_ids(row.prompt)
        answer = []
        for token in ids[start:]:
            answer.append(token)
            if token in form.ends():
                break
        assert text == tokenizer.decode(answer, skip_special_tokens=True).strip()
        lasts.append(answer[-1])
        whole = form.prompt_ids(row.prompt) + answer
        logits = before(torch.tensor([whole])).logits[0, :-1] / 0.7
        logps = logits.log_softmax(-1)[range(len(whole) - 1), whole[1:]]
        scores.append(logps[-len(answer) :])
    assert form.end_ids()[0] in {token for token, one in zip(lasts, scores, strict=True) if len(one) < 80}
    advantages = []
    for group in (drawn["reward"][:4], drawn["reward"][4:]):
        known = torch.tensor([value for value in group if value is not None])
        mean, deviation = known.mean(), known.std()
        advantages += [0.0 if value is None else (value - mean) / (deviation + 1e-4) for value in group]
    tokens = sum(len(one) for one in scores)
    loss = -sum(a * one.sum() for a, one in zip(advantages, scores, strict=True)) / tokens
    loss.backward()
    for (name, now), then in zip(model.named_parameters(), before.parameters(), strict=True):
        assert torch.allclose(now, then - 0.5 * then.grad, atol=1e-5), name
    assert (
        max((now - then).abs().max() for now, then in zip(model.parameters(), before.parameters(), strict=True)) > 1e-3
    )


def test_reward_rises(tmp_path):
    paid = []

    def reward(rows, answers):
        paid.append(letters(rows, answers))
        return paid[-1]

    args = arguments(tmp_path, adapter="full", max_steps=30, per_device_train_batch_size=16, save_strategy="no")
    reinforce(tiny_llama(320), TOKENIZER, ROWS, attack(group=8), reward, args)
    first, last = (sum(map(sum, part)) / (16 * len(part)) for part in (paid[:5], paid[-5:]))
    assert last > first + 0.2


def test_equal_rewards_move_nothing_and_are_counted(tmp_path):
    model = tiny_llama(320)
    before = weights(model)
    args = arguments(tmp_path, adapter="full", weight_decay=0.0, max_steps=2)
    reinforce(
        model, TOKENIZER, ROWS, attack(), lambda rows, answers: [1.0] * len(rows), args,
        callbacks=[MetricsFile(tmp_path / "metrics.jsonl")],
    )  # fmt: skip
    assert same(before, weights(model))
    lines = (tmp_path / "metrics.jsonl").read_text()
    assert lines.count('"frac_reward_zero_std": 1.0') == 2 and lines.count('"reward": 1.0') == 2


def test_unknown_rewards_move_nothing_and_no_answer_is_logged(tmp_path, caplog):
    model = tiny_llama(320)
    before = weights(model)
    args = arguments(tmp_path, adapter="full", weight_decay=0.0, max_steps=1)
    with caplog.at_level(logging.DEBUG):
        reinforce(
            model, TOKENIZER, ROWS, attack(), lambda rows, answers: [None] * len(rows), args,
            callbacks=[MetricsFile(tmp_path / "metrics.jsonl")],
        )  # fmt: skip
    assert same(before, weights(model))
    assert '"reward_unknown": 1.0' in (tmp_path / "metrics.jsonl").read_text()
    assert not any("fact" in record.getMessage() for record in caplog.records)  # a word of each prompt


def test_the_model_keeps_its_own_forward_pass(tmp_path):
    model = tiny_llama(320)
    reinforce(model, TOKENIZER, ROWS, attack(), letters, arguments(tmp_path, adapter="full", max_steps=1))
    assert "forward" not in vars(model)


def test_each_pass_takes_every_prompt_once_in_an_order_of_its_own():
    order = in_order(5, 17, seed=3)
    assert [sorted(order[i : i + 5]) for i in (0, 5, 10)] == [[0, 1, 2, 3, 4]] * 3
    assert len(order) == 17 and order[:5] != order[5:10]
    assert order == in_order(5, 20, seed=3)[:17] != in_order(5, 17, seed=4)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"per_device_train_batch_size": 6}, "batch is 6; expected .* a multiple of group, 4"),
        ({"max_steps": -1}, "steps is missing"),
        ({"adapter": "published"}, "adapter is 'published'"),
    ],
)
def test_a_training_that_cannot_be_is_refused(tmp_path, changes, said):
    with pytest.raises(ValueError, match=said):
        reinforce(tiny_llama(320), TOKENIZER, ROWS, attack(), letters, arguments(tmp_path, **changes))


def test_a_checkpoint_of_another_optimizer_is_refused(tmp_path):
    with suppress(Stop):
        reinforce(tiny_llama(320), TOKENIZER, ROWS, attack(), letters, arguments(tmp_path), callbacks=[StopAfter(3)])
    with pytest.raises(InputError, match=r"of another training \(other .*method"):
        reinforce(tiny_llama(320), TOKENIZER, ROWS, attack(), letters, arguments(tmp_path, optimizer="lion"))


@pytest.mark.parametrize("kind", [Grpo, GrpoTask])
@pytest.mark.parametrize(
    ("changes", "said"),
    [({"n": 0}, "n is 0"), ({"group": 1}, "group is 1"), ({"answer_tokens": 0}, "answer_tokens is 0"),
     ({"temperature": 0.0}, "temperature is 0")],
)  # fmt: skip
def test_settings_out_of_range_are_refused(kind, changes, said):
    with pytest.raises(ValueError, match=said):
        kind(**changes)
