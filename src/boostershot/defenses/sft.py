"""Supervised fine-tuning on alignment data: the baseline, and the f of every other defence."""

from __future__ import annotations

from dataclasses import dataclass

from boostershot.core.oracle import Oracle
from boostershot.core.step import Batch, Step
from boostershot.defenses.about import About
from boostershot.defenses.defense import Cost, Defense


@dataclass(frozen=True)
class SFT(Defense):
    """min f(w): the mean next-token loss of the safe answers to harmful prompts."""

    about = About(
        title="supervised fine-tuning (SFT)",
        source="the baseline of arXiv:2409.01586 and of every paper in this field",
        equation="f(w)",
        idea="Refusals to harmful prompts are learnt; nothing is done about a later attack.",
        follows="Standard practice: loss on the answer's tokens only, averaged over the tokens of the whole batch.",
        notes="The bar that any defence must clear at equal settings. More steps of it are a defence too: compare at "
        "equal compute as well.",
    )

    @property
    def cost(self) -> Cost:
        """f at w."""
        return Cost(shared={"align": 1})

    def reads(self) -> dict[str, int]:
        """Safe answers."""
        return {"align": 1}

    def step(self, oracle: Oracle, batch: Batch) -> Step:
        """f and its gradient."""
        f = oracle.shared_gradient(batch, "align")
        return f.log(alignment_loss=f.loss)
