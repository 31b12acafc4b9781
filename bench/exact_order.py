"""How far first-order Booster is from exact: the relative error of the regulariser's gradient against alpha.

    python bench/exact_order.py            a random GPT-2 of two layers, float64; writes docs/exact-order.md
    python bench/exact_order.py MODEL      the same for a model (a Hub id, a folder, smollm2-135m-instruct), float32

The bracket h(w) - h(w - alpha * u), u = unit(g), has the gradient g - g' + alpha * D g', g' the harmful gradient after
the step and D = H (I - u u') / |g| the derivative of u, transposed. First order drops the last term. D takes out what
lies along u, and g' is g up to O(alpha), so the term is O(alpha^2), where g - g' is O(alpha): the relative error halves
with alpha.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

import boostershot as bs

PER_WEIGHT = (8e-5, 4e-5, 2e-5, 1e-5, 5e-6)
ALPHAS = (0.02, 0.01, 0.005, 0.0025, 0.00125)


def random_gpt2() -> nn.Module:
    """Two layers, float64."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=128, n_embd=32, n_layer=2, n_head=4, n_positions=64, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
    )
    return GPT2LMHeadModel(config).double()


def random_rows(vocab: int, seed: int) -> dict[str, Tensor]:
    """Eight rows of random tokens, the second half supervised."""
    ids = torch.randint(3, vocab, (8, 16), generator=torch.Generator().manual_seed(seed))
    labels = ids.clone()
    labels[:, :8] = -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def relative_errors(model: nn.Module, rows: Mapping[str, Mapping[str, Tensor]], lengths: Mapping[str, float]) -> float:
    """|first - exact| / |exact| of the bracket's gradient."""
    sft = bs.defense_gradient(model, bs.SFT(), **rows).gradient
    first, exact = (
        bs.defense_gradient(model, bs.Booster(lam=1, order=order, **lengths), **rows).gradient
        for order in ("first", "exact")
    )
    difference = sum(torch.sum((first[k].double() - exact[k].double()) ** 2) for k in sft)
    bracket = sum(torch.sum((exact[k].double() - sft[k].double()) ** 2) for k in sft)
    return float((difference / bracket) ** 0.5)


def lines(name: str, model: nn.Module, rows: Mapping[str, Mapping[str, Tensor]], key: str, lengths: tuple) -> list[str]:
    """The table of one model."""
    found = [relative_errors(model, rows, {key: length}) for length in lengths]
    ratios = ["", *(f"{b / a:.2f}" for a, b in pairwise(found))]
    table = [f"{name}:", "", f"| {key} | relative error | ratio |", "|---|---|---|"]
    return [*table, *(f"| {a:g} | {e:.2%} | {r} |" for a, e, r in zip(lengths, found, ratios, strict=True)), ""]


def main() -> None:
    """Print, and write the page for the random model."""
    if len(sys.argv) > 1:
        model, _ = bs.load_base(sys.argv[1])
        rows = {role: random_rows(4000, seed) for seed, role in enumerate(("align", "harmful"))}
        print("\n".join(lines(sys.argv[1], model, rows, "alpha_per_weight", PER_WEIGHT)))
        return
    model = random_gpt2()
    rows = {role: random_rows(128, seed) for seed, role in enumerate(("align", "harmful"))}
    theory = (__doc__ or "").split("\n\n")[2].strip()
    page = ["# First order against exact", "", "`python bench/exact_order.py`", "", theory, ""]
    page += lines("A random GPT-2 of two layers in float64", model, rows, "alpha", ALPHAS)
    (Path(__file__).parents[1] / "docs" / "exact-order.md").write_text("\n".join(page), encoding="utf-8")
    print("\n".join(page))


if __name__ == "__main__":
    main()
