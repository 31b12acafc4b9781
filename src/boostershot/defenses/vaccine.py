"""Vaccine: perturbation-aware alignment (arXiv 2402.01109)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from boostershot.core.blocks import attention_blocks
from boostershot.core.oracle import Oracle
from boostershot.core.step import Batch, Step
from boostershot.defenses.about import About, HyperParameter
from boostershot.defenses.defense import Cost, Defense, check
from boostershot.defenses.sft import SFT

RHO = HyperParameter(
    "length of the perturbation over all attention outputs, rows and tokens of the batch together",
    "an absolute length shared by the batch: a larger batch or a deeper model perturbs each token less; far too large, "
    "f does not converge",
)


@dataclass(frozen=True)
class Vaccine(Defense):
    """min f(w; e + rho * grad_e f / |grad_e f|), e the outputs of all attention blocks; first order.

    Raises:
        ValueError: rho is negative or not finite; in `step`, the model has no recognisable attention blocks.
    """

    rho: float = 2.0

    about = About(
        title="Vaccine",
        source="arXiv:2402.01109 (NeurIPS 2024), Algorithm 1",
        equation="f(w; e + rho * G / |G|), G = grad_e f over the outputs e of all attention blocks jointly",
        idea="Alignment is to hold when hidden embeddings drift, as harmful fine-tuning makes them.",
        follows="The published algorithm: the perturbation is added after each attention block's output projection, "
        "before the residual sum, for every token, with one norm over the whole batch. Rows are laid side by side (no "
        "token trie), because each row has a perturbation of its own. Dropout masks are the same in both passes.",
        hyper_parameters={"rho": RHO},
        notes="The published runs used rho 2 (and 5 in some scripts).",
    )

    def __post_init__(self) -> None:
        check("vaccine", rho=self.rho)

    @property
    def cost(self) -> Cost:
        """Two passes; the first gives the perturbation."""
        if not self.rho:
            return SFT().cost
        return Cost(own=2, activations="one tensor of each attention output of the batch")

    @property
    def reads_layers(self) -> bool:
        """The perturbation is of all layers' outputs."""
        return self.rho > 0

    def reads(self) -> dict[str, int]:
        """Safe answers."""
        return {"align": 1}

    def check_model(self, model: nn.Module) -> None:
        """Raises ValueError if there are no recognisable attention blocks."""
        if self.rho:
            attention_blocks(model)

    def step(self, oracle: Oracle, batch: Batch) -> Step:
        """f and its gradient with the attention outputs perturbed."""
        if not self.rho:
            return SFT().step(oracle, batch)
        rows, blocks = batch.need("align"), attention_blocks(oracle.model)
        clean = oracle.output_gradient(rows, blocks)
        norm = oracle.total_norm(clean.gradient)
        with oracle.nudged(blocks, clean.gradient, by=self.rho / norm if norm > 0 else 0.0):
            f = oracle.gradient(rows, in_rows=True)
        return f.log(alignment_loss=f.loss, alignment_loss_unperturbed=clean.loss)
