"""How an adversary fine-tunes, by the name that recipes use. Knows nothing of defences."""

from boostershot.attacks.finetune import AttackArguments, attack
from boostershot.attacks.harmful_mix import AttackRow, HarmfulMix

ATTACKS: dict[str, type[HarmfulMix]] = {
    "harmful-mix": HarmfulMix,
}

__all__ = ["ATTACKS", "AttackArguments", "AttackRow", "HarmfulMix", "attack"]
