"""Noise and distil (UNDO): shrink towards a fresh start, and copy back what the model shows (arXiv 2506.06278)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from boostershot.core.batch import Rows
from boostershot.core.losses import divergence_from, log_probabilities
from boostershot.core.oracle import FORWARD, Oracle
from boostershot.core.sharded import like
from boostershot.core.step import Batch, Step
from boostershot.defenses.about import About, HyperParameter
from boostershot.defenses.defense import Cost, Defense, check, check_count
from boostershot.defenses.finishing import Finishing, FurtherTraining
from boostershot.defenses.sft import SFT

READS = {"align": 1, "general": 1}  # by a step of the distillation
COST = Cost(2 + 2 * FORWARD, memory=2, activations="the teacher's log-probabilities of the batch's tokens")


@dataclass(frozen=True)
class NoiseAndDistil(Finishing):
    """The aligned model is the teacher; a student starts at (1 - shrink) * w + shrink * noise * N and is taught by it.

    N is Xavier-uniform for matrices and zero for vectors. The student is trained for `steps` steps on
    KL(teacher | student), over the trainable weights.

    Args:
        align: the defence whose alignment makes the teacher.

    Raises:
        ValueError: a value is out of range.
    """

    shrink: float = 0.6
    noise: float = 0.1
    steps: int = 500
    lr: float = 9e-4
    align: Defense = SFT()

    about = About(
        title="noise and distil (UNDO)",
        source="arXiv:2506.06278 (NeurIPS 2025), and its public code",
        equation="mean of KL(p_teacher | p_w) over the tokens of safe answers and of benign text, half and half, from "
        "the start (1 - shrink) * w_al + shrink * noise * N; w_al = argmin of align",
        idea="What the model does not show is not copied: no short way leads back to it, for any learning rate.",
        follows="The published start and forward KL, on answer tokens of given rows (published: whole texts), for a "
        "fixed number of steps (published: until the retained loss is within 5 % of the teacher's). The optimiser, "
        "its schedule, batch and clipping are the alignment's. Only trainable weights are shrunk.",
        example={"steps": 200, "align": {"method": "booster", "lam": 20, "alpha_per_weight": 2e-5}},
        hyper_parameters={
            "shrink": HyperParameter(
                "how far towards the fresh start, from 0 to 1; 0.6 in the paper",
                "the more, the more steps it takes to get the ability back; 0 leaves the distillation alone",
            ),
            "noise": HyperParameter(
                "size of the fresh start, in multiples of a Xavier-uniform one; 0.1 in the paper, and 0 works too",
                "1 with shrink: 1 is training from nothing",
            ),
            "steps": HyperParameter(
                "steps of the distillation, of two passes and two forwards each; 500 and more in the paper, of half a "
                "million tokens each",
                "too few, and the model is worse at everything",
            ),
            "lr": HyperParameter("learning rate of the distillation; 9e-4 in the paper, on all weights", "as any"),
            "align": HyperParameter("the defence that aligns first, such as {method: booster, ...}", "as its own"),
        },
        notes="The distillation reads safe answers and benign text. With a LoRA adapter only that is shrunk: train "
        "all weights (lora: null), or the base model keeps what it knows. The paper is about knowledge, at 100 "
        "million weights and 1e8 tokens; whether a style such as compliance can be left behind is open.",
    )

    def __post_init__(self) -> None:
        check("noise_and_distil", shrink=self.shrink, noise=self.noise, lr=self.lr)
        if self.shrink > 1:
            raise ValueError(f"noise_and_distil: shrink is {self.shrink}; expected a number from 0 to 1")
        check_count("noise_and_distil", steps=self.steps)

    def finish_reads(self) -> dict[str, int]:
        """Safe answers and benign text."""
        return READS

    @property
    def finish_steps(self) -> int:
        """As given."""
        return self.steps

    @property
    def finish_cost(self) -> Cost:
        """That of a distillation step."""
        return COST

    def finish(self, oracle: Oracle) -> FurtherTraining:
        """Shrink the weights, and train them to answer as they did."""
        teacher = {name: param.detach().clone() for name, param in zip(oracle.names, oracle.params, strict=True)}
        generator = oracle.generator("noise_and_distil")
        with torch.no_grad():
            for param in oracle.params:
                param.mul_(1 - self.shrink)
                if param.dim() > 1:
                    fresh = torch.empty(param.shape, dtype=param.dtype)  # on the CPU, where the generator is
                    nn.init.xavier_uniform_(fresh, generator=generator)
                    param.add_(like(fresh.to(param.device), param), alpha=self.shrink * self.noise)
        return FurtherTraining(Distil(teacher), self.steps, self.lr)


@dataclass(frozen=True, eq=False)
class Distil(Defense):
    """min KL(p_teacher | p_w), averaged over the supervised tokens of `align` rows and of `general` rows, half each.

    Args:
        teacher: the teacher's weights, by name of the trainable parameter.
    """

    teacher: Mapping[str, Tensor] = field(repr=False)

    @property
    def cost(self) -> Cost:
        """A forward of the teacher and a pass of the student for each kind of rows."""
        return COST

    def reads(self) -> dict[str, int]:
        """Safe answers and benign text."""
        return READS

    def step(self, oracle: Oracle, batch: Batch) -> Step:
        """Half the divergence on either kind of rows."""
        align, general = (self._divergence(oracle, batch.need(role)) for role in READS)
        losses = align.loss, general.loss
        return (0.5 * align + 0.5 * general).log(divergence_align=losses[0], divergence_general=losses[1])

    def _divergence(self, oracle: Oracle, rows: Rows) -> Step:
        with oracle.at(self.teacher):
            taught = oracle.features(rows, log_probabilities)
        return oracle.gradient(rows, divergence_from(taught))
