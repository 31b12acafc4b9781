"""Patcher: refusal at w and where a real attacker ends, found anew every round (arXiv 2606.07970)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from boostershot.core.oracle import Oracle
from boostershot.core.step import Batch, Step
from boostershot.core.vector import Vector
from boostershot.defenses.about import ALIGN, About, HyperParameter
from boostershot.defenses.attacker import Attacker, Optimizer
from boostershot.defenses.defense import Cost, Defense, check, check_at_home, check_count, most
from boostershot.defenses.sft import SFT


@dataclass(frozen=True)
class Patcher(Defense):
    """min (1 - mix) * f(w) + mix * f(w + delta), delta = stop-gradient(A_k(w) - w), drawn anew every `round` steps.

    A_k takes k steps of an optimiser down h, from the weights that the round begins with. k and its learning rate are
    fixed (one number) or drawn for each round (the two ends of a range); so are the optimiser and the parameters.

    Raises:
        ValueError: a value is out of range, or a range has not one end or two, in order.
    """

    mix: float = 0.5
    round: int = 1000
    steps: tuple[int, ...] = (300,)
    lr: tuple[float, ...] = (1e-5,)
    optimizers: tuple[Optimizer, ...] = ("adamw",)
    adapter: Literal["all", "drawn"] = "all"
    batches: int = 4
    warmup_rounds: int = 0
    align: Defense = SFT()

    about = About(
        title="Patcher",
        source="arXiv:2606.07970, and its public code, the sequential algorithm",
        equation="(1 - mix) * f(w) + mix * f(w + delta), delta = stop-gradient(A_k(w) - w), A_k = k attacker steps "
        "down h, anew every `round` steps",
        idea="Refusals are learnt where a real attack ends, too, so that it has to go further.",
        follows="The sequential algorithm, with delta added to a copy's values and taken off by copying back. The "
        "published first round is of f alone (warmup_rounds: 1); here a training begins with an attack unless told "
        "otherwise, for a short one would be SFT. The attacker is plain AdamW without weight decay and goes over "
        "`batches` harmful batches again and again (published: fresh rows). The optimiser of w goes on from round to "
        "round (published: begun anew). Drawing the attacker for each round is this project's, and it draws among the "
        "tensors that are trained: no low-rank attacker is simulated where all weights train.",
        example={"round": 40, "steps": [5, 40], "lr": [1e-5, 1e-4], "optimizers": ["adamw", "normalized_sgd"]},
        hyper_parameters={
            "mix": HyperParameter("share of f at the attacked weights; 0.5 in the paper", "1 lets f at w go"),
            "round": HyperParameter(
                "steps that share one delta; 1000 in the paper", "long rounds learn one delta by heart; short ones cost"
            ),
            "steps": HyperParameter(
                "the attacker's steps: [k], or [least, most] to draw from evenly; 300 in the paper",
                "an attack of more steps, or of another kind, is not prepared for",
            ),
            "lr": HyperParameter(
                "the attacker's learning rate: [x], or [least, most] to draw from evenly in the logarithm; 1e-5 in the "
                "paper, on all weights. A step of normalized_sgd moves a weight by lr in root mean square",
                "far too small, delta is nothing; far too large, w + delta is no model. SGD needs far more than AdamW",
            ),
            "optimizers": HyperParameter(
                "adamw, sgd, normalized_sgd: one is drawn for each round", "one attacker is prepared for, and no other"
            ),
            "adapter": HyperParameter(
                "all: the attacker trains all trainable parameters; drawn: a random half of the tensors in each round",
                "all is weaker against attackers who train something else",
            ),
            "batches": HyperParameter(
                "how many harmful batches the attacker goes over, again and again",
                "few are learnt by heart in many steps; many need as many times the harmful rows",
            ),
            "warmup_rounds": HyperParameter(
                "first rounds, of f alone; 1 in the paper", "a training that is no longer than that is SFT"
            ),
            "align": ALIGN,
        },
        notes="The paper attacks at one learning rate; fully poisoned data and larger harmful sets still break it, and "
        "no replication was known when this was written. Passes are the average over a round.",
    )

    def __post_init__(self) -> None:
        check("patcher", mix=self.mix, warmup_rounds=self.warmup_rounds)
        if self.mix > 1:
            raise ValueError(f"patcher: mix is {self.mix}; expected a number from 0 to 1")
        check_count("patcher", round=self.round, batches=self.batches)
        for name, ends in (("steps", self.steps), ("lr", self.lr)):
            if len(ends) not in (1, 2) or list(ends) != sorted(ends):
                raise ValueError(f"patcher: {name} is {list(ends)}; expected one number, or the two ends of a range")
        for steps in self.steps:
            check_count("patcher", steps=steps)
        for lr in self.lr:
            check("patcher", lr=lr)
        if len(self.lr) == 2 and not self.lr[0]:
            raise ValueError("patcher: lr begins at 0; expected a range above 0")
        if not self.optimizers:
            raise ValueError("patcher: optimizers is empty; expected at least one")
        if self.mix:
            check_at_home("patcher", self.align)

    @property
    def keeps(self) -> str | None:
        """delta, where a real attack from the round's first weights ends."""
        return "has a delta that is drawn from w" if self.mix else None

    @property
    def cost(self) -> Cost:
        """f at w and at w + delta; the round's attacker steps over its steps; delta, home weights, f's gradient."""
        align = self.align.cost
        if not self.mix:
            return align
        attack = sum(self.steps) / len(self.steps) / self.round
        return replace(align, own=attack + align.passes_away + align.own, memory=3 + align.memory, kept=1 + align.kept)

    def reads(self) -> dict[str, int]:
        """What `align` reads, and harmful rows for the attacker."""
        return most(self.align.reads(), {"harmful": self.batches} if self.mix else {})

    def step(self, oracle: Oracle, batch: Batch) -> Step:
        """f at both points; delta is a constant to the gradient."""
        if not self.mix or oracle.step < self.warmup_rounds * self.round:
            return self.align.step(oracle, batch)
        delta, attack = self._delta(oracle, batch)
        with oracle.sharing(self.cost.shared):
            f = self.align.step(oracle, batch)  # first, so that an `align` which remembers something meets w itself
        with oracle.away():
            with torch.no_grad():
                for name, param in zip(oracle.names, oracle.params, strict=True):
                    if name in delta:
                        param.data.add_(delta[name])
            f_moved = self.align.step(oracle, batch)
        moved = f_moved.loss
        both = self.mix * f_moved + (1 - self.mix) * f
        return both.log(alignment_loss_attacked=moved, delta_norm=Vector(tuple(delta.values())).norm(), **attack)

    def _delta(self, oracle: Oracle, batch: Batch) -> tuple[dict[str, Tensor], dict[str, float]]:
        """This round's delta, by parameter that the attacker trained, and what to log of an attack made now."""
        keys = {name: f"delta of {self!r}/{name}" for name in oracle.names}
        delta = {name: oracle.tensors[key] for name, key in keys.items() if key in oracle.tensors}
        if delta and oracle.step % self.round:
            return delta, {}
        for name in delta:
            del oracle.tensors[keys[name]]
        del delta  # the attacker's moments take its place
        attacker, steps = self.draw(oracle)
        rows = batch.several("harmful", self.batches)
        with attacker.walk(oracle, [rows[i % len(rows)] for i in range(steps)]) as walk:
            losses = list(walk)
            attacked = {
                name: param.detach().clone()
                for name, param in zip(oracle.names, oracle.params, strict=True)
                if attacker.trains(name)
            }
        home = dict(zip(oracle.names, oracle.params, strict=True))
        delta = {name: weights.sub_(home[name].detach()) for name, weights in attacked.items()}
        oracle.tensors.update({keys[name]: part for name, part in delta.items()})
        return delta, {
            "attack_steps": steps,
            "attack_lr": attacker.lr,
            "harmful_loss": losses[0],
            "harmful_loss_attacked": losses[-1],
        }

    def draw(self, oracle: Oracle) -> tuple[Attacker, int]:
        """The attacker of a round that begins at this step, and how many steps it takes."""
        generator = oracle.generator("patcher")

        def share() -> float:
            return torch.rand((), generator=generator, dtype=torch.float64).item()

        steps = self.steps[0] + int(share() * (self.steps[-1] - self.steps[0] + 1))
        lr = self.lr[0] if len(self.lr) == 1 else self.lr[0] * (self.lr[1] / self.lr[0]) ** share()
        optimizer = self.optimizers[int(share() * len(self.optimizers))]
        names = None
        if self.adapter == "drawn":
            order = torch.randperm(len(oracle.names), generator=generator).tolist()
            names = frozenset(oracle.names[i] for i in order[: math.ceil(len(order) / 2)])
        attacker = Attacker(optimizer, lr, names)
        if optimizer == "normalized_sgd":  # from a root mean square per weight to a length
            return replace(attacker, lr=lr * math.sqrt(attacker.weights(oracle))), steps
        return attacker, steps
