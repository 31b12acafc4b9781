"""TAR: tampering attack resistance (arXiv 2408.00761): an inner attack loop, and resistance along the way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from boostershot.core.batch import Layout, Rows
from boostershot.core.blocks import decoder_layers
from boostershot.core.hidden import keeping_outputs, outputs_at
from boostershot.core.losses import in_turn, token_logits, token_losses
from boostershot.core.oracle import FORWARD, Oracle, TokenLoss
from boostershot.core.step import Batch, Step
from boostershot.defenses.about import ALIGN, About, HyperParameter
from boostershot.defenses.ascent import bounded
from boostershot.defenses.attacked import Inner
from boostershot.defenses.attacker import Attacker, Optimizer
from boostershot.defenses.defense import Cost, Defense, Regularizer, check, check_count
from boostershot.defenses.length import ALPHA, ALPHA_PER_WEIGHT, check_length, length
from boostershot.defenses.sft import SFT


@dataclass(frozen=True)
class TAR(Regularizer):
    """min f(w) + lam * sum_i v_i * T(w_i) + retain * (b(w) + d(w)), first order.

    w_i are the weights after i of `steps` steps of an attacker on harmful rows, for every `every`-th i, counted back
    from the last; v_i = exp(growth * (i - steps)). T is minus the entropy of the next token, or minus the harmful
    loss, on one batch of harmful rows. d is the distance of hidden states from those of the start, per token.

    Args:
        lr: the attacker's learning rate, for adamw and sgd.
        alpha, alpha_per_weight: the length of its steps, for normalized_sgd; give one of the two.

    Raises:
        ValueError: a value is out of range, or the optimiser has not what it needs, or what it does not take.
    """

    lam: float = 4.0
    steps: int = 64
    every: int = 4
    growth: float = 0.0625
    loss: Literal["entropy", "nll"] = "entropy"
    bound: float | None = 5.0
    optimizer: Optimizer = "adamw"
    lr: float | None = None
    alpha: float | None = None
    alpha_per_weight: float | None = None
    inner: Inner = "fresh"
    retain: float = 1.0
    align: Defense = SFT()

    about = About(
        title="tampering attack resistance (TAR)",
        source="arXiv:2408.00761 (ICLR 2025), Algorithm 1",
        equation="f(w) + lam * sum_i exp(growth * (i - steps)) * T(w_i) + retain * (b(w) + d(w)), w_i = the weights "
        "after i attacker steps, T = -entropy of the next token (or -min(h, bound)), d = mean over layers of the L2 "
        "distance of a token's hidden states from the start's",
        idea="Along the way of a real attacker the model stays undecided about harmful answers, while it keeps what it "
        "could do.",
        follows="The published tamper-resistance stage, first order: gradients at attacked weights are applied at w. "
        "Entropy and distances are averaged over answer tokens (published: all tokens). The attacker is one, plain "
        "AdamW (no weight decay) with one learning rate (published: a mixture of several). The first, random-mapping "
        "stage is for knowledge removal and is left out; so is the variant of T by preference (DPO). f beside b is "
        "this project's, so that refusals are learnt too.",
        example={"steps": 6, "every": 2, "lr": 1e-3},
        hyper_parameters={
            "lam": HyperParameter(
                "weight of the resistance; 4 in the paper", "large values cost general ability, which retain must hold"
            ),
            "steps": HyperParameter(
                "the attacker's steps in each step of the training; 64 in the paper",
                "each costs a pass; an attack of more steps than simulated is not resisted",
            ),
            "every": HyperParameter(
                "T is taken at every so many-th attacked weights; 4 in the paper", "as many passes more as it is small"
            ),
            "growth": HyperParameter(
                "how much more late attacked weights count: the i-th by exp(growth * (i - steps)); 0.0625 in the paper",
                "large values look at the last only",
            ),
            "loss": HyperParameter(
                "entropy: T is minus the next token's entropy; nll: minus the harmful loss, at most `bound`",
                "nll was unstable in the paper: it jumps at the first attacked weights and then falls",
            ),
            "bound": HyperParameter(
                "nats above which nll pushes the harmful loss no further; null is unbounded; entropy is bounded by the "
                "logarithm of the vocabulary",
                "unbounded, the loss runs away and takes the model with it",
            ),
            "optimizer": HyperParameter(
                "the attacker's: adamw, sgd (both with lr) or normalized_sgd (with alpha or alpha_per_weight)",
                "the attacker that was simulated is resisted, and perhaps no other",
            ),
            "lr": HyperParameter(
                "the attacker's learning rate; 2e-6 to 4e-5 in the paper, on all weights",
                "far too small, w_i is w; far too large, w_i is no model any more",
            ),
            "alpha": ALPHA,
            "alpha_per_weight": ALPHA_PER_WEIGHT,
            "inner": HyperParameter(
                "fresh: each attacker step on a harmful batch of its own, and T on a held-out one; same: all on one",
                "same is resisted on the very rows attacked; fresh needs `steps + 1` times as many harmful rows",
            ),
            "retain": HyperParameter(
                "weight of the general loss and of the hidden states' distance; 0 needs no general rows",
                "0 lets the model's ability go",
            ),
            "align": ALIGN,
        },
        notes="The public baselines of this name in T-Vaccine's repository and, for a time, in TamperBench are SFT: "
        "their gradient goes nowhere. Read figures of them as such. Replications of TAR itself found a general ability "
        "well below the undefended model's.",
    )

    def __post_init__(self) -> None:
        check("tar", lam=self.lam, growth=self.growth, bound=self.bound, lr=self.lr, retain=self.retain)
        check_count("tar", steps=self.steps, every=self.every)
        if self.optimizer == "normalized_sgd":
            if self.lr is not None:
                raise ValueError("tar: lr is given, and normalized_sgd takes alpha or alpha_per_weight in its place")
            check_length("tar", alpha=self.alpha, alpha_per_weight=self.alpha_per_weight)
        else:
            if self.lr is None:
                raise ValueError(f"tar: lr is missing; {self.optimizer} needs one")
            if self.alpha is not None or self.alpha_per_weight is not None:
                raise ValueError(f"tar: alpha and alpha_per_weight are for normalized_sgd; {self.optimizer} takes lr")

    @property
    def active(self) -> bool:
        """Is there a term?"""
        return self.lam > 0 or self.retain > 0

    @property
    def term_cost(self) -> Cost:
        """The attacker's steps, T at some of them, and a pass over general rows with a forward for the start."""
        retaining = Cost(1 + FORWARD, memory=2, activations="the start's hidden states of the general rows")
        if not self.lam:
            return retaining
        sampled = sum(self._counts(i) for i in range(self.steps))
        moments, waiting, start = 2 * (self.optimizer == "adamw"), sampled > 1, self.retain > 0
        attack = Cost(self.steps - 1 + sampled, {"harmful": 1}, memory=1 + moments + waiting + start)
        return attack.then(retaining) if self.retain else attack

    def check_model(self, model: nn.Module) -> None:
        """Raises ValueError if there are no recognisable layers."""
        super().check_model(model)
        if self.retain:
            decoder_layers(model)

    @property
    def reads_layers(self) -> bool:
        """What is retained is all layers' outputs."""
        return self.retain > 0

    def term_reads(self) -> dict[str, int]:
        """Harmful rows for the attacker and for T, and general rows for what is to be retained."""
        harmful = {"harmful": self.steps + 1 if self.inner == "fresh" else 1}
        return {**(harmful if self.lam else {}), **({"general": 1} if self.retain else {})}

    def term(self, oracle: Oracle, batch: Batch) -> Step:
        """The weighted sum of the resistance along the attack, and what is to be retained."""
        if not self.lam:
            return self._retained(oracle, batch)
        resistance = self._resistance(oracle, batch)
        return resistance + self._retained(oracle, batch) if self.retain else resistance

    def _resistance(self, oracle: Oracle, batch: Batch) -> Step:
        """lam times the sum of T over the sampled attacked weights."""
        *attacked, held_out = self._batches(batch)
        attacker, total, losses, tamper = self._attacker(oracle), None, list[float](), 0.0
        with attacker.walk(oracle, attacked, oracle.shared_gradient(batch, "harmful")) as steps:
            for i, loss in enumerate(steps):
                losses.append(loss)
                if self._counts(i):
                    there = self._tamper_loss(oracle, held_out)
                    tamper = there.loss
                    part = (self.lam * math.exp(self.growth * (i + 1 - self.steps))) * there
                    total = part if total is None else total + part
        assert total is not None  # the last step counts always
        return total.log(harmful_loss=losses[0], harmful_loss_attacked=losses[-1], tamper_loss=tamper)

    def _batches(self, batch: Batch) -> Sequence[Rows]:
        """The rows of each attacker step, and then those of T."""
        if self.inner == "fresh":
            return batch.several("harmful", self.steps + 1)
        return [batch.need("harmful")] * (self.steps + 1)

    def _attacker(self, oracle: Oracle) -> Attacker:
        if self.lr is not None:
            return Attacker(self.optimizer, self.lr)
        return Attacker(self.optimizer, length(oracle, self.alpha, self.alpha_per_weight))

    def _counts(self, i: int) -> bool:
        """Is T taken after this step (from 0)?"""
        return (self.steps - 1 - i) % self.every == 0

    def _tamper_loss(self, oracle: Oracle, rows: Rows) -> Step:
        """T at the present weights."""
        if self.loss == "entropy":
            return oracle.gradient(rows, negative_entropy)
        return -1.0 * bounded(oracle.gradient(rows), self.bound)

    def _retained(self, oracle: Oracle, batch: Batch) -> Step:
        """retain times the general loss and the distance of hidden states from the start's."""
        rows = batch.need("general")
        with oracle.at_start():
            start = oracle.features(rows, hidden_states)
        retained = oracle.gradient(rows, loss_and_distance(start))
        loss = retained.loss
        return (self.retain * retained).log(retain_loss=loss)


def negative_entropy(model: nn.Module, layout: Layout) -> Tensor:
    """Minus the entropy of the next token at each supervised position, in nats."""
    logs = token_logits(model, layout).log_softmax(-1)
    return torch.sum(logs.exp() * logs, -1)


def hidden_states(model: nn.Module, layout: Layout) -> Tensor:
    """Each decoder layer's output at each supervised position: [n, layers, width]."""
    return outputs_at(model, decoder_layers(model), layout)


def loss_and_distance(start: Tensor) -> TokenLoss:
    """The next-token loss plus the mean over layers of the L2 distance from the start's hidden states, in one pass.

    Args:
        start: `hidden_states` of all the rows, of which the loss sees micro-batch after micro-batch.
    """

    def loss(model: nn.Module, layout: Layout, began: Tensor) -> Tensor:
        with keeping_outputs(model, decoder_layers(model), layout) as states:
            losses = token_losses(model, layout)
        return losses + torch.linalg.vector_norm(states() - began, dim=-1).mean(-1)

    return in_turn(start, loss)
