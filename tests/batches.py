"""Padded batches from lists of tokens, and random rows of uneven lengths and label counts."""

from collections.abc import Sequence

import torch

Row = tuple[Sequence[int], Sequence[int]]  # tokens, labels


def batch_of(rows: Sequence[Row], side: str = "right", extra: int = 0) -> dict[str, torch.Tensor]:
    """input_ids, attention_mask and labels, with `extra` more columns of padding than the longest row needs."""
    width = max(len(tokens) for tokens, _ in rows) + extra
    columns: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "labels": []}
    for tokens, labels in rows:
        filled = {"input_ids": (tokens, 0), "attention_mask": ([1] * len(tokens), 0), "labels": (labels, -100)}
        for key, (values, fill) in filled.items():
            padding = [fill] * (width - len(tokens))
            columns[key].append([*padding, *values] if side == "left" else [*values, *padding])
    return {key: torch.tensor(values) for key, values in columns.items()}


def random_rows(n: int = 8, vocab: int = 128, seed: int = 0) -> list[Row]:
    """Rows with a common preamble, of 7 to 14 tokens, of which the last 1 to 11 are supervised."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=generator))

    rows: list[Row] = []
    for _ in range(n):
        tokens = [17, 18, 19] + [draw(3, vocab) for _ in range(draw(4, 12))]
        answer = draw(3, len(tokens))
        rows.append((tokens, [-100] * answer + tokens[answer:]))
    return rows


def other_answers(n: int = 8, vocab: int = 128, seed: int = 0) -> list[Row]:
    """The answers of `random_rows` to prompts that are the same for every seed."""
    prompts = [tokens[: labels.count(-100)] for tokens, labels in random_rows(n, vocab)]
    answers = [tokens[labels.count(-100) :] for tokens, labels in random_rows(n, vocab, seed)]
    return [([*p, *a], [-100] * len(p) + a) for p, a in zip(prompts, answers, strict=True)]


def random_batch(n: int = 8, vocab: int = 128, seed: int = 0, **padding) -> dict[str, torch.Tensor]:
    """`batch_of` over `random_rows`."""
    return batch_of(random_rows(n, vocab, seed), **padding)


def relative_difference(actual: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> float:
    """|actual - expected| / |expected| over all tensors jointly, in float64."""
    pairs = list(zip(actual, expected, strict=True))
    difference = sum(((a.double() - e.double()) ** 2).sum() for a, e in pairs)
    return float(torch.sqrt(torch.as_tensor(difference)) / torch.sqrt(sum(e.double().square().sum() for _, e in pairs)))
