"""LoX: low-rank extrapolation of an alignment (arXiv 2506.15606)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from boostershot.core.oracle import START, Oracle
from boostershot.defenses.about import About, HyperParameter
from boostershot.defenses.defense import Defense, check, check_count
from boostershot.defenses.finishing import Finishing
from boostershot.defenses.sft import SFT
from boostershot.defenses.update import bring_to_distance, distance_from_base, updates


@dataclass(frozen=True)
class LoX(Finishing):
    """W <- W_al + factor * P_k(W_al - W_base) for each matrix, P_k its k largest singular parts.

    Args:
        rank: k; all of them if not given.
        control: prolong all of the update instead, to the same distance |W - W_base| over all matrices together.
        align: the defence whose alignment is extrapolated.

    Raises:
        ValueError: the factor is negative or not finite, or the rank below 1; in `finish`, an adapter is not LoRA's.
    """

    factor: float = 1.25
    rank: int | None = 6
    control: bool = False
    align: Defense = SFT()

    about = About(
        title="low-rank extrapolation (LoX)",
        source="arXiv:2506.15606 (COLM 2025), and its public code",
        equation="the objective of align; then W = W_al + factor * P_rank(W_al - W_base), for each matrix",
        idea="The safe direction is gone further along, so that an attacker has further to come back.",
        follows="The published formula. With a LoRA adapter the update is scale * B * A (the base is the model without "
        "it), and what is extrapolated is again an adapter of its rank. Vectors (norms, biases) that were trained are "
        "matrices of one column. The control is this project's.",
        example={"align": {"method": "booster", "lam": 20, "alpha_per_weight": 2e-5}},
        hyper_parameters={
            "factor": HyperParameter(
                "how far beyond the alignment, in multiples of its update; 1.25 in the paper",
                "far beyond, the answers go to pieces",
            ),
            "rank": HyperParameter(
                "singular parts of each matrix that are extrapolated; 6 in the paper for a well aligned model, 3 for "
                "others; null is all",
                "with all of them the noise of the alignment is extrapolated too",
            ),
            "control": HyperParameter(
                "true: not LoX but what it is held against, the whole update prolonged to LoX's distance from the base",
                "it is no defence of anybody's",
            ),
            "align": HyperParameter("the defence that aligns first, such as {method: booster, ...}", "as its own"),
        },
        notes="It takes no training and makes the update longer, so what its direction adds is the difference to its "
        "control at an equal distance from the base (`bring_to_distance` scales any model to another's). In the paper "
        "its gain is gone at an attacker's learning rate of 1e-4.",
    )

    def __post_init__(self) -> None:
        check("lox", factor=self.factor)
        if self.rank is not None:
            check_count("lox", rank=self.rank)

    def finish(self, oracle: Oracle) -> None:
        """Extrapolate the aligned weights, in place."""
        base = {name.removeprefix(START): kept for name, kept in oracle.tensors.items() if name.startswith(START)}
        aligned = [param.detach().clone() for param in oracle.params] if self.control else []
        for update in updates(oracle.model, base):
            update.add(self.factor, self.rank)
        if self.control:
            wanted = distance_from_base(oracle.model, base)
            with torch.no_grad():
                for param, weights in zip(oracle.params, aligned, strict=True):
                    param.copy_(weights)
            bring_to_distance(oracle.model, base, wanted)
