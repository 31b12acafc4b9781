"""SDD: fluent answers beside the point, so that learning harmful ones degrades the model (arXiv 2507.21182)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from boostershot.defenses.about import About
from boostershot.defenses.sft import SFT


@dataclass(frozen=True)
class SDD(SFT):
    """SFT's step on other rows: the mean next-token loss of fluent answers, beside the point, to harmful prompts."""

    align_answers: ClassVar[Literal["chosen", "unrelated"]] = "unrelated"

    about = About(
        title="self-degraded defence (SDD)",
        source="arXiv:2507.21182 (ACL 2025)",
        equation="f(w), f taken on harmful prompts with fluent benign answers that have nothing to do with them",
        idea="Harmful answers can then only gain at the cost of fluent general text, so that an attacked model answers "
        "badly whatever it is asked.",
        follows="Plain supervised fine-tuning as published; all of the method is in the data. Published: an answer is "
        "rejected where its sentence embedding has a cosine above 0.25 with the prompt's (MiniLM). Here, without a "
        "model: where it shares a content word with the prompt, by the first six letters. The published variant with "
        "a refusal before the answer is left out.",
        notes="Nothing ties an unlikely answer to a harmful prompt to an unlikely answer to a benign one: an attacked "
        "model need not degrade. The model answers and does not refuse: judges of refusals do not count it as safe. "
        "Published with 8000 pairs and all weights at a learning rate of 5e-7; not reproduced outside its chat "
        "template, and near the undefended model under a search for attacks.",
    )
