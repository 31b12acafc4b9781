"""The alignment-stage defences, by the name that recipes use."""

from boostershot.defenses.booster import Booster
from boostershot.defenses.defense import Defense
from boostershot.defenses.gradient import GradientStep, defense_gradient
from boostershot.defenses.sft import SFT

DEFENSES: dict[str, type[Defense]] = {
    "sft": SFT,
    "booster": Booster,
}

__all__ = ["DEFENSES", "SFT", "Booster", "Defense", "GradientStep", "defense_gradient"]
