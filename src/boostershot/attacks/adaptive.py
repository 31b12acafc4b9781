"""An attacker who knows that the model was immunised, and how. Our own, and nobody's published attack."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from boostershot.attacks.attack import AttackRow, Phase
from boostershot.attacks.harmful_mix import HarmfulMix
from boostershot.attacks.moves import Moves, Perturbed


@dataclass(frozen=True)
class Kick:
    """Out of the flat region first, then the attack with an optimiser that starts anew.

    Args:
        share: of the attack's steps, that the kick takes; none where it is noise alone.
        lr_factor: times the attack's learning rate, constant.
        momentum: of the optimiser during the kick.
        noise: the length of one random step before the first, relative to the trained weights together.

    Raises:
        ValueError: a value is out of range, or none of the three changes anything.
    """

    share: float = 0.2
    lr_factor: float = 1.0
    momentum: float | None = None
    noise: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"share is {self.share}; expected a number above 0 and below 1")
        if not (math.isfinite(self.lr_factor) and self.lr_factor > 0):
            raise ValueError(f"lr_factor is {self.lr_factor}; expected a finite number above 0")
        if self.momentum is not None and not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}; expected 0 to below 1")
        if not (math.isfinite(self.noise) and self.noise >= 0):
            raise ValueError(f"noise is {self.noise}; expected a finite number, 0 or more")
        if not (self.takes_steps or self.noise):
            raise ValueError("nothing changes; expected lr_factor, momentum or noise")

    @property
    def takes_steps(self) -> bool:
        """Is it more than one random step?"""
        return self.lr_factor != 1 or self.momentum is not None


@dataclass(frozen=True)
class Adaptive(HarmfulMix):
    """harmful-mix with moves against a defence, each of which is a switch.

    The moves are this project's own. arXiv 2605.14605 reports an adaptive attack whose equations are not known here;
    this is no reproduction of it.

    Args:
        p: the harmful ratio.
        n: the number of rows.
        perturbed: {gradients: 4, radius: 0.01}: so many gradient steps on each batch from perturbed points, of that
            length relative to the trained weights; the optimiser gets the mean of the gradients.
        kick: {share: 0.2, lr_factor: 1, momentum: null, noise: 0}: that share of the steps first at lr_factor times the
            learning rate or with another momentum, or one random step of relative length noise; then a new optimiser.
        opposed: the defence's own term with the opposite sign, its gradient this share of h's in length, below 1;
            0 leaves it out. Against a defence that has no term (SFT) it changes nothing.

    Raises:
        ValueError: a value is out of range, or `opposed` is asked for without harmful rows, which the terms are of.
    """

    perturbed: Perturbed | None = None
    kick: Kick | None = None
    opposed: float = 0.0
    name = "adaptive"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.opposed < 1:
            raise ValueError(f"opposed is {self.opposed:g}; expected 0 to below 1, where h still falls")
        if self.opposed and not self.n_harmful:
            raise ValueError(f"opposed is {self.opposed:g}, and no row is harmful; expected a larger p or n")

    @property
    def passes(self) -> float:
        """One, or as many as it takes gradients; those of an opposed term come on top."""
        return self.perturbed.gradients if self.perturbed else 1

    @property
    def prelude(self) -> float:
        """Those of the kick."""
        return self.kick.share if self.kick and self.kick.takes_steps else 0.0

    def phases(self, pool: Sequence[AttackRow], seed: int) -> list[Phase]:
        """The mix; with a kick that takes steps, in two phases on the same rows."""
        (mix,) = super().phases(pool, seed)
        always = Moves(perturbed=self.perturbed, opposed=self.opposed)
        kick = self.kick
        if kick is None:
            return [replace(mix, moves=always)]
        if not kick.takes_steps:
            return [replace(mix, moves=replace(always, noise=kick.noise))]
        first = replace(always, lr_factor=kick.lr_factor, momentum=kick.momentum, noise=kick.noise, constant=True)
        return [Phase(mix.rows, kick.share, first), Phase(mix.rows, 1 - kick.share, always)]
