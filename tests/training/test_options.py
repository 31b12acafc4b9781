"""Activation checkpointing, torch.compile and bf16: what a step computes under each is what it computes without."""

import os
import shutil

import pytest
import torch

import boostershot as bs
from batches import batch_of, other_answers, relative_difference
from boostershot import AttackArguments, ImmunizeArguments
from boostershot.attacks.reinforce import ReinforceArguments
from boostershot.core.batch import Rows
from boostershot.core.blocks import attention_blocks, decoder_layers
from boostershot.core.oracle import Oracle, rewriting
from boostershot.core.step import Batch
from boostershot.training.arguments import attach_lora
from boostershot.training.compiled import compiled_layers
from every_defense import SETTINGS
from tiny import preference_rows, tiny_gpt2, tiny_llama, tiny_tokenizer

ROLES = {
    role: batch_of(other_answers(seed=i)) for i, role in enumerate(("align", "harmful", "paired", "general", "dev"), 1)
}
ROWS = Rows.of(ROLES["harmful"])
SECOND_ORDER = "has an operation without a second derivative"
every_defense = pytest.mark.parametrize("defense", SETTINGS.values(), ids=SETTINGS.keys())


def dropping():
    return tiny_gpt2(std=0.2, dropout=0.3).train()


def gradient_of(model, defense):
    """By name, or the one line of a refusal."""
    try:
        return bs.defense_gradient(model, defense, **ROLES, seed=3).gradient
    except ValueError as error:
        return str(error)


def differ_by(actual, expected) -> float:
    return relative_difference([actual[name] for name in expected], list(expected.values()))


