"""SEAM: harmful and benign gradients are set against each other (arXiv 2505.12186)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from boostershot.core.blocks import decoder_layers
from boostershot.core.oracle import Oracle
from boostershot.core.step import Batch, Step
from boostershot.core.vector import Vector
from boostershot.defenses.about import ALIGN, About, HyperParameter
from boostershot.defenses.ascent import lens_ascent
from boostershot.defenses.defense import Cost, Defense, Regularizer, check
from boostershot.defenses.sft import SFT


@dataclass(frozen=True)
class SEAM(Regularizer):
    """min f(w) - unlearn * log(1 + L_lens(w)) + beta * cos(grad h(w), grad b(w)).

    The cosine's gradient is estimated without a Hessian, from the two gradients a small step away.

    Raises:
        ValueError: a value is out of range; in `step`, the model computes in half precision, or has no recognisable
            layers and final norm.
    """

    unlearn: float = 1.0
    beta: float = 0.01
    eps_per_weight: float = 1e-6
    align: Defense = SFT()

    about = About(
        title="self-destructive model (SEAM)",
        source="arXiv:2505.12186 (ICLR 2026), and its public code",
        equation="f(w) - unlearn * log(1 + mean over depths of the harmful loss read there) + beta * cos(g, grad b(w))",
        idea="Where the two gradients oppose each other, each harmful step costs general ability, and an attacked "
        "model destroys itself.",
        follows="The published objective with its weight of f, alpha = 1, fixed: the other two weights stand beside "
        "it. The difference of gradients is taken at a distance that grows with the root of the number of weights, and "
        "that does not shrink where the gradients are parallel; published: 1e-3 times the sine of their angle, in "
        "bfloat16, where almost no weight moves. Half precision is refused. Depths as for repnoise; harmful and safe "
        "rows need no common prompts, for the answers' tokens are known.",
        hyper_parameters={
            "unlearn": HyperParameter(
                "weight of the ascent on harmful answers; 1 in the paper", "0 leaves the cosine alone, with a pass less"
            ),
            "beta": HyperParameter(
                "weight of the cosine; 0.01 in the paper; 0 is the control with the ascent alone, four passes less",
                "large values turn the gradients and learn nothing else",
            ),
            "eps_per_weight": HyperParameter(
                "how far away the second gradients are taken, as a root mean square per weight; at 1e-6 the estimate "
                "was off by 0.3 % (LoRA) and 1 % (33 million of the weights) on a model of 135 million",
                "far below 1e-7 their difference is rounding (watch realised_cosine); 1e-5 was off by 1 % and 11 %, "
                "1e-4 by 8 % and 70 %: no derivative any more",
            ),
            "align": ALIGN,
        },
        notes="With the public code's bfloat16 weights the step away has a cosine of 0.02 to 0.08 with the intended "
        "one (in a simulation), so that effects reported may come from the ascent: compare with beta 0. An attacker "
        "who trains on general text as well would feel the coupling and could step around it (an objection: judge it "
        "with the utility anchor); ablation of directions and prefilled answers undo it without training "
        "(arXiv:2605.26526). The ascent costs more time than its one pass tells, as repnoise's does.",
    )

    def __post_init__(self) -> None:
        check("seam", unlearn=self.unlearn, beta=self.beta, eps_per_weight=self.eps_per_weight)
        if self.eps_per_weight == 0:
            raise ValueError(f"seam: eps_per_weight is {self.eps_per_weight}; expected a number above 0")

    @property
    def active(self) -> bool:
        """Is there a term?"""
        return self.unlearn > 0 or self.beta > 0

    @property
    def term_cost(self) -> Cost:
        """Both gradients here and a step away; the harmful loss at all depths."""
        ascent = Cost(own=1)
        if not self.beta:
            return ascent
        opposition = Cost(own=2, shared={"harmful": 1, "general": 1}, memory=4)
        return opposition.then(ascent) if self.unlearn else opposition

    def check_model(self, model: nn.Module) -> None:
        """Raises ValueError if there are no recognisable layers."""
        super().check_model(model)
        if self.unlearn:
            decoder_layers(model)

    @property
    def reads_layers(self) -> bool:
        """What is unlearnt is the loss at all depths."""
        return self.unlearn > 0

    def term_reads(self) -> dict[str, int]:
        """Harmful rows, and general text for the gradient to oppose."""
        return {"harmful": 1, **({"general": 1} if self.beta else {})}

    def term(self, oracle: Oracle, batch: Batch) -> Step:
        """The weighted cosine and the weighted ascent."""
        if not self.beta:
            return lens_ascent(oracle, batch.need("harmful"), self.unlearn)
        opposition = self._opposition(oracle, batch)
        return opposition + lens_ascent(oracle, batch.need("harmful"), self.unlearn) if self.unlearn else opposition

    def _opposition(self, oracle: Oracle, batch: Batch) -> Step:
        """beta times the cosine; its gradient is (1/eps) * the sum of (gradient a step away - here) / |here|."""
        _refuse_half_precision(oracle)
        g, b = oracle.shared_gradient(batch, "harmful"), oracle.shared_gradient(batch, "general")
        eps = self.eps_per_weight * math.sqrt(oracle.trainable_weights)
        norms = g.gradient.norm(), b.gradient.norm()
        along = [step.gradient.unit() for step in (g, b)]
        cosine = along[0].dot(along[1])
        losses = {"harmful_loss": g.loss, "general_loss": b.loss}
        with oracle.away():
            realised = _step_across(oracle, along[1], along[0], cosine, eps)
            g_moved = oracle.gradient(batch.need("harmful"))
        with oracle.away():
            realised = min(realised, _step_across(oracle, along[0], along[1], cosine, eps))
            b_moved = oracle.gradient(batch.need("general"))
        del along
        slopes = [_sine(cosine) / (eps * norm) if norm > 0 else 0.0 for norm in norms]
        total = slopes[0] * (g_moved - g) + slopes[1] * (b_moved - b)
        return total.through(self.beta * cosine, self.beta).log(
            **losses, gradient_cosine=cosine, realised_cosine=realised
        )


def _sine(cosine: float) -> float:
    return math.sqrt(max(0.0, 1 - cosine**2))


def _step_across(oracle: Oracle, a: Vector, b: Vector, cosine: float, length: float) -> float:
    """Move the weights by `length` along the part of unit vector a that is perpendicular to unit vector b.

    Returns:
        The cosine between the step that the weights' precision made of it and the one intended; 1 where there is none.
    """
    sine = _sine(cosine)
    along_a, along_b = (length / sine * a.scale, -length / sine * cosine * b.scale) if sine > 0 else (0.0, 0.0)
    product, intended, realised = 0.0, 0.0, 0.0
    with torch.no_grad():
        for param, of_a, of_b in zip(oracle.params, a.parts, b.parts, strict=True):
            step = (along_a * of_a).add_(of_b, alpha=along_b)
            before = param.detach().clone()
            param.data.add_(step)
            wanted, moved = Vector((step,)), Vector((before.neg_().add_(param),))
            product += wanted.dot(moved)
            intended += wanted.dot(wanted)
            realised += moved.dot(moved)
    return product / math.sqrt(intended * realised) if intended * realised > 0 else float(intended == 0)


def _refuse_half_precision(oracle: Oracle) -> None:
    half = any(param.dtype in (torch.float16, torch.bfloat16) for param in oracle.model.parameters())
    with oracle.autocast():
        half = half or torch.is_autocast_enabled(oracle.params[0].device.type)
    if half:
        raise ValueError(
            "seam: the model computes in half precision, where the difference of two gradients close by is rounding; "
            "train in float32 (bf16: false), or set beta to 0"
        )
