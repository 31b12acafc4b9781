"""Phases follow each other, each with rows and an optimiser of its own; steps count through, a stop loses nothing."""

from dataclasses import dataclass

import pytest
import torch
from transformers import TrainerCallback

from boostershot import AttackArguments, attack
from boostershot.attacks import Ablation, Adaptive, Attack, AttackRow, Grpo, Kick, Phase, Prefill, TenRows
from boostershot.attacks.finetune import lengths
from tiny import preference_rows, tiny_llama, tiny_tokenizer

ROWS = [
    {"id": str(i), "prompt": row["prompt"], "completion": row["rejected"], "harmful": i < 4}
    for i, row in enumerate(preference_rows(12))
]


@dataclass(frozen=True)
class TwoPhases(Attack):
    """Harmful rows for a quarter of the steps, then benign ones."""

    name = "two-phases"

    def phases(self, pool, seed):
        return [Phase([r for r in pool if r.harmful], 0.25), Phase([r for r in pool if not r.harmful], 0.75)]


@dataclass(frozen=True)
class OnePhase(Attack):
    """Rows of one kind."""

    harmful: bool
    name = "one-phase"

    def phases(self, pool, seed):
        return [Phase([row for row in pool if row.harmful is self.harmful])]


class Stop(Exception):
    """The kill."""


class StopAfter(TrainerCallback):
    """At the beginning of a step of the phase that has so many steps."""

    def __init__(self, step, of):
        self.step, self.of = step, of

    def on_step_begin(self, args, state, control, **kwargs):
        if (state.global_step, state.max_steps) == (self.step, self.of):
            raise Stop


def run(folder, what, model, steps, calls=None, stop=()):
    args = AttackArguments(
        output_dir=str(folder),
        adapter="full",
        max_steps=steps,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        save_steps=2,
        record_steps=[0, 1, 2, 5, 8],
        disable_tqdm=True,
        use_cpu=True,
    )
    known = [] if calls is None else calls

    def record(step, model):
        known.append((step, weights(model)))

    return attack(model, tiny_tokenizer(True), ROWS, what, args, record=record, callbacks=list(stop))


def weights(model):
    return {name: param.detach().clone() for name, param in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_two_phases_are_one_training_after_the_other(tmp_path):
    calls = []
    both = run(tmp_path / "both", TwoPhases(), tiny_llama(320), 8, calls)
    first = run(tmp_path / "first", OnePhase(True), tiny_llama(320), 2)
    assert same(calls[2][1], weights(first))
    second = run(tmp_path / "second", OnePhase(False), first, 6)
    assert same(weights(both), weights(second))
    assert [step for step, _ in calls] == [0, 1, 2, 5, 8]
    assert same(calls[0][1], weights(tiny_llama(320)))


@pytest.mark.parametrize(("step", "of"), [(1, 2), (0, 6), (3, 6)], ids=["first", "between", "second"])
def test_a_stop_in_either_phase_loses_nothing(tmp_path, step, of):
    whole = weights(run(tmp_path / "whole", TwoPhases(), tiny_llama(320), 8))
    with pytest.raises(Stop):
        run(tmp_path / "stopped", TwoPhases(), tiny_llama(320), 8, stop=[StopAfter(step, of)])
    assert same(weights(run(tmp_path / "stopped", TwoPhases(), tiny_llama(320), 8)), whole)


@pytest.mark.parametrize(
    "what",
    [TenRows(n=4, share=0.3), Adaptive(n=8), Adaptive(n=8, kick=Kick(noise=0.1)), Adaptive(n=8, kick=Kick(0.4, 20))],
    ids=["ten rows", "adaptive", "shaken", "kicked"],
)
def test_the_prelude_is_what_comes_before_the_last_phase(what):
    pool = [AttackRow(row["id"], row["prompt"], row["completion"], row["harmful"]) for row in ROWS]
    assert what.prelude == pytest.approx(sum(phase.share for phase in what.phases(pool, 0)[:-1]))


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (Grpo(n=4), "grpo is paid for its answers and is shown none; expected `reinforce`"),
        (Prefill(), "prefill trains nothing"),
        (Ablation(n=2), "ablation trains nothing"),
    ],
)
def test_what_does_not_fine_tune_on_rows_is_refused(tmp_path, what, said):
    with pytest.raises(ValueError, match=said):
        run(tmp_path, what, tiny_llama(320), 2)


def test_lengths():
    rows = [AttackRow(str(i), "prompt", "answer", harmful=False) for i in range(16)]
    phases = [Phase(rows[:10], 0.5), Phase(rows[10:], 0.5)]
    common = {"output_dir": "x", "per_device_train_batch_size": 4, "use_cpu": True}
    assert lengths(phases, AttackArguments(max_steps=7, **common)) == [4, 3]
    assert lengths(phases, AttackArguments(num_train_epochs=3, **common)) == [9, 6]
    assert lengths(phases[:1], AttackArguments(max_steps=7, **common)) == [4]  # its share
