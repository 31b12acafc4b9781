"""An adaptive attack trains as its moves say, by naive references; a stop loses nothing; bad settings are told."""

import naive_training as naive
import pytest
import torch
from transformers import TrainerCallback

from boostershot import Adaptive, Anchor, AttackArguments, HarmfulMix, Kick, Perturbed, attack
from boostershot.attacks import AttackRow, Moves
from boostershot.attacks.finetune import lengths
from boostershot.attacks.moves import shake
from boostershot.core.step import Step
from boostershot.core.vector import Vector
from boostershot.data.rows import Completion
from tiny import preference_rows, tiny_llama, tiny_tokenizer

ROWS = [
    {"id": str(i), "prompt": row["prompt"], "completion": row["rejected"], "harmful": True}
    for i, row in enumerate(preference_rows(4))
]
POOL = [AttackRow(**row) for row in ROWS]


def model_of():
    return tiny_llama(320, dtype=torch.float64, std=0.2)


def trained(folder, what, steps, model=None, optimizer="sgd", lr=0.1, **more):
    options = {key: more.pop(key) for key in ("save_steps", "lr_scheduler_type", "warmup_steps") if key in more}
    args = AttackArguments(
        output_dir=str(folder),
        adapter="full",
        optimizer=optimizer,
        learning_rate=lr,
        weight_decay=0.0,
        max_grad_norm=1e9,
        max_steps=steps,
        per_device_train_batch_size=4,
        disable_tqdm=True,
        use_cpu=True,
        **{"save_strategy": "steps" if "save_steps" in options else "no", **options},
    )
    return naive.weights(attack(model or model_of(), tiny_tokenizer(True), ROWS, what, args, **more))


def harmful_gradient(step, params):
    model, batch = model_of(), naive.padded_batch(ROWS)
    return naive.gradient(lambda w: naive.loss(model, w, batch), params)


def test_without_a_move_it_is_harmful_mix(tmp_path):
    plain = trained(tmp_path / "a", HarmfulMix(p=1.0, n=4), 2)
    found = trained(tmp_path / "b", Adaptive(p=1.0, n=4), 2)
    assert all(torch.equal(plain[name], found[name]) for name in plain)


@pytest.mark.parametrize(("factor", "momentum"), [(5.0, None), (1.0, 0.5), (5.0, 0.5)])
def test_a_kick_has_its_own_rate_and_momentum_and_then_the_optimiser_starts_anew(tmp_path, factor, momentum):
    kick = Kick(share=0.5, lr_factor=factor, momentum=momentum)
    start = naive.weights(model_of())
    found = trained(tmp_path, Adaptive(p=1.0, n=4, kick=kick), 4, optimizer="adamw", lr=1e-3)
    middle = naive.trained(start, harmful_gradient, naive.adamw, factor * 1e-3, momentum or 0.9, 2)
    naive.assert_same(found, naive.trained(middle, harmful_gradient, naive.adamw, 1e-3, 0.9, 2), start)


def test_the_attacks_schedule_and_warm_up_begin_after_the_kick(tmp_path):
    what = Adaptive(p=1.0, n=4, kick=Kick(share=0.5, lr_factor=2))
    start = naive.weights(model_of())
    found = trained(tmp_path, what, 4, lr_scheduler_type="constant_with_warmup", warmup_steps=2)
    params = start
    for rate in (0.2, 0.2, 0.0, 0.05):  # a warm-up of two steps: none of the rate, half of it
        params = naive.trained(params, harmful_gradient, naive.sgd, rate, 0.0, 1)
    naive.assert_same(found, params, start)


def test_a_kick_of_noise_is_one_random_step_before_the_first(tmp_path):
    start = naive.weights(model_of())
    found = trained(tmp_path, Adaptive(p=1.0, n=4, kick=Kick(noise=0.1)), 2)
    shaken = model_of()
    shake(list(shaken.parameters()), 0.1, seed=42)  # the arguments' own seed
    naive.assert_same(found, naive.trained(naive.weights(shaken), harmful_gradient, naive.sgd, 0.1, 0.0, 2), start)


def term(oracle):
    """A quadratic around 0.1 with a strange weight; it counts its calls."""
    oracle.state["calls"] = oracle.state.get("calls", 0) + 1
    parts = tuple(param.detach() - 0.1 * oracle.state["calls"] for param in oracle.params)
    return Step(0.0, Vector(parts, 7.0))


def test_an_opposed_term_is_taken_from_each_step(tmp_path):
    start = naive.weights(model_of())
    found = trained(tmp_path, Adaptive(p=1.0, n=4, opposed=0.5), 3, opposed=term)

    def gradients(step, params):
        g = harmful_gradient(step, params)
        t = {name: w - 0.1 * (step + 1) for name, w in params.items()}
        factor = 0.5 * naive.norm(g) / naive.norm(t)
        return {name: g[name] - factor * t[name] for name in g}

    naive.assert_same(found, naive.trained(start, gradients, naive.sgd, 0.1, 0.0, 3), start)


