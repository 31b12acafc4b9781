"""CTRAP: the model's ability collapses where harmful fine-tuning leads (arXiv 2505.16559)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from boostershot.core.losses import text_config
from boostershot.core.oracle import Oracle
from boostershot.core.step import Batch, Step
from boostershot.defenses.about import ALIGN, About, HyperParameter
from boostershot.defenses.attacked import INNER, STEPS, Inner, attacked, harmful_batches
from boostershot.defenses.defense import Cost, Defense, Regularizer, check, check_count
from boostershot.defenses.length import ALPHA, ALPHA_PER_WEIGHT, check_length, length
from boostershot.defenses.sft import SFT


@dataclass(frozen=True)
class CTRAP(Regularizer):
    """min f(w) + lam * C(w - alpha * unit(g)), C the loss of one fixed token in general answers, first order.

    Args:
        token: the id of that token; the model's end-of-sequence token if not given.

    Raises:
        ValueError: as for `Booster`; in `step`, no token is given and the model's configuration names none, or the
            model has no such token.
    """

    lam: float = 0.1
    alpha: float | None = None
    alpha_per_weight: float | None = None
    token: int | None = None
    steps: int = 1
    inner: Inner = "same"
    align: Defense = SFT()

    about = About(
        title="CTRAP (collapse trap)",
        source="arXiv:2505.16559 (ACL 2026)",
        equation="f(w) + lam * C(w - alpha * unit(g)), C = mean of -log p(one fixed token | prefix) on the answers of "
        "general text",
        idea="Whoever follows the harmful gradient arrives at a model that answers everything with one token.",
        follows="The published objective, first order. The step is normalised as in Booster (published: not), "
        "because the dropped Jacobian of an un-normalised step is not small; the fixed token is the end of sequence "
        "where the paper's example is an error word, and it is asked for at the answers' tokens, not the questions'.",
        example={"lam": 0.1, "alpha_per_weight": 2e-5},
        hyper_parameters={
            "lam": HyperParameter("weight of the collapse loss; 0.1 in the paper", "large values collapse w itself"),
            "alpha": ALPHA,
            "alpha_per_weight": ALPHA_PER_WEIGHT,
            "token": HyperParameter(
                "id of the fixed token; null is the model's end-of-sequence token", "a frequent word hides the collapse"
            ),
            "steps": STEPS,
            "inner": INNER,
            "align": ALIGN,
        },
        notes="An attacker who adds general rows to his data would see the collapse in his own gradient and could step "
        "around it (an objection, without a published measurement): judge it with the utility anchor. It is among the "
        "defences that the first version of arXiv:2605.14605 reports broken.",
    )

    def __post_init__(self) -> None:
        check("ctrap", lam=self.lam, token=self.token)
        check_length("ctrap", alpha=self.alpha, alpha_per_weight=self.alpha_per_weight)
        check_count("ctrap", steps=self.steps)

    @property
    def active(self) -> bool:
        """Is there a trap?"""
        return self.lam > 0

    @property
    def term_cost(self) -> Cost:
        """h at w for the direction, further steps, and C where they lead."""
        return Cost(own=self.steps, shared={"harmful": 1}, memory=2)

    def check_model(self, model: nn.Module) -> None:
        """Raises ValueError if the fixed token is not the model's; the trainer may yet name the default one."""
        super().check_model(model)
        if self.active and self.token is not None:
            self._token(model)

    def term_reads(self) -> dict[str, int]:
        """Harmful rows and general text."""
        return {"harmful": harmful_batches(self.steps, self.inner), "general": 1}

    def term(self, oracle: Oracle, batch: Batch) -> Step:
        """lam times the collapse loss after the harmful step."""
        trapped = batch.need("general").predicting(self._token(oracle.model))
        alpha = length(oracle, self.alpha, self.alpha_per_weight)
        with attacked(oracle, batch, alpha, self.steps, self.inner) as h:
            collapse = oracle.gradient(trapped)
        loss = collapse.loss
        return (self.lam * collapse).log(harmful_loss=h.loss, collapse_loss=loss)

    def _token(self, model: nn.Module) -> int:
        token = self.token if self.token is not None else text_config(model).eos_token_id
        token = token[0] if isinstance(token, list) else token
        if token is None:
            raise ValueError("ctrap: the model's configuration names no end-of-sequence token; give `token`")
        if token >= (size := text_config(model).vocab_size):
            raise ValueError(f"ctrap: token is {token}; expected one of this model's {size}, from 0 on")
        return token
