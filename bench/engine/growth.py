"""How a step's time and memory grow with batch, length, trainable weights and vocabulary, on small random models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import linear_regression, median
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import boostershot as bs
from boostershot.core.batch import Rows
from boostershot.core.oracle import Oracle
from boostershot.core.step import Batch
from boostershot.pipeline.footprint import LiveBytes
from boostershot.training.arguments import attach_lora
from engine.timing import interleaved

BOOSTER = bs.Booster(lam=5, alpha=0.1)


@dataclass(frozen=True)
class Shape:
    """A random Llama and the rows of a step; rows share no prefix, and all tokens but the first are supervised."""

    batch: int = 8
    length: int = 32
    rank: int | None = 16  # None trains all weights
    vocabulary: int = 4096
    width: int = 256
    layers: int = 4

    def model(self) -> Any:
        """With random weights."""
        torch.manual_seed(0)
        config = LlamaConfig(
            hidden_size=self.width,
            intermediate_size=4 * self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=4,
            vocab_size=self.vocabulary,
        )
        model = LlamaForCausalLM(config)
        lora = {"rank": self.rank, "alpha": self.rank}
        return (model if self.rank is None else attach_lora(model, lora)).train()

    def rows(self) -> Rows:
        """Random tokens."""
        draw = torch.Generator().manual_seed(0)
        ids = torch.randint(10, self.vocabulary, (self.batch, self.length), generator=draw)
        ids[:, 0] = torch.arange(self.batch)
        return Rows.of({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids})


AXES: dict[str, Sequence[Shape]] = {
    "batch": [Shape(batch=n) for n in (2, 4, 8, 16, 32, 64)],
    "length": [Shape(length=n) for n in (8, 16, 32, 64, 128, 256)],
    "trainable weights": [Shape(rank=n) for n in (4, 8, 16, 32, 64, 128)],
    "vocabulary": [Shape(vocabulary=n) for n in (1024, 2048, 4096, 8192, 16384, 32768)],
}


def small(axes: Mapping[str, Sequence[Shape]]) -> dict[str, Sequence[Shape]]:
    """The same over the lower half of each axis and a smaller model, to see that it works."""
    return {axis: [replace(shape, width=32, layers=1) for shape in shapes[:3]] for axis, shapes in axes.items()}


def growth(repeats: int, axes: Mapping[str, Sequence[Shape]] = AXES) -> dict[str, Any]:
    """For each axis its points, and the exponents over the upper half of its range."""
    found = {}
    for axis, shapes in axes.items():
        steps = [_step(shape) for shape in shapes]
        seconds = interleaved({str(i): step for i, (step, _) in enumerate(steps)}, repeats)
        points = []
        for i, (step, weights) in enumerate(steps):
            with LiveBytes() as spy:
                step(0)
            at = {"batch": shapes[i].batch, "length": shapes[i].length, "vocabulary": shapes[i].vocabulary}
            points.append({"at": at.get(axis, weights), "seconds": median(seconds[str(i)]), "bytes": spy.peak()})
        upper = points[len(points) // 2 - 1 :]
        exponents = {key: exponent([(p["at"], p[key]) for p in upper]) for key in ("seconds", "bytes")}
        found[axis] = {"points": points, "exponents": exponents}
    return found


def exponent(points: Sequence[tuple[float, float]]) -> float:
    """k of y = c x^k, by least squares of the logarithms."""
    return linear_regression([math.log(x) for x, _ in points], [math.log(y) for _, y in points]).slope


def _step(shape: Shape) -> tuple[Any, int]:
    model, rows = shape.model(), shape.rows()
    batch = Batch(align=rows, harmful=rows)

    def step(_repeat: int) -> None:
        BOOSTER.step(Oracle(model), batch)

    return step, Oracle(model).trainable_weights