@every_defense
def test_checkpointing_gives_the_same_bits_under_dropout(defense):
    expected = gradient_of(dropping(), defense)
    model = dropping()
    model.activation_checkpointing_enable()
    actual = gradient_of(model, defense)
    if isinstance(actual, str):
        assert "order='exact'" in repr(defense) and SECOND_ORDER in actual and "checkpointing" in actual
    else:
        assert all(torch.equal(actual[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    "name", ["booster", "booster, exact", "booster(vaccine)", "booster(repnoise)", "crl", "ctrap", "antibody"]
)
def test_compiled_layers_give_the_same_gradient(name):
    # The backend that only traces: what differs from the eager model is what tracing loses, such as hooks.
    defense = SETTINGS[name]
    expected = gradient_of(dropping(), defense)
    model = dropping()
    with compiled_layers(model, "aot_eager"):
        assert differ_by(gradient_of(model, defense), expected) < 1e-5


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="inductor needs a C++ compiler")
def test_inductor_gives_boosters_gradient_and_dropout_masks_checkpointed_or_not():
    defense = bs.Booster(lam=5, alpha=0.1)
    expected = gradient_of(dropping(), defense)
    model = dropping()
    with compiled_layers(model):
        assert differ_by(gradient_of(model, defense), expected) < 1e-5
        model.activation_checkpointing_enable()
        assert differ_by(gradient_of(model, defense), expected) < 1e-5


def test_alike_layers_and_any_number_of_tokens_share_their_graphs():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    graphs, model = torch._dynamo.utils.counters["stats"], attach_lora(tiny_llama(std=0.2), {"rank": 2}).train()
    with compiled_layers(model, "eager"):
        Oracle(model).gradient(ROWS)
        first = graphs["unique_graphs"]  # that of the step, and those of the trial whether the model reads tries
        for n in (5, 3):
            Oracle(model).gradient(Rows.of(batch_of(other_answers(n, seed=n))))
    assert 0 < graphs["unique_graphs"] == first


def test_a_hook_within_a_layer_counts_while_it_is_there_and_no_longer():
    model = tiny_llama(std=0.2).train()
    plain = Oracle(model).gradient(ROWS).loss
    with compiled_layers(model, "eager"):
        assert Oracle(model).gradient(ROWS).loss == pytest.approx(plain, rel=1e-6)
        for factor in (0.0, 2.0):
            with rewriting(attention_blocks(model), lambda k, out, factor=factor: factor * out):
                hooked = Oracle(model).gradient(ROWS).loss
            assert abs(hooked - plain) > 1e-3
        assert Oracle(model).gradient(ROWS).loss == pytest.approx(plain, rel=1e-6)
    assert not any("forward" in vars(layer) for layer in decoder_layers(model))


@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
def test_bf16_is_within_what_eight_bits_allow(lora):
    # A bfloat16 is off by up to 2**-9; the errors of some dozens of operations in a row add up like a random walk.
    model = attach_lora(tiny_llama(std=0.2), {"rank": 4}) if lora else tiny_llama(std=0.2)
    for name, param in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(param.data, std=0.1)
    exact = Oracle(model).gradient(ROWS)
    half = Oracle(model, autocast=lambda: torch.autocast("cpu", torch.bfloat16)).gradient(ROWS)
    assert half.loss == pytest.approx(exact.loss, rel=0.01) and half.loss != exact.loss
    difference = relative_difference(half.gradient.tensors(), exact.gradient.tensors())
    assert 1e-4 < difference < 0.05


@every_defense
def test_in_bf16_a_defense_takes_its_step_or_says_why_not(defense):
    model = attach_lora(tiny_llama(std=0.2).to(torch.bfloat16), {"rank": 4})
    oracle = Oracle(model, autocast=lambda: torch.autocast("cpu", torch.bfloat16))
    try:
        step = defense.step(oracle, Batch(**{role: Rows.of(rows) for role, rows in ROLES.items()}))
    except ValueError as error:
        assert "half precision" in str(error) or SECOND_ORDER in str(error)
        return
    assert all(part.dtype == torch.float32 and part.isfinite().all() for part in step.gradient.tensors())


def immunized(folder, model, **settings):
    args = ImmunizeArguments(
        output_dir=str(folder), per_device_train_batch_size=4, max_steps=2, lora={"rank": 2, "dropout": 0.2},
        save_strategy="no", use_cpu=True, disable_tqdm=True, **settings,
    )  # fmt: skip
    return bs.immunize(model, tiny_tokenizer(True), preference_rows(8), bs.Booster(lam=5, alpha=0.1), args)


def trained(model):
    return {name: param.detach() for name, param in model.named_parameters() if param.requires_grad}


def attacked(folder, model, **settings):
    args = AttackArguments(
        output_dir=str(folder), per_device_train_batch_size=4, max_steps=2, adapter="continue",
        save_strategy="no", use_cpu=True, disable_tqdm=True, **settings,
    )  # fmt: skip
    rows = [{"id": str(i), "prompt": r["prompt"], "completion": r["rejected"], "harmful": True}
            for i, r in enumerate(preference_rows(8))]  # fmt: skip
    return bs.attack(model, tiny_tokenizer(True), rows, bs.HarmfulOnly(n=8), args)


@pytest.mark.parametrize(
    "settings",
    [{"activation_checkpointing": True}, {"torch_compile": True, "torch_compile_backend": "eager"}],
    ids=["checkpointing", "compile"],
)
@pytest.mark.parametrize("kind", [immunized, attacked])
def test_they_reach_a_training_and_leave_it_as_it_was(tmp_path, kind, settings):
    models = [attach_lora(tiny_llama(320, std=0.2), {"rank": 2}) if kind is attacked else tiny_llama(320, std=0.2)
              for _ in range(2)]  # fmt: skip
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    expected, actual = kind(tmp_path / "a", models[0]), kind(tmp_path / "b", models[1], **settings)
    assert differ_by(trained(actual), trained(expected)) < 1e-4  # AdamW divides by gradients of 1e-8
    assert actual.is_activation_checkpointing == ("activation_checkpointing" in settings)
    assert (torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0) == ("torch_compile" in settings)
    assert not any("forward" in vars(layer) for layer in decoder_layers(actual))


def test_after_bf16_the_model_computes_as_before(tmp_path):
    model = immunized(tmp_path, tiny_llama(320, std=0.2), bf16=True).eval()
    logits = model(torch.arange(7)[None]).logits
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())


def test_reinforcement_refuses_compilation(tmp_path):
    with pytest.raises(ValueError, match="torch_compile is not for reinforcement"):
        ReinforceArguments(output_dir=str(tmp_path), per_device_train_batch_size=4, max_steps=1, torch_compile=True)
