"""A model started above its cached layers gives the gradient of the whole one, in every defence and layout."""

import pytest
import torch
from test_architectures import bloom, gemma2, gpt_neo, mistral, mpt

import boostershot as bs
from batches import batch_of, other_answers, random_batch, relative_difference
from boostershot.core import oracle as core_oracle
from boostershot.core.batch import Rows, padded
from boostershot.core.lower import Lower, check_starts_at, states_below, tokens_of
from boostershot.core.oracle import Oracle
from boostershot.core.step import Batch
from boostershot.defenses.defense import reader_of_layers
from boostershot.training.arguments import attach_lora
from every_defense import SETTINGS
from tiny import tiny_gpt2, tiny_llama

TINY = {"llama": tiny_llama, "gpt2": tiny_gpt2}
TARGETS = {"llama": "all-linear", "gpt2": ["c_attn", "c_fc"]}
ROLES = {
    role: Rows.of(batch_of(other_answers(seed=i)))
    for i, role in enumerate(("align", "harmful", "paired", "general", "dev"), 1)
}


def adapted(name, dropout=0.0, lora_dropout=0.0):
    kind = TINY[name](dtype=torch.float64, std=0.2, **({"dropout": dropout} if name == "gpt2" else {}))
    model = attach_lora(kind, {"rank": 4, "targets": TARGETS[name], "first_layer": 1, "dropout": lora_dropout})
    model = model.to(torch.float64)
    generator = torch.Generator().manual_seed(1)
    for key, param in model.named_parameters():
        if "lora_B" in key:  # LoRA starts with B = 0, where A has no gradient
            param.data = 0.1 * torch.randn(param.shape, generator=generator, dtype=param.dtype)
    return model.train()


def known(model, roles, depth=1):
    """The lower layers with the states of these rows, computed row by row."""
    found = {}
    for rows in roles:
        for row in rows.split(1):
            found[tokens_of(row)[0]] = states_below(model, depth, row)[0]
    return Lower(model, depth, found.__getitem__)


def taken(model, defense, lower=None, **settings):
    oracle = Oracle(model, lower=lower, **settings)
    step = defense.step(oracle, Batch(**ROLES, parts=defense.reads()))
    return step, oracle


CACHEABLE = {label: one for label, one in SETTINGS.items() if not reader_of_layers(one)}


@pytest.mark.parametrize("name", TINY)
def test_an_adapter_begins_at_its_first_layer(name):
    trained = {key for key, param in adapted(name).named_parameters() if param.requires_grad}
    assert trained
    assert all(".1." in key for key in trained)


@pytest.mark.parametrize("label", CACHEABLE)
def test_the_gradient_is_that_of_the_whole_model(label):
    model, defense = adapted("llama"), CACHEABLE[label]
    check_starts_at(model, 1)
    expected, _ = taken(model, defense, micro_batch_size=3)
    lower, ran = known(model, ROLES.values()), []
    with lower.skipped():
        handle = model.base_model.model.model.layers[0].mlp.register_forward_hook(lambda *_: ran.append(1))
        found, _ = taken(model, defense, lower, micro_batch_size=3)
    handle.remove()
    assert not ran
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)
    assert relative_difference(found.gradient.tensors(), expected.gradient.tensors()) < 1e-6


@pytest.mark.parametrize("layout", ["trie", "padded"])
@pytest.mark.parametrize("name", TINY)
def test_in_both_layouts_and_with_the_adapters_own_dropout(name, layout, monkeypatch):
    if layout == "padded":
        monkeypatch.setattr(core_oracle, "lay_out", lambda model, rows: padded(rows))
    model = adapted(name, lora_dropout=0.3)
    check_starts_at(model, 1)
    # Padding on the left, so that places in a row and depths differ.
    roles = {role: Rows.of(random_batch(seed=i, side="left", extra=2)) for i, role in enumerate(("align", "harmful"))}
    booster, batch = bs.Booster(lam=5, alpha=0.1), Batch(**roles)
    expected = booster.step(Oracle(model), batch)
    lower = known(model, roles.values())
    with lower.skipped():
        found = booster.step(Oracle(model, lower=lower), batch)
    tolerance = {"llama": 1e-6, "gpt2": 1e-10}[name]  # transformers' Llama has its norms in float32 at any dtype
    assert relative_difference(found.gradient.tensors(), expected.gradient.tensors()) < tolerance
    assert relative_difference([torch.tensor(found.loss)], [torch.tensor(expected.loss)]) < tolerance


