"""What adversaries do, by the name that recipes use. Knows nothing of defences, and loads no torch."""

from boostershot.attacks.adaptive import Adaptive, Kick
from boostershot.attacks.anchor import Anchor
from boostershot.attacks.attack import Attack, AttackRow, Phase
from boostershot.attacks.benign_only import BenignOnly
from boostershot.attacks.grpo import Grpo, GrpoTask
from boostershot.attacks.harmful_mix import HarmfulMix
from boostershot.attacks.harmful_only import HarmfulOnly
from boostershot.attacks.moves import Moves, Perturbed

ATTACKS: dict[str, type[Attack]] = {
    kind.name: kind for kind in (HarmfulMix, HarmfulOnly, BenignOnly, Adaptive, Grpo, GrpoTask)
}

__all__ = [
    "ATTACKS",
    "Adaptive",
    "Anchor",
    "Attack",
    "AttackRow",
    "BenignOnly",
    "Grpo",
    "GrpoTask",
    "HarmfulMix",
    "HarmfulOnly",
    "Kick",
    "Moves",
    "Perturbed",
    "Phase",
]