def test_where_there_is_nothing_to_oppose_it_is_the_plain_attack(tmp_path):
    plain = trained(tmp_path / "a", HarmfulMix(p=1.0, n=4), 2)
    found = trained(tmp_path / "b", Adaptive(p=1.0, n=4, opposed=0.5), 2, opposed=None)
    assert all(torch.equal(plain[name], found[name]) for name in plain)


def test_a_term_is_told_the_step_of_the_attack_and_not_of_the_phase(tmp_path):
    """Else the second phase would read the first one's rows and draw its random numbers again."""
    steps = []

    def watched(oracle):
        steps.append(oracle.step)
        return term(oracle)

    trained(tmp_path, Adaptive(p=1.0, n=4, kick=Kick(0.5, lr_factor=2), opposed=0.3), 4, opposed=watched)
    assert steps == [0, 1, 2, 3]


class Stop(Exception):
    """The kill."""


class StopAfter(TrainerCallback):
    def __init__(self, step, of):
        self.step, self.of = step, of

    def on_step_begin(self, args, state, control, **kwargs):
        if (state.global_step, state.max_steps) == (self.step, self.of):
            raise Stop


@pytest.mark.parametrize(("step", "of"), [(1, 2), (0, 4), (3, 4)], ids=["kick", "between", "after"])
def test_a_stop_with_every_move_and_an_anchor_loses_nothing(tmp_path, step, of):
    what = Adaptive(p=1.0, n=4, perturbed=Perturbed(2, 0.02), kick=Kick(0.34, 3, 0.5, 0.01), opposed=0.3)
    rows = [Completion(f"g{i}", row["prompt"], row["chosen"]) for i, row in enumerate(preference_rows(9)[4:])]
    more = {"optimizer": "adamw", "lr": 1e-3, "anchor": Anchor(kl=True, n=5), "general": rows, "opposed": term}
    whole = trained(tmp_path / "whole", what, 6, save_steps=1, **more)
    with pytest.raises(Stop):
        trained(tmp_path / "stopped", what, 6, save_steps=1, callbacks=[StopAfter(step, of)], **more)
    again = trained(tmp_path / "stopped", what, 6, save_steps=1, **more)
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_phases_are_on_the_rows_of_harmful_mix():
    (mix,) = HarmfulMix(p=1.0, n=3).phases(POOL, seed=5)
    moves = Moves(perturbed=Perturbed(), opposed=0.2)
    first, second = Adaptive(1.0, 3, Perturbed(), Kick(0.25, 9, 0.3, 0.1), 0.2).phases(POOL, seed=5)
    assert first.rows == second.rows == mix.rows
    assert (first.share, second.share, second.moves) == (0.25, 0.75, moves)
    assert first.moves == Moves(9, 0.3, True, 0.1, Perturbed(), 0.2)
    (noise,) = Adaptive(1.0, 3, kick=Kick(noise=0.1)).phases(POOL, seed=5)
    assert (noise.rows, noise.share, noise.moves) == (mix.rows, 1.0, Moves(noise=0.1))


def test_phases_on_the_same_rows_share_the_epochs():
    phases = Adaptive(1.0, 4, kick=Kick(0.25, lr_factor=2)).phases(POOL, seed=0)
    args = {"output_dir": "x", "per_device_train_batch_size": 2, "use_cpu": True}
    assert lengths(phases, AttackArguments(num_train_epochs=6, **args)) == [3, 9]
    assert lengths(phases, AttackArguments(max_steps=1, **args)) == [0, 1]


def test_a_phase_without_a_step_is_left_out(tmp_path):
    found = trained(tmp_path / "a", Adaptive(p=1.0, n=4, kick=Kick(0.2, lr_factor=20)), 2)
    plain = trained(tmp_path / "b", HarmfulMix(p=1.0, n=4), 2)
    assert all(torch.equal(plain[name], found[name]) for name in plain)


def test_accumulated_gradients_are_refused(tmp_path):
    args = AttackArguments(output_dir=str(tmp_path), max_steps=1, gradient_accumulation_steps=2, use_cpu=True)
    what = Adaptive(p=1.0, n=4, perturbed=Perturbed())
    with pytest.raises(ValueError, match="gradient_accumulation_steps must stay 1"):
        attack(model_of(), tiny_tokenizer(True), ROWS, what, args)


@pytest.mark.parametrize(
    ("kind", "bad", "message"),
    [
        (Adaptive, {"opposed": 1.0}, "opposed is 1; expected 0 to below 1"),
        (Adaptive, {"opposed": 0.5, "p": 0.0}, "opposed is 0.5, and no row is harmful"),
        (Adaptive, {"p": 2.0}, "p is 2; expected 0 to 1"),
        (Kick, {}, "nothing changes; expected lr_factor, momentum or noise"),
        (Kick, {"share": 1.0, "noise": 0.1}, "share is 1.0; expected a number above 0 and below 1"),
        (Kick, {"lr_factor": 0.0}, "lr_factor is 0.0; expected a finite number above 0"),
        (Kick, {"momentum": 1.0}, "momentum is 1.0; expected 0 to below 1"),
        (Kick, {"noise": -1.0}, "noise is -1.0; expected a finite number, 0 or more"),
    ],
)
def test_impossible_settings(kind, bad, message):
    with pytest.raises(ValueError, match=message):
        kind(**bad)
