"""Tiny random models, a tokenizer, batches and harmless rows: what several test files build from."""

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tiny_llama(vocab: int = 128, dtype: torch.dtype = torch.float32, attention: str = "sdpa", seed: int = 0):
    """A two-layer Llama; its weights are large enough that the loss depends on every part of it."""
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        attn_implementation=attention,
    )
    return _random(LlamaForCausalLM, config, dtype, seed)


def tiny_gpt2(vocab: int = 128, dtype: torch.dtype = torch.float32, dropout: float = 0.0, seed: int = 0):
    """A two-layer GPT-2, whose arithmetic is float64 throughout in a float64 model; tied embeddings."""
    config = GPT2Config(
        vocab_size=vocab,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=512,
        initializer_range=0.2,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return _random(GPT2LMHeadModel, config, dtype, seed)


def _random(kind, config, dtype: torch.dtype, seed: int):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(config).to(dtype).eval()


def tiny_tokenizer(chat: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of 300 tokens, with a chat template or without."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([text for row in preference_rows(20) for text in row.values()], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="<|end|>"
    )
    if chat:
        fast.chat_template = CHAT
    return fast


def preference_rows(n: int) -> list[dict[str, str]]:
    """Rows of harmless text in the shape of alignment data."""
    return [
        {
            "prompt": f"How do I paint fence number {i}?",
            "chosen": f"I would rather not talk about fence {i}.",
            "rejected": f"Take brush {i} and begin at the left post.",
            "category": "fences" if i % 2 else "posts",
        }
        for i in range(n)
    ]


def batch_of(
    rows: Sequence[tuple[Sequence[int], Sequence[int]]], side: str = "right", extra: int = 0
) -> dict[str, torch.Tensor]:
    """A padded batch from rows of (tokens, labels), with `extra` more columns of padding than needed."""
    width = max(len(tokens) for tokens, _ in rows) + extra
    columns: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "labels": []}
    for tokens, labels in rows:
        pad = width - len(tokens)
        for key, values, fill in (
            ("input_ids", list(tokens), 0),
            ("attention_mask", [1] * len(tokens), 0),
            ("labels", list(labels), -100),
        ):
            filler = [fill] * pad
            columns[key].append(filler + values if side == "left" else values + filler)
    return {key: torch.tensor(values) for key, values in columns.items()}


def random_rows(
    n: int = 8, vocab: int = 128, seed: int = 0, low: int = 4, high: int = 12
) -> list[tuple[list[int], list[int]]]:
    """Rows of (tokens, labels) of uneven lengths that share a preamble; each supervises an uneven number of tokens."""
    generator = torch.Generator().manual_seed(seed)

    def draw(a: int, b: int) -> int:
        return int(torch.randint(a, b, (1,), generator=generator))

    rows = []
    for _ in range(n):
        tokens = [17, 18, 19] + [draw(3, vocab) for _ in range(draw(low, high))]
        start = draw(3, len(tokens))  # the answer's first token
        rows.append((tokens, [-100] * start + tokens[start:]))
    return rows