def test_under_activation_checkpointing():
    model, booster = adapted("llama"), bs.Booster(lam=5, alpha=0.1)
    expected, _ = taken(model, booster)
    model.gradient_checkpointing_enable()
    lower = known(model, ROLES.values())
    with lower.skipped():
        found, _ = taken(model, booster, lower)
    assert relative_difference(found.gradient.tensors(), expected.gradient.tensors()) < 1e-6


def test_the_states_are_what_the_gradient_is_taken_with():
    # The tests above could not fail if the layers below ran after all.
    model = adapted("gpt2")
    lower = known(model, ROLES.values())
    right = lower.states
    lower.states = lambda tokens: 1.01 * right(tokens)
    with lower.skipped():
        found, _ = taken(model, bs.SFT(), lower)
    expected, _ = taken(model, bs.SFT())
    assert relative_difference(found.gradient.tensors(), expected.gradient.tensors()) > 1e-4


@pytest.mark.parametrize("name", TINY)
def test_the_model_is_as_before(name):
    model = adapted(name)
    rows, modes = ROLES["align"], [module.training for module in model.modules()]
    before = bs.defense_gradient(model, bs.SFT(), align=batch_of(other_answers(seed=1)))
    check_starts_at(model, 1)
    lower = known(model, [rows])
    with pytest.raises(ZeroDivisionError), lower.skipped():
        raise ZeroDivisionError
    after = bs.defense_gradient(model, bs.SFT(), align=batch_of(other_answers(seed=1)))
    assert before.loss == after.loss
    assert modes == [module.training for module in model.modules()]
    assert not any("forward" in vars(module) for module in model.modules())


def test_rows_that_were_not_announced_are_refused():
    model = adapted("llama")
    with known(model, ROLES.values()).skipped(), pytest.raises(ValueError, match="not announced"):
        Oracle(model).gradient(ROLES["align"])


def test_what_is_random_below_is_refused():
    with pytest.raises(ValueError, match=r"is 1, and .* has dropout below"):
        check_starts_at(adapted("gpt2", dropout=0.1), 1)


def test_what_is_trained_elsewhere_is_refused():
    model = adapted("llama")
    with pytest.raises(ValueError, match=r"is 2; expected fewer than this model's 2 layers"):
        check_starts_at(model, 2)
    model.get_output_embeddings().weight.requires_grad_()
    with pytest.raises(ValueError, match=r"lm_head.weight is trained"):
        check_starts_at(model, 1)
    with pytest.raises(ValueError, match="expected fewer than this model's 2 layers"):
        attach_lora(tiny_llama(), {"first_layer": 2})


def test_a_model_whose_layers_talk_past_each_other_is_refused():
    model, said = tiny_llama(std=0.2), {}
    for name, param in model.named_parameters():
        param.requires_grad = ".1." in name
    check_starts_at(model, 1)
    below, above = model.model.layers
    below.mlp.register_forward_hook(lambda _module, _args, out: said.update(out=out.mean()))
    above.mlp.register_forward_hook(lambda _module, _args, out: out + said["out"])
    with pytest.raises(ValueError, match="is 1; LlamaForCausalLM cannot be started in the middle"):
        check_starts_at(model, 1)


@pytest.mark.parametrize("build", [gemma2, mistral, bloom, mpt, gpt_neo], ids=lambda build: build.__name__)
def test_models_with_peculiarities_are_exact(build):
    # Scaled embeddings, a window of four tokens, ALiBi, masks by layer type.
    model = build(std=0.2)
    for name, param in model.named_parameters():
        param.requires_grad = ".1." in name
    check_starts_at(model, 1)
    roles = {"align": ROLES["align"], "harmful": ROLES["harmful"]}
    expected = bs.Booster(lam=5, alpha=0.1).step(Oracle(model), Batch(**roles))
    lower = known(model, roles.values())
    with lower.skipped():
        found = bs.Booster(lam=5, alpha=0.1).step(Oracle(model, lower=lower), Batch(**roles))
    assert relative_difference(found.gradient.tensors(), expected.gradient.tensors()) < 1e-4  # float32
