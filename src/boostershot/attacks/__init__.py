"""What adversaries do, by the name that recipes use. Knows nothing of defences, and loads no torch."""

from boostershot.attacks.attack import Attack, AttackRow, Phase
from boostershot.attacks.benign_only import BenignOnly
from boostershot.attacks.grpo import Grpo, GrpoTask
from boostershot.attacks.harmful_mix import HarmfulMix
from boostershot.attacks.harmful_only import HarmfulOnly

ATTACKS: dict[str, type[Attack]] = {kind.name: kind for kind in (HarmfulMix, HarmfulOnly, BenignOnly, Grpo, GrpoTask)}

__all__ = ["ATTACKS", "Attack", "AttackRow", "BenignOnly", "Grpo", "GrpoTask", "HarmfulMix", "HarmfulOnly", "Phase"]
