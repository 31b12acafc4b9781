"""T-Vaccine: Vaccine on a sample of layers, drawn by how much harmful gradient they see (arXiv 2410.09760)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from boostershot.core.blocks import attention_blocks, decoder_layers
from boostershot.core.oracle import Oracle
from boostershot.core.step import Batch, Step
from boostershot.core.vector import Vector
from boostershot.defenses.about import About, HyperParameter
from boostershot.defenses.defense import Cost, Defense, check, check_count
from boostershot.defenses.sft import SFT
from boostershot.defenses.vaccine import RHO

SHARES, MEASURED, LAYERS = "t_vaccine/shares", "t_vaccine/measured", "t_vaccine/layers"  # in oracle.state


@dataclass(frozen=True)
class TVaccine(Defense):
    """Vaccine on `layers` layers; the trainable weights of the other layers stay as they are in this step.

    Every `importance_every` steps, a layer's share is |grad_e h| at its attention output on one harmful row, over the
    sum; every `sample_every` steps, layers are drawn by their shares without replacement.

    Raises:
        ValueError: a value is out of range; in `step`, the model has fewer layers, or no recognisable attention blocks.
    """

    rho: float = 3.0
    layers: int = 8
    sample_every: int = 20
    importance_every: int = 200

    about = About(
        title="T-Vaccine (targeted Vaccine)",
        source="arXiv:2410.09760, Algorithm 1",
        equation="f(w_S; e_S + rho * G_S / |G_S|) for a sample S of layers, drawn by |grad_e h|",
        idea="Only the layers that harmful gradients reach need Vaccine, which saves memory.",
        follows="The published sampling (one harmful row for the shares, sequential draws without replacement) and the "
        "published S = 8, J = 20, K = 200, rho = 3. All trainable weights of an unsampled layer are left out, its "
        "feed-forward part too: the public code leaves that part training. Weights outside the layers train always. "
        "Published with LoRA on all seven projections, and with the other layers' activations checkpointed; here "
        "runtime.checkpointing is for all layers or none. With rho 0 it is SFT, of all layers.",
        hyper_parameters={
            "rho": RHO,
            "layers": HyperParameter("how many layers train in a step", "few layers learn the refusals slowly"),
            "sample_every": HyperParameter("steps between two draws", "every step, no layer's moments settle"),
            "importance_every": HyperParameter(
                "steps between two measurements of the shares, each a pass over one harmful row", "stale shares"
            ),
        },
        notes="With all layers it is Vaccine. As the align of another defence it leaves its layers out of the whole "
        "step, that defence's term included. A port in a public benchmark damaged the base model's general ability.",
    )

    def __post_init__(self) -> None:
        check("t_vaccine", rho=self.rho)
        check_count(
            "t_vaccine", layers=self.layers, sample_every=self.sample_every, importance_every=self.importance_every
        )

    @property
    def cost(self) -> Cost:
        """Two passes, and one over a harmful row now and then."""
        if not self.rho:
            return SFT().cost
        once = 1 / self.importance_every
        return Cost(own=2, activations="one tensor of each sampled attention output", once=once)

    @property
    def reads_layers(self) -> bool:
        """The perturbation is of any layers' outputs."""
        return self.rho > 0

    def reads(self) -> dict[str, int]:
        """Safe answers, and harmful rows for the shares."""
        return {"align": 1, "harmful": 1} if self.rho else {"align": 1}

    def check_model(self, model: nn.Module) -> None:
        """Raises ValueError if there are no recognisable attention blocks, or fewer than `layers`."""
        if self.rho:
            self._blocks(model)

    def step(self, oracle: Oracle, batch: Batch) -> Step:
        """f and its gradient with the sampled layers' attention outputs perturbed."""
        if not self.rho:
            return SFT().step(oracle, batch)
        blocks, rows = self._blocks(oracle.model), batch.need("align")
        chosen = self._sampled(oracle, batch, blocks)
        sampled = [blocks[k] for k in chosen]
        with oracle.leaving_out(self._outside(oracle, chosen)):
            clean = oracle.output_gradient(rows, sampled)
            norm = oracle.total_norm(clean.gradient)
            with oracle.nudged(sampled, clean.gradient, by=self.rho / norm if norm > 0 else 0.0):
                f = oracle.gradient(rows, in_rows=True)
        return f.log(alignment_loss=f.loss, alignment_loss_unperturbed=clean.loss)

    def _sampled(self, oracle: Oracle, batch: Batch, blocks: list[nn.Module]) -> list[int]:
        """The layers of this step, in order; they and the shares persist between steps."""
        state = oracle.state
        again = oracle.step % self.importance_every == 0 and state.get(MEASURED) != oracle.step  # SAM steps twice
        if SHARES not in state or again:
            state[SHARES], state[MEASURED] = self._shares(oracle, batch, blocks), oracle.step
        if LAYERS not in state or oracle.step % self.sample_every == 0:
            drawn = torch.multinomial(
                torch.tensor(state[SHARES], dtype=torch.float64), self.layers, generator=oracle.generator("t_vaccine")
            )
            state[LAYERS] = sorted(drawn.tolist())
        return state[LAYERS]

    def _shares(self, oracle: Oracle, batch: Batch, blocks: list[nn.Module]) -> list[float]:
        """|grad_e h| of each layer on one harmful row, over the sum; even where no layer sees any."""
        row = oracle.of_first_process(batch.need("harmful").split(1)[0])
        parts = oracle.output_gradient(row, blocks).gradient.parts
        norms = [oracle.total_norm(Vector((part,))) for part in parts]
        tiny = max(math.fsum(norms), 1.0) * 1e-12  # so that layers without a gradient can be drawn last
        return [(norm + tiny) / math.fsum(norm + tiny for norm in norms) for norm in norms]

    def _blocks(self, model: nn.Module) -> list[nn.Module]:
        blocks = attention_blocks(model)
        if self.layers > len(blocks):
            raise ValueError(f"t_vaccine: layers is {self.layers}; this model has {len(blocks)}")
        return blocks

    @staticmethod
    def _outside(oracle: Oracle, chosen: list[int]) -> frozenset[str]:
        """Trainable parameters of the layers that were not drawn."""
        layers = decoder_layers(oracle.model)
        left_out = {id(param) for k, layer in enumerate(layers) if k not in chosen for param in layer.parameters()}
        return frozenset(name for name, param in zip(oracle.names, oracle.params, strict=True) if id(param) in left_out)
