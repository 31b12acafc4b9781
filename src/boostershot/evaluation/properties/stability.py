"""Stability: what immunisation costs a model that nobody attacks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from boostershot.evaluation.properties.resampling import Figure, aligned, estimate, percentage, points

_Z = 1.959964  # of a normal interval of 95%


@dataclass(frozen=True)
class Capability:
    """One model's answers that have nothing to do with harm.

    `correct` is 0 or 100 a task row (empty where the task has no scorer), `texts` the nats and tokens of each text,
    `refused` 0 or 100 a safe prompt, `benchmarks` task -> metric -> (value, standard error) as lm-eval tells them.
    """

    correct: Mapping[str, float]
    texts: Mapping[str, tuple[float, int]]
    refused: Mapping[str, float]
    benchmarks: Mapping[str, Mapping[str, tuple[float, float | None]]]


def stability(before: Capability, after: Mapping[str, Sequence[Capability]]) -> dict[str, Any]:
    """Each figure of the base model, and for each defence that of the immunised models and the change.

    Args:
        before: the base model.
        after: defence -> the immunised model of each seed.
    """
    return {
        "before": {
            "accuracy": percentage([before.correct]),
            "perplexity": _perplexity([before.texts]),
            "over_refusal": percentage([before.refused]),
            "benchmarks": _benchmarks([before]),
        },
        "defenses": [
            {
                "defense": label,
                "seeds": len(models),
                "accuracy": percentage([model.correct for model in models]),
                "accuracy_change": _change(before.correct, [model.correct for model in models]),
                "perplexity": _perplexity([model.texts for model in models]),
                "perplexity_ratio": _ratio(before.texts, [model.texts for model in models]),
                "over_refusal": percentage([model.refused for model in models]),
                "over_refusal_change": _change(before.refused, [model.refused for model in models]),
                "benchmarks": _benchmarks(models),
            }
            for label, models in after.items()
            if models
        ],
    }


def perplexity_of(texts: Mapping[str, tuple[float, int]]) -> float:
    """exp of the nats a token over all texts together."""
    return math.exp(math.fsum(nats for nats, _ in texts.values()) / sum(tokens for _, tokens in texts.values()))


def _change(before: Mapping[str, float], by_seed: Sequence[Mapping[str, float]]) -> Figure | None:
    """After less before, on the same rows."""
    if not before or not all(by_seed):
        return None
    keys = aligned(before, *by_seed)
    return points([[rows[key] for key in keys] for rows in by_seed], [[before[key] for key in keys]] * len(by_seed))


def _perplexity(by_seed: Sequence[Mapping[str, tuple[float, int]]]) -> Figure | None:
    if not all(by_seed):
        return None
    return estimate([np.array(list(texts.values()), dtype=float) for texts in by_seed], lambda m: math.exp(m[0] / m[1]))


def _ratio(
    before: Mapping[str, tuple[float, int]], by_seed: Sequence[Mapping[str, tuple[float, int]]]
) -> Figure | None:
    """Perplexity after over perplexity before, on the same texts."""
    if not before or not all(by_seed):
        return None
    paired = [
        np.array([[*texts[key], *before[key]] for key in aligned(before, texts)], dtype=float) for texts in by_seed
    ]
    return estimate(paired, lambda m: math.exp(m[0] / m[1] - m[2] / m[3]))


def _benchmarks(models: Sequence[Capability]) -> dict[str, dict[str, Figure]]:
    """Task -> metric -> mean over seeds, with the interval of lm-eval's own standard error (rows, not seeds)."""
    found: dict[str, dict[str, Figure]] = {}
    for task, metrics in models[0].benchmarks.items():
        for metric in metrics:
            values = [v for model in models if (v := model.benchmarks.get(task, {}).get(metric)) is not None]
            if len(values) < len(models):
                continue
            mean = float(np.mean([value for value, _ in values]))
            errors = [error for _, error in values if error is not None]
            half = _Z * float(np.mean(errors)) if len(errors) == len(values) else None
            ci = None if half is None else [mean - half, mean + half]
            found.setdefault(task, {})[metric] = {"mean": mean, "ci": ci}
    return found
