"""Losses read at every depth and outputs of inner blocks, against transformers' own hidden states."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PhiConfig,
    PhiForCausalLM,
)

import boostershot.core.losses
import naive_hidden
from batches import random_batch, relative_difference
from boostershot.core.batch import Rows, padded, trie
from boostershot.core.blocks import decoder_layers, mlp_blocks
from boostershot.core.hidden import lens_losses, outputs_at
from boostershot.core.losses import token_losses
from boostershot.core.oracle import Oracle
from tiny import tiny_gpt2, tiny_llama

BATCH = random_batch(seed=1)
# GPT-2 computes in float64 throughout; transformers' Llama has its norms and rotations in float32 at any dtype.
MODELS = {"gpt2": (tiny_gpt2, "transformer.ln_f", 1e-10), "llama": (tiny_llama, "model.norm", 1e-6)}


LAYERS = {"intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8}


def seeded(kind, config, **values):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(config(vocab_size=128, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, **values)).eval()


def opt(norm_before: bool = True, width: int = 32):
    return seeded(OPTForCausalLM, OPTConfig, ffn_dim=48, word_embed_proj_dim=width, do_layer_norm_before=norm_before)


OTHERS = {
    "bloom": (lambda: seeded(BloomForCausalLM, BloomConfig), "transformer.ln_f"),  # norms its embeddings too
    "opt": (opt, "model.decoder.final_layer_norm"),  # registered before the layers
    "phi": (lambda: seeded(PhiForCausalLM, PhiConfig, **LAYERS), "model.final_layernorm"),
    "gemma2": (lambda: seeded(Gemma2ForCausalLM, Gemma2Config, **LAYERS), "model.norm"),  # soft-caps its logits
}


@pytest.fixture(params=["trie", "padded"])
def layout(request, monkeypatch):
    monkeypatch.setattr(boostershot.core.losses, "reads_tries", lambda _: request.param == "trie")


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [None, 3])
@pytest.mark.usefixtures("layout")
def test_the_loss_at_all_depths_and_its_gradient(name, size):
    build, norm, tolerance = MODELS[name]
    model = build(dtype=torch.float64, std=0.2)
    value, expected = naive_hidden.gradient(model, lambda copy: naive_hidden.lens_loss(copy, BATCH, norm))
    step = Oracle(model, micro_batch_size=size).gradient(Rows.of(BATCH), lens_losses)
    assert step.loss == pytest.approx(value, rel=tolerance)
    assert relative_difference(step.gradient.tensors(), list(expected.values())) < tolerance


def test_also_through_an_adapter_on_norm_and_head():
    config = LoraConfig(
        r=4, target_modules=["q_proj", "lm_head"], modules_to_save=["model.norm"], init_lora_weights=False
    )
    model = get_peft_model(tiny_llama(dtype=torch.float64, std=0.2), config).to(torch.float64)
    value, expected = naive_hidden.gradient(
        model, lambda copy: naive_hidden.lens_loss(copy, BATCH, "base_model.model.model.norm")
    )
    step = Oracle(model).gradient(Rows.of(BATCH), lens_losses)
    assert step.loss == pytest.approx(value, rel=1e-6)
    assert relative_difference(step.gradient.tensors(), list(expected.values())) < 1e-6


def test_the_depths_differ():
    # Else the agreement above would hold for a loss that looks at one of them.
    model, rows = tiny_gpt2(std=0.2), Rows.of(BATCH)
    assert abs(Oracle(model).loss(rows, lens_losses) - Oracle(model).loss(rows)) > 0.05


@pytest.mark.parametrize("name", OTHERS)
def test_the_final_norm_is_found_by_what_runs_after_the_last_layer(name):
    build, norm = OTHERS[name]
    model = build()
    value, _ = naive_hidden.gradient(model, lambda copy: naive_hidden.lens_loss(copy, BATCH, norm))
    assert Oracle(model).loss(Rows.of(BATCH), lens_losses) == pytest.approx(value, rel=1e-5)


def test_no_norm_or_a_projection_in_its_place_is_one_line():
    for model, found in ((opt(norm_before=False), "nothing"), (opt(norm_before=False, width=16), "Linear")):
        with pytest.raises(ValueError, match=rf"OPTForCausalLM has {found} between .* expected one norm") as caught:
            Oracle(model).gradient(Rows.of(BATCH), lens_losses)
        assert "\n" not in str(caught.value)


def test_activation_checkpointing_changes_nothing():
    model, rows = tiny_llama(std=0.2).train(), Rows.of(BATCH)

    def outputs_squared(model, layout):
        return outputs_at(model, mlp_blocks(model), layout).square().sum((1, 2))

    for loss in (lens_losses, outputs_squared):
        model.activation_checkpointing_disable()
        plain = Oracle(model).gradient(rows, loss)
        model.activation_checkpointing_enable()
        again = Oracle(model).gradient(rows, loss)
        assert relative_difference(again.gradient.tensors(), plain.gradient.tensors()) < 1e-6


def test_logits_are_kept_of_one_depth_only():
    vocab = 401  # no other size in this model
    model, rows = tiny_llama(vocab=vocab), padded(Rows.of(random_batch(vocab=vocab)))

    def kept(loss) -> int:
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t) or t, lambda t: t):
            loss(model, rows)
        return sum(t.numel() for t in sizes if t.dim() and t.shape[-1] == vocab)

    assert kept(lens_losses) == kept(token_losses) > 0


@pytest.mark.parametrize("name", MODELS)
def test_outputs_of_blocks_at_the_supervised_positions_in_order(name):
    model = MODELS[name][0](dtype=torch.float64, std=0.2)
    kinds = {".mlp": mlp_blocks(model), (".h.0", ".h.1", ".layers.0", ".layers.1"): decoder_layers(model)}
    for ending, modules in kinds.items():
        whole = naive_hidden.outputs(model, BATCH, ending)
        places = [(r, t) for r, ts in naive_hidden.places(BATCH) for t in ts]
        expected = torch.stack([torch.stack([out[r, t] for out in whole]) for r, t in places])
        for layout in (padded(Rows.of(BATCH)), trie(Rows.of(BATCH), torch.float64)):
            torch.testing.assert_close(outputs_at(model, modules, layout), expected, rtol=1e-5, atol=1e-6)


def test_a_block_that_does_not_run_is_an_error():
    model = tiny_gpt2()
    with pytest.raises(ValueError, match="GPT2LMHeadModel did not run all of its 1 blocks"):
        outputs_at(model, [torch.nn.Identity()], padded(Rows.of(BATCH)))


def test_an_exception_leaves_no_hook():
    model, layout = tiny_gpt2(), padded(Rows.of(BATCH))

    def fail(*_):
        raise KeyboardInterrupt

    def hooks() -> int:
        return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())

    model.transformer.ln_f.register_forward_hook(fail)
    before = hooks()
    for read in (lens_losses, lambda model, layout: outputs_at(model, mlp_blocks(model), layout)):
        with pytest.raises(KeyboardInterrupt):
            read(model, layout)
        assert hooks() == before
