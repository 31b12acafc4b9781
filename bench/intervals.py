"""How often intervals over seeds hold the truth: `python bench/intervals.py` simulates studies and prints a table.

A study asks S models (seeds) the same 150 prompts. A prompt is harder or easier for all, a seed better or worse on
all, and a verdict is a coin with the odds that they give together.
"""

from __future__ import annotations

import numpy as np

from boostershot.evaluation.statistics import hierarchical_bootstrap, mean_interval

PROMPTS, STUDIES, RESAMPLES = 150, 300, 2_000
SEED_SPREADS = (0.0, 0.12, 0.32)  # in log odds: up to about 8 points of a score
METHODS = ("seeds, then prompts for all", "seeds, then prompts in each", "t over seeds")


def main() -> None:
    """Print coverage and width, a row a setting."""
    draw = np.random.default_rng(0)
    print("| spread of seeds (log odds) | seeds | " + " | ".join(f"{m}: holds, width" for m in METHODS) + " |")
    print("|" + "---|" * (2 + len(METHODS)))
    for spread in SEED_SPREADS:
        truth = _chance(draw.normal(0, 1.5, 1_000_000), draw.normal(0, spread, 1_000_000)).mean()
        for seeds in (3, 5):
            found = np.array([_study(draw, spread, seeds) for _ in range(STUDIES)])  # study, method, bound
            holds = ((found[..., 0] <= truth) & (truth <= found[..., 1])).mean(0)
            width = (found[..., 1] - found[..., 0]).mean(0)
            cells = [f"{100 * h:.0f}%, {100 * w:.1f}" for h, w in zip(holds, width, strict=True)]
            print(f"| {spread} | {seeds} | " + " | ".join(cells) + " |")


def _study(draw: np.random.Generator, spread: float, seeds: int) -> list[tuple[float, float]]:
    """The three intervals of one simulated study."""
    chances = _chance(draw.normal(0, 1.5, PROMPTS)[None], draw.normal(0, spread, seeds)[:, None])
    verdicts = (draw.random((seeds, PROMPTS)) < chances).astype(float)
    nested = np.zeros(RESAMPLES)
    for _ in range(seeds):
        chosen = draw.integers(seeds, size=RESAMPLES)
        prompts = draw.integers(PROMPTS, size=(RESAMPLES, PROMPTS))
        nested += verdicts[chosen[:, None], prompts].mean(1) / seeds
    return [
        hierarchical_bootstrap(verdicts.tolist(), resamples=RESAMPLES)[1:],
        tuple(np.quantile(nested, [0.025, 0.975])),
        mean_interval(verdicts.mean(1).tolist())[1:],
    ]


def _chance(prompt: np.ndarray, seed: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(0.4 - prompt - seed))


if __name__ == "__main__":
    main()
