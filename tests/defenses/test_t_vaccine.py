"""T-Vaccine is Vaccine on layers drawn by the harmful gradient that they see, in less memory."""

import gc
import json
import re

import pytest
import torch
from naive_vaccine import output_gradients, vaccine
from peft import LoraConfig, get_peft_model
from test_memory import LiveBytes
from test_vaccine import attentions
from transformers import LlamaConfig, LlamaForCausalLM

import boostershot as bs
from batches import batch_of, random_batch, relative_difference
from boostershot.core.batch import Rows
from boostershot.core.oracle import Oracle
from boostershot.core.step import Batch
from boostershot.defenses.t_vaccine import LAYERS, SHARES
from tiny import tiny_gpt2

ALIGN, HARMFUL = random_batch(seed=1), random_batch(seed=2)
DEPTH = 6


def deep(dtype=torch.float64) -> LlamaForCausalLM:
    """A Llama of six layers."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=DEPTH,
        num_attention_heads=4,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).to(dtype)


def taken(model, defense, *, seed=0, step=0, state=None):
    """The oracle after one step, and the step."""
    oracle = Oracle(model, seed=seed, step=step, state={} if state is None else state)
    return oracle, defense.step(oracle, Batch(align=Rows.of(ALIGN), harmful=Rows.of(HARMFUL)))


def test_with_all_layers_it_is_vaccine_bit_for_bit():
    model = tiny_gpt2(std=0.2, dropout=0.3)
    batches = {"align": ALIGN, "harmful": HARMFUL, "micro_batch_size": 3}
    all_layers = bs.defense_gradient(model, bs.TVaccine(rho=2.0, layers=2), **batches)
    expected = bs.defense_gradient(model, bs.Vaccine(rho=2.0), **batches)
    assert (all_layers.loss, all_layers.metrics) == (expected.loss, expected.metrics)
    assert all(torch.equal(all_layers.gradient[name], value) for name, value in expected.gradient.items())


def test_a_step_is_vaccine_on_the_drawn_layers_and_leaves_the_others_out():
    model, drawn = deep(), [1, 4]
    modules = [attentions(model)[k] for k in drawn]
    loss, expected = vaccine(model, modules, ALIGN, 2.0)
    state = {SHARES: [1 / DEPTH] * DEPTH, LAYERS: drawn}
    oracle, step = taken(model, bs.TVaccine(rho=2.0, layers=2), step=7, state=state)
    left_out = {name for name in expected if (found := re.search(r"layers\.(\d)", name)) and int(found[1]) not in drawn}
    assert len(left_out) == 9 * (DEPTH - 2)
    assert oracle.untouched == left_out
    gradient = dict(zip(oracle.names, step.gradient.tensors(), strict=True))
    assert not any(gradient[name].any() for name in left_out)
    trained = expected.keys() - left_out
    assert relative_difference([gradient[name] for name in trained], [expected[name] for name in trained]) < 1e-6
    assert step.loss == pytest.approx(loss, rel=1e-6)
    assert all(param.requires_grad for param in model.parameters())


def test_the_shares_are_those_of_one_harmful_row():
    model = deep()
    row = {key: value[:1] for key, value in HARMFUL.items()}
    norms = torch.stack([part.norm() for part in output_gradients(model, attentions(model), row)])
    oracle, _ = taken(model, bs.TVaccine(layers=2))
    assert oracle.state[SHARES] == pytest.approx((norms / norms.sum()).tolist(), rel=1e-5)


def history(seed: int, steps: int = 8) -> list[tuple[list[int], list[float], int]]:
    """Layers, shares and passes of each step; a state that only JSON carries from step to step."""
    model, defense, state, found = deep(), bs.TVaccine(layers=2, sample_every=3, importance_every=5), {}, []
    for step in range(steps):
        torch.manual_seed(step)  # no global random number takes part
        oracle, _ = taken(model, defense, seed=seed, step=step, state=state)
        state = json.loads(json.dumps(oracle.state))
        found.append((state[LAYERS], state[SHARES], oracle.passes))
        with torch.no_grad():  # so that shares would change if they were measured anew
            for param in model.parameters():
                param.mul_(1.01)
    return found


def test_layers_and_shares_stay_until_their_next_turn():
    found = history(seed=0)
    layers, shares, passes = zip(*found, strict=True)
    assert passes == tuple(3 if step in (0, 5) else 2 for step in range(8))
    assert [step for step in range(1, 8) if shares[step] != shares[step - 1]] == [5]
    assert {step for step in range(1, 8) if layers[step] != layers[step - 1]} == {3, 6}
    assert all(0 <= a < b < DEPTH for a, b in layers)


def test_the_draw_depends_on_seed_and_step_alone():
    assert history(seed=0) == history(seed=0)
    assert history(seed=0)[0][0] != history(seed=1)[0][0]


def test_layers_are_drawn_by_their_shares():
    model, defense = tiny_gpt2(), bs.TVaccine(layers=1, sample_every=1)
    state = {SHARES: [0.1, 0.9]}
    drawn = [taken(model, defense, seed=seed, step=1, state=dict(state))[0].state[LAYERS] for seed in range(60)]
    assert 46 < drawn.count([1]) < 60  # 54 with a standard deviation of 2.3


def test_within_sam_the_shares_are_measured_once_a_step():
    oracle, _ = taken(deep(), bs.SAM(rho=0.1, align=bs.TVaccine(layers=2)))
    assert oracle.passes == 5


def test_more_layers_than_the_model_has():
    with pytest.raises(ValueError, match=r"^t_vaccine: layers is 3; this model has 2$"):
        taken(tiny_gpt2(), bs.TVaccine(layers=3))


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_fewer_layers_need_less_memory(lora):
    model = deep(torch.float32)
    if lora:
        model = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear"))
    rows = batch_of([(list(range(3, 67)), list(range(3, 67)))] * 4)
    peaks = []
    for defense in (bs.TVaccine(layers=1), bs.TVaccine(layers=3), bs.Vaccine()):
        bs.defense_gradient(model, defense, align=rows, harmful=rows)
        gc.collect()
        with LiveBytes() as spy:
            step = bs.defense_gradient(model, defense, align=rows, harmful=rows)
        del step
        peaks.append(spy.peak)
    assert peaks == sorted(peaks)
    assert peaks[0] < 0.8 * peaks[2]
