"""Models with peculiarities: soft-capped logits, windows, positions or masks that no one can set, recurrence."""

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MptConfig,
    MptForCausalLM,
    RecurrentGemmaConfig,
    RecurrentGemmaForCausalLM,
)

from batches import random_batch, relative_difference
from boostershot.core.batch import Rows
from boostershot.core.losses import lay_out, reads_tries
from boostershot.core.oracle import Oracle

SMALL = {"vocab_size": 128, "hidden_size": 32}
LAYERS = {
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
}


def gemma2(std: float = 0.2, softcap: float | None = 2.0):
    config = Gemma2Config(
        **SMALL,
        **LAYERS,
        final_logit_softcapping=softcap,
        attn_logit_softcapping=None,
        initializer_range=std,
        attn_implementation="eager",
    )
    return seeded(Gemma2ForCausalLM, config)


def mistral(std: float = 0.2, window: int | None = 4):
    return seeded(
        MistralForCausalLM,
        MistralConfig(**SMALL, **LAYERS, sliding_window=window, initializer_range=std),
    )


def bloom(std: float = 0.2):
    return seeded(BloomForCausalLM, BloomConfig(**SMALL, n_layer=2, n_head=4, initializer_range=std))


def mpt(std: float = 0.2):
    config = MptConfig(vocab_size=128, d_model=32, n_heads=4, n_layers=2, initializer_range=std)
    return seeded(MptForCausalLM, config)


def gpt_neo(std: float = 0.2, window: int = 20):
    config = GPTNeoConfig(
        **SMALL,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        window_size=window,
        initializer_range=std,
        bos_token_id=1,
        eos_token_id=2,
    )
    return seeded(GPTNeoForCausalLM, config)


def recurrent_gemma(std: float = 0.2):
    config = RecurrentGemmaConfig(
        **SMALL,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        lru_width=32,
        w_init_variance_scale=std,
    )
    return seeded(RecurrentGemmaForCausalLM, config)


def seeded(kind, config):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(config).eval()


def assert_agrees_with_the_plain_loss(model, side: str = "right") -> None:
    batch = random_batch(side=side)
    step = Oracle(model).gradient(Rows.of(batch))
    model.zero_grad()
    positions = {"position_ids": (batch["attention_mask"].cumsum(1) - 1).clamp_min(0)}
    if isinstance(model, (BloomForCausalLM, MptForCausalLM)):
        positions = {}  # ALiBi has none
    loss = model(**batch, **positions).loss
    loss.backward()
    assert step.loss == pytest.approx(loss.item(), rel=1e-5)
    # Booster divides by this gradient's norm; float32 sums in another order.
    assert relative_difference(step.gradient.tensors(), [p.grad for p in model.parameters()]) < 1e-4


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("build", [gemma2, mistral, bloom, mpt, gpt_neo])
def test_loss_and_gradient_are_those_of_the_model_itself(build, side):
    assert_agrees_with_the_plain_loss(build(), side)


def test_also_of_a_recurrent_model():
    # Padded on the right: on the left the padding would go through its state, in transformers as here.
    assert_agrees_with_the_plain_loss(recurrent_gemma())


@pytest.mark.parametrize("build", [gemma2, mistral, bloom, mpt, gpt_neo])
def test_also_with_the_small_weights_of_a_fresh_model(build):
    # Losses then hardly depend on the layout: a lenient trial would take a wrong one for right.
    assert_agrees_with_the_plain_loss(build(std=0.02))


def test_soft_capping_matters_here():
    # Without this the agreement above would hold for a loss that leaves the capping out.
    batch = Rows.of(random_batch())
    capped, free = Oracle(gemma2()).gradient(batch), Oracle(gemma2(softcap=None)).gradient(batch)
    assert abs(capped.loss - free.loss) > 0.01


def test_the_window_matters_here_and_rows_longer_than_it_are_padded():
    short, windowed = Rows.of(random_batch()), mistral()
    assert short.longest() > 4
    free = mistral(window=None)
    assert abs(Oracle(windowed).gradient(short).loss - Oracle(free).gradient(short).loss) > 0.01
    assert lay_out(windowed, short).inputs["attention_mask"].dim() == 2
    assert lay_out(mistral(window=64), short).inputs["attention_mask"].dim() == 4
    assert lay_out(free, short).inputs["attention_mask"].dim() == 4


def test_a_window_that_counts_places_in_the_sequence_bounds_the_trie_and_not_the_rows():
    model, rows = gpt_neo(window=20), Rows.of(random_batch())
    assert rows.longest() < 20
    assert reads_tries(model)
    assert lay_out(model, rows).inputs["attention_mask"].dim() == 2
    assert lay_out(model, rows.split(1)[0]).inputs["attention_mask"].dim() == 4


@pytest.mark.parametrize("build", [bloom, mpt, recurrent_gemma])
@pytest.mark.parametrize("std", [0.2, 0.02])
def test_models_that_ignore_positions_or_masks_get_padded_rows(build, std):
    model = build(std)
    assert not reads_tries(model)
    assert lay_out(model, Rows.of(random_batch())).inputs["attention_mask"].dim() == 2
