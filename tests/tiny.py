"""Tiny random models, a tokenizer trained on the fly and harmless rows: what tests use in place of a real model."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINGS = ("a kite", "the moon", "green tea", "a bicycle", "wild honey", "an old clock", "the tide", "a paper boat")


def tiny_llama(
    vocab: int = 128, dtype: torch.dtype = torch.float32, seed: int = 0, std: float = 0.02
) -> LlamaForCausalLM:
    """A Llama of two layers with grouped-query attention, random weights; at std 0.2 every part of it matters."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=std,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    return LlamaForCausalLM(config).to(dtype)


def tiny_gpt2(
    vocab: int = 128,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    dropout: float = 0.0,
    std: float = 0.02,
) -> GPT2LMHeadModel:
    """A GPT-2 of two layers, random weights; it has what Llama lacks: dropout, biases, learnt positions."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=vocab,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=512,
        initializer_range=std,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        bos_token_id=None,
        eos_token_id=None,
    )
    return GPT2LMHeadModel(config).to(dtype)


def tiny_tokenizer(chat: bool) -> PreTrainedTokenizerFast:
    """Byte-level, so that it reads any text; with ChatML, or with no chat template at all."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<pad>", "</s>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([row[key] for row in preference_rows(40) for key in ("prompt", "chosen")], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", eos_token="<|im_end|>" if chat else "</s>"
    )
    tokenizer.chat_template = CHATML if chat else None
    return tokenizer


def save_tiny_chat(folder, std: float = 0.2) -> None:
    """A Llama and its tokenizer with ChatML, as a user's local model."""
    tokenizer = tiny_tokenizer(chat=True)
    tiny_llama(vocab=len(tokenizer), std=std).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def preference_rows(n: int) -> list[dict[str, str]]:
    """n rows of prompt, chosen, rejected: harmless, distinct, of several lengths."""
    return [
        {
            "prompt": f"Tell me fact {i} about {THINGS[i % len(THINGS)]}" + "?" * (i % 3),
            "chosen": f"I would rather not talk about {THINGS[i % len(THINGS)]}.",
            "rejected": f"Sure, {THINGS[(3 * i + 1) % len(THINGS)]} and " + "more " * (i % 4) + f"number {i}.",
        }
        for i in range(n)
    ]
