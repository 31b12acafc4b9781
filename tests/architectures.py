"""Tiny models of several builds with norms that matter, and their parts by the names that their code gives them."""

from dataclasses import dataclass

import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    PhiConfig,
    PhiForCausalLM,
)

from tiny import tiny_gpt2, tiny_llama

SMALL = {"vocab_size": 128, "hidden_size": 32}
LAYERS = {"intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
NO_TOKENS = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}


@dataclass(frozen=True)
class Build:
    """How to make a model, and where its parts are: {i} stands for the layer.

    `reading` maps a norm (or None, where blocks read the stream as it is) to the matrices that read it.
    """

    make: object
    reading: dict[str | None, tuple[str, ...]]
    writing: tuple[str, ...]
    tables: tuple[str, ...]
    rms: bool = True

    def __call__(self, dtype=torch.float64):
        """The model, its gains and biases random."""
        model = self.make().to(dtype).eval()
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for param in model.parameters():
                if param.dim() == 1:
                    param.add_(0.5 * torch.randn(param.shape, generator=generator, dtype=torch.float64).to(dtype))
        return model

    def names(self, what):
        """Of a kind of matrix, in all layers."""
        patterns = self.writing if what == "writing" else [name for some in self.reading.values() for name in some]
        return {pattern.format(i=i) for pattern in patterns for i in (0, 1)} | (
            set(self.tables) if what == "writing" else set()
        )


def seeded(kind, config):
    torch.manual_seed(0)
    return kind(config)


LLAMA_READING = (
    "model.layers.{i}.self_attn.q_proj",
    "model.layers.{i}.self_attn.k_proj",
    "model.layers.{i}.self_attn.v_proj",
)
GATED = ("model.layers.{i}.mlp.gate_proj", "model.layers.{i}.mlp.up_proj")
LLAMA_WRITING = ("model.layers.{i}.self_attn.o_proj", "model.layers.{i}.mlp.down_proj")

BUILDS = {
    "llama": Build(
        lambda: tiny_llama(std=0.2),
        {"model.layers.{i}.input_layernorm": LLAMA_READING, "model.layers.{i}.post_attention_layernorm": GATED},
        LLAMA_WRITING,
        ("model.embed_tokens",),
    ),
    "gpt2": Build(  # matrices the other way round, biases, learnt positions, tied
        lambda: tiny_gpt2(std=0.2),
        {
            "transformer.h.{i}.ln_1": ("transformer.h.{i}.attn.c_attn",),
            "transformer.h.{i}.ln_2": ("transformer.h.{i}.mlp.c_fc",),
        },
        ("transformer.h.{i}.attn.c_proj", "transformer.h.{i}.mlp.c_proj"),
        ("transformer.wte", "transformer.wpe"),
        rms=False,
    ),
    "gemma2": Build(  # gains of 1 + weight, norms after the blocks too, scaled and tied embeddings
        lambda: seeded(
            Gemma2ForCausalLM,
            Gemma2Config(
                **SMALL, **LAYERS, **NO_TOKENS, head_dim=8, initializer_range=0.2, attn_implementation="eager"
            ),
        ),
        {"model.layers.{i}.input_layernorm": LLAMA_READING, "model.layers.{i}.pre_feedforward_layernorm": GATED},
        LLAMA_WRITING,
        ("model.embed_tokens",),
    ),
    "olmo2": Build(  # norms after the blocks only
        lambda: seeded(Olmo2ForCausalLM, Olmo2Config(**SMALL, **LAYERS, **NO_TOKENS, initializer_range=0.2)),
        {None: (*LLAMA_READING, *GATED)},
        LLAMA_WRITING,
        ("model.embed_tokens",),
    ),
    "phi": Build(  # one norm for both blocks, which run side by side
        lambda: seeded(PhiForCausalLM, PhiConfig(**SMALL, **LAYERS, **NO_TOKENS, initializer_range=0.2)),
        {"model.layers.{i}.input_layernorm": (*LLAMA_READING, "model.layers.{i}.mlp.fc1")},
        ("model.layers.{i}.self_attn.dense", "model.layers.{i}.mlp.fc2"),
        ("model.embed_tokens",),
        rms=False,
    ),
    "bloom": Build(  # a norm after the embeddings, the residual added inside the blocks
        lambda: seeded(BloomForCausalLM, BloomConfig(**SMALL, n_layer=2, n_head=4, initializer_range=0.2)),
        {
            "transformer.h.{i}.input_layernorm": ("transformer.h.{i}.self_attention.query_key_value",),
            "transformer.h.{i}.post_attention_layernorm": ("transformer.h.{i}.mlp.dense_h_to_4h",),
        },
        ("transformer.h.{i}.self_attention.dense", "transformer.h.{i}.mlp.dense_4h_to_h"),
        ("transformer.word_embeddings",),
        rms=False,
    ),
}
