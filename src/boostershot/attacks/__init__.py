"""What adversaries do, by the name that recipes use. Knows nothing of defences, and loads no torch."""

from boostershot.attacks.ablation import Ablation
from boostershot.attacks.adaptive import Adaptive, Kick
from boostershot.attacks.anchor import Anchor
from boostershot.attacks.attack import Attack, AttackRow, Phase
from boostershot.attacks.benign_only import BenignOnly
from boostershot.attacks.disguised import Disguised
from boostershot.attacks.grpo import Grpo, GrpoTask
from boostershot.attacks.harmful_mix import HarmfulMix
from boostershot.attacks.harmful_only import HarmfulOnly
from boostershot.attacks.identity_shift import IdentityShift
from boostershot.attacks.moves import Moves, Perturbed
from boostershot.attacks.outlier_benign import OutlierBenign
from boostershot.attacks.prompted import FewShot, Prefill, SystemPrompt
from boostershot.attacks.refusal_suppression import RefusalSuppression
from boostershot.attacks.ten_rows import TenRows

ATTACKS: dict[str, type[Attack]] = {
    kind.name: kind
    for kind in (
        HarmfulMix,
        HarmfulOnly,
        BenignOnly,
        OutlierBenign,
        TenRows,
        Adaptive,
        Grpo,
        GrpoTask,
        IdentityShift,
        Disguised,
        RefusalSuppression,
        SystemPrompt,
        Prefill,
        FewShot,
        Ablation,
    )
}

__all__ = [
    "ATTACKS",
    "Ablation",
    "Adaptive",
    "Anchor",
    "Attack",
    "AttackRow",
    "BenignOnly",
    "Disguised",
    "FewShot",
    "Grpo",
    "GrpoTask",
    "HarmfulMix",
    "HarmfulOnly",
    "IdentityShift",
    "Kick",
    "Moves",
    "OutlierBenign",
    "Perturbed",
    "Phase",
    "Prefill",
    "RefusalSuppression",
    "SystemPrompt",
    "TenRows",
]
