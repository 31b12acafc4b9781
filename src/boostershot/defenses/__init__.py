"""The alignment-stage defences, by the name that recipes use."""

from boostershot.defenses.antibody import Antibody
from boostershot.defenses.booster import Booster, TargetReduction
from boostershot.defenses.ctrap import CTRAP
from boostershot.defenses.defense import Cost, Defense, Regularizer
from boostershot.defenses.gradient import GradientStep, defense_gradient
from boostershot.defenses.gradient_ascent import GradientAscent
from boostershot.defenses.lookahead import Lookahead
from boostershot.defenses.sam import SAM
from boostershot.defenses.sft import SFT
from boostershot.defenses.sum import Sum
from boostershot.defenses.t_vaccine import TVaccine
from boostershot.defenses.vaccine import Vaccine

DEFENSES: dict[str, type[Defense]] = {
    "sft": SFT,
    "booster": Booster,
    "vaccine": Vaccine,
    "t_vaccine": TVaccine,
    "lookahead": Lookahead,
    "sam": SAM,
    "gradient_ascent": GradientAscent,
    "ctrap": CTRAP,
    "antibody": Antibody,
    "sum": Sum,
}

__all__ = [
    "CTRAP",
    "DEFENSES",
    "SAM",
    "SFT",
    "Antibody",
    "Booster",
    "Cost",
    "Defense",
    "GradientAscent",
    "GradientStep",
    "Lookahead",
    "Regularizer",
    "Sum",
    "TVaccine",
    "TargetReduction",
    "Vaccine",
    "defense_gradient",
]
