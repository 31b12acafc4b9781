"""The alignment-stage defences, by the name that recipes use."""

from boostershot.defenses.antibody import Antibody
from boostershot.defenses.booster import Booster, TargetReduction
from boostershot.defenses.crl import CRL
from boostershot.defenses.ctrap import CTRAP
from boostershot.defenses.defense import Cost, Defense, Regularizer
from boostershot.defenses.finishing import Finishing
from boostershot.defenses.gradient import GradientStep, defense_gradient
from boostershot.defenses.gradient_ascent import GradientAscent
from boostershot.defenses.lookahead import Lookahead
from boostershot.defenses.lox import LoX
from boostershot.defenses.noise_and_distil import NoiseAndDistil
from boostershot.defenses.patcher import Patcher
from boostershot.defenses.repnoise import RepNoise
from boostershot.defenses.sam import SAM
from boostershot.defenses.sdd import SDD
from boostershot.defenses.seam import SEAM
from boostershot.defenses.sft import SFT
from boostershot.defenses.sum import Sum
from boostershot.defenses.t_vaccine import TVaccine
from boostershot.defenses.tar import TAR
from boostershot.defenses.update import bring_to_distance, distance_from_base
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
    "repnoise": RepNoise,
    "crl": CRL,
    "seam": SEAM,
    "sdd": SDD,
    "antibody": Antibody,
    "tar": TAR,
    "patcher": Patcher,
    "lox": LoX,
    "noise_and_distil": NoiseAndDistil,
    "sum": Sum,
}

__all__ = [
    "CRL",
    "CTRAP",
    "DEFENSES",
    "SAM",
    "SDD",
    "SEAM",
    "SFT",
    "TAR",
    "Antibody",
    "Booster",
    "Cost",
    "Defense",
    "Finishing",
    "GradientAscent",
    "GradientStep",
    "LoX",
    "Lookahead",
    "NoiseAndDistil",
    "Patcher",
    "Regularizer",
    "RepNoise",
    "Sum",
    "TVaccine",
    "TargetReduction",
    "Vaccine",
    "bring_to_distance",
    "defense_gradient",
    "distance_from_base",
]
