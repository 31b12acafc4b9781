"""What adversaries do, by the name that recipes use. Knows nothing of defences, and loads no torch."""

from boostershot.attacks.ablation import Ablation
from boostershot.attacks.attack import Attack, AttackRow, Phase
from boostershot.attacks.benign_only import BenignOnly
from boostershot.attacks.harmful_mix import HarmfulMix
from boostershot.attacks.harmful_only import HarmfulOnly
from boostershot.attacks.outlier_benign import OutlierBenign
from boostershot.attacks.ten_rows import TenRows

ATTACKS: dict[str, type[Attack]] = {
    kind.name: kind for kind in (HarmfulMix, HarmfulOnly, BenignOnly, OutlierBenign, TenRows, Ablation)
}

__all__ = [
    "ATTACKS",
    "Ablation",
    "Attack",
    "AttackRow",
    "BenignOnly",
    "HarmfulMix",
    "HarmfulOnly",
    "OutlierBenign",
    "Phase",
    "TenRows",
]
