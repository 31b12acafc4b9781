"""Trainability: does the immunised model still learn a benign task as fast as the base model?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from boostershot.evaluation.properties.resampling import aligned, crossing, estimate, percentage, points

Course = Sequence[Mapping[str, float]]  # for each step: task row id -> 0 or 100


def trainability(
    steps: Sequence[int], reference: Mapping[int, Course], arms: Mapping[str, Mapping[int, Course]], share: float
) -> dict[str, Any]:
    """Learning curves, and how long each model takes to `share` percent of the reference's final accuracy.

    Args:
        steps: at which the accuracy was measured.
        reference: seed -> the course of the base model.
        arms: defence -> seed -> the course of its immunised model, with the reference's rows; seeds are paired.
        share: percent of the reference's final accuracy.
    """
    target = share / 100
    alone = [_values(course) for course in reference.values()]
    return {
        "share": share,
        "within": steps[-1],
        "reference": {
            "seeds": len(alone),
            **_curve(steps, [rows[:, None] for rows in alone], 0),
            "steps_to_share": estimate(alone, lambda mean: crossing(steps, mean, target * mean[-1])),
        },
        "defenses": [
            {"defense": label, **_against(steps, reference, courses, target)}
            for label, courses in arms.items()
            if courses.keys() & reference.keys()
        ],
    }


def _against(
    steps: Sequence[int], reference: Mapping[int, Course], courses: Mapping[int, Course], target: float
) -> dict[str, Any]:
    seeds = sorted(courses.keys() & reference.keys())
    paired = [_paired(reference[seed], courses[seed]) for seed in seeds]

    def reached(mean: np.ndarray) -> tuple[float, float]:
        wanted = target * mean[0, -1]
        return crossing(steps, mean[0], wanted), crossing(steps, mean[1], wanted)

    def ratio(mean: np.ndarray) -> float:
        theirs, ours = reached(mean)
        return ours / theirs if 0 < theirs < math.inf else math.nan  # else the reference learnt nothing

    return {
        "seeds": len(seeds),
        **_curve(steps, paired, 1),
        "steps_to_share": estimate(paired, lambda mean: reached(mean)[1]),
        "ratio": estimate(paired, ratio),
        "final_difference": points(*([rows[:, arm, -1].tolist() for rows in paired] for arm in (1, 0))),
    }


def _curve(steps: Sequence[int], by_seed: Sequence[np.ndarray], arm: int) -> dict[str, Any]:
    return {
        "curve": [
            {"step": step, "accuracy": percentage([rows[:, arm, i].tolist() for rows in by_seed])}
            for i, step in enumerate(steps)
        ]
    }


def _values(course: Course) -> np.ndarray:
    """[rows, steps]."""
    return np.array([[at[key] for at in course] for key in aligned(*course)], dtype=float)


def _paired(reference: Course, course: Course) -> np.ndarray:
    """[rows, 2, steps]: the reference and the arm on the same rows."""
    keys = aligned(*reference, *course)
    return np.array([[[at[key] for at in side] for side in (reference, course)] for key in keys], dtype=float)
