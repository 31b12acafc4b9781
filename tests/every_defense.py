"""One setting of every entry of DEFENSES, and compositions of them."""

import boostershot as bs
from boostershot.defenses import Defense, TargetReduction

PERIODS = {"booster, lazy": 2, "booster, reused": 2, "sum with a lazy term": 2}  # steps after which it begins anew
SETTINGS: dict[str, Defense] = {
    "sft": bs.SFT(),
    "booster": bs.Booster(lam=5, alpha=0.1),
    "booster without lam": bs.Booster(lam=0, alpha=0.1),
    "booster(booster)": bs.Booster(lam=1, alpha=0.2, align=bs.Booster(lam=5, alpha_per_weight=1e-3)),
    "booster, 3 steps": bs.Booster(lam=5, alpha=0.1, steps=3),
    "booster, 3 fresh steps": bs.Booster(lam=5, alpha=0.1, steps=3, inner="fresh"),
    "booster, exact": bs.Booster(lam=5, alpha=0.1, order="exact"),
    "booster, scheduled": bs.Booster(lam=5, alpha=0.1, schedule=TargetReduction(1.0, every=1)),
    "booster, lazy": bs.Booster(lam=5, alpha=0.1, every=2),
    "booster, half the rows": bs.Booster(lam=5, alpha=0.1, harmful_share=0.5),
    "booster, reused": bs.Booster(lam=5, alpha=0.1, reuse=2),
    "vaccine": bs.Vaccine(rho=2.0),
    "t_vaccine": bs.TVaccine(rho=2.0, layers=1, importance_every=1),
    "lookahead": bs.Lookahead(lam=0.5, alpha=0.1, bound=None),
    "sam": bs.SAM(rho=0.1),
    "gradient_ascent": bs.GradientAscent(lam=0.5, bound=None),
    "ctrap": bs.CTRAP(lam=0.5, alpha=0.1, token=4),
    "antibody": bs.Antibody(alpha=0.1),
    "repnoise": bs.RepNoise(beta=5, alpha=0.5),
    "crl": bs.CRL(benign_margin=2, layers=1),
    "seam": bs.SEAM(beta=0.5, eps_per_weight=1e-3),
    "sdd": bs.SDD(),
    "booster(repnoise)": bs.Booster(lam=5, alpha=0.1, align=bs.RepNoise(beta=5, alpha=0.5)),
    "tar": bs.TAR(lam=0.5, steps=3, every=2, lr=1e-3),
    "tar, same": bs.TAR(
        lam=0.5, steps=2, every=1, loss="nll", optimizer="normalized_sgd", alpha=0.1, inner="same", retain=0
    ),
    "patcher": bs.Patcher(steps=(3,), round=1, lr=(1e-3,), batches=2),
    "patcher, drawn": bs.Patcher(
        steps=(2,), round=1, lr=(1e-4, 1e-3), optimizers=("adamw", "sgd", "normalized_sgd"), adapter="drawn", batches=1
    ),
    "lox": bs.LoX(align=bs.Booster(lam=5, alpha=0.1)),
    "noise_and_distil": bs.NoiseAndDistil(align=bs.LoX()),
    "sum": bs.Sum({"booster": bs.Booster(lam=5, alpha=0.1), "ascent": bs.GradientAscent(lam=0.5, bound=None)}),
    "booster(vaccine)": bs.Booster(lam=5, alpha=0.1, align=bs.Vaccine(rho=2.0)),
    "sum with a lazy term": bs.Sum(
        {"b": bs.Booster(alpha=0.1, every=2), "a": bs.GradientAscent(lam=0.5, bound=None)}, {"b": 2.0}
    ),
    "booster(sam)": bs.Booster(lam=5, alpha=0.1, align=bs.SAM(rho=0.1)),
    "sam(booster)": bs.SAM(rho=0.1, align=bs.Booster(lam=5, alpha=0.1)),
    "sam(booster, scheduled)": bs.SAM(rho=0.1, align=bs.Booster(alpha=0.1, schedule=TargetReduction(1.0, every=1))),
    "antibody(t_vaccine)": bs.Antibody(alpha=0.1, align=bs.TVaccine(rho=2.0, layers=1, importance_every=1)),
    "patcher(booster, scheduled)": bs.Patcher(
        steps=(2,), round=1, lr=(1e-3,), batches=1, align=bs.Booster(alpha=0.1, schedule=TargetReduction(1.0, every=1))
    ),
    "sam(sum)": bs.SAM(rho=0.1, align=bs.Sum({"b": bs.Booster(alpha=0.1), "a": bs.GradientAscent(bound=None)})),
}
