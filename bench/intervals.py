"""How often intervals over seeds hold the truth: `python bench/intervals.py` simulates studies and prints a table.

A study asks S models (seeds) the same 150 prompts. A prompt is harder or easier for all, a seed better or worse on
all, and a verdict is a coin with the odds that they give together; a loss is their sum and a normal rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from boostershot.evaluation.statistics import hierarchical_bootstrap, mean_interval, mean_over_seeds, share_interval

PROMPTS, STUDIES, RESAMPLES = 150, 400, 10_000
SPREADS = (0.0, 0.3, 1.0)  # of seeds, in log odds or nats: of a share's, up to about 8 and 20 points
INTERVALS: dict[str, Callable[[Any], Any]] = {
    "bootstrap alone": lambda values: hierarchical_bootstrap(values.tolist(), resamples=RESAMPLES)[1:],
    "as reported": lambda values: (share_interval if values.max() > 50 else mean_over_seeds)(values.tolist())[1:],
    "t over seeds": lambda values: mean_interval(values.mean(1).tolist())[1:],
}


def main() -> None:
    """Print coverage and width, a row a setting."""
    draw = np.random.default_rng(0)
    print("| figure | spread of seeds | seeds | " + " | ".join(f"{name}: holds, width" for name in INTERVALS) + " |")
    print("|" + "---|" * (3 + len(INTERVALS)))
    for figure, study in (("share, %", _shares), ("loss, nats", _losses)):
        for spread in SPREADS:
            truth = np.mean([study(draw, spread, 200).mean() for _ in range(500)])
            for seeds in (2, 3, 5):
                studies = [study(draw, spread, seeds) for _ in range(STUDIES)]
                cells = [_cell(np.array([interval(one) for one in studies]), truth) for interval in INTERVALS.values()]
                print(f"| {figure} | {spread} | {seeds} | " + " | ".join(cells) + " |", flush=True)


def _cell(found: np.ndarray, truth: float) -> str:
    """How many of the intervals [study, bound] hold the truth, and their mean width."""
    holds = ((found[:, 0] <= truth) & (truth <= found[:, 1])).mean()
    return f"{100 * holds:.0f}%, {(found[:, 1] - found[:, 0]).mean():.2g}"


def _shares(draw: np.random.Generator, spread: float, seeds: int) -> np.ndarray:
    """Verdicts of 0 and 100, [seeds, prompts]."""
    odds = draw.normal(0, 1.5, PROMPTS)[None] + draw.normal(0, spread, seeds)[:, None] - 0.4
    return 100.0 * (draw.random((seeds, PROMPTS)) < 1 / (1 + np.exp(-odds)))


def _losses(draw: np.random.Generator, spread: float, seeds: int) -> np.ndarray:
    """In nats, [seeds, prompts]."""
    level = 2 + draw.normal(0, 0.5, PROMPTS)[None] + draw.normal(0, spread, seeds)[:, None]
    return level + draw.normal(0, 0.3, (seeds, PROMPTS))


if __name__ == "__main__":
    main()
