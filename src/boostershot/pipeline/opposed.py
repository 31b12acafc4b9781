"""A defence's own term, for an attacker who pushes against it: attacks know nothing of defences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from boostershot.core.oracle import Oracle
from boostershot.core.step import Batch, Step
from boostershot.data.format import TokenizedRow
from boostershot.defenses.defense import Cost, Defense, Regularizer
from boostershot.defenses.finishing import stages_of
from boostershot.defenses.sft import SFT
from boostershot.training.data import RolesCollator, RolesDataset, rows_of

Term = Callable[[Oracle, Batch], Step]


def term_of(defense: Defense) -> Term | None:
    """A defence's objective less its plain alignment loss f, as a loss with a gradient; None where nothing is left.

    A regulariser's is its term, and those of what it aligns by; that of a defence which changes f itself (Vaccine, SAM)
    is its step less SFT's on the same rows. Of a defence with further stages after the alignment, the alignment's.
    Approximations of it are the defender's to save time: what is opposed is the exact term.
    """
    alignment, _ = stages_of(defense.exact())
    if isinstance(alignment, SFT):
        return None
    if not isinstance(alignment, Regularizer):
        return lambda oracle, batch: alignment.step(oracle, batch) - SFT().step(oracle, batch)
    inner = term_of(alignment.align)
    if not alignment.active:
        return inner
    if inner is None:
        return alignment.term
    return lambda oracle, batch: alignment.term(oracle, batch) + inner(oracle, batch)


def passes_of(defense: Defense) -> float:
    """Forward-backward passes over a batch that its term takes in an attacker's step."""
    alignment, _ = stages_of(defense.exact())
    if isinstance(alignment, SFT):
        return 0
    if not isinstance(alignment, Regularizer):
        return alignment.passes + 1
    cost = alignment.term_cost if alignment.active else Cost()
    return cost.passes_away + cost.once + passes_of(alignment.align)  # nobody shares a gradient with it


def opposed(
    defense: Defense, roles: Mapping[str, Sequence[TokenizedRow]], batch: int, pad_id: int, seed: int
) -> Callable[[Oracle], Step] | None:
    """The defence's term at each step of an attack, on rows that the attacker has; None where there is none.

    Args:
        defense: as it aligned the model.
        roles: role -> the attacker's own rows: harmful questions of his data, his answers to them (harmful, paired) and
            refusals (align); general text.
        batch: rows of a step.
        pad_id: of the tokenizer.
        seed: of the rows' order.
    """
    term = term_of(defense)
    if term is None:
        return None
    alignment, _ = stages_of(defense)
    reads = alignment.reads()
    rows = RolesDataset({role: roles[role] for role in reads}, seed, reads)
    collator = RolesCollator(pad_id)

    def at(oracle: Oracle) -> Step:
        first = oracle.step * batch
        items = [rows[(first + i) % len(rows)] for i in range(min(batch, len(rows)))]
        collated = {role: rows_of(part) for role, part in collator(items).items()}
        return term(oracle, Batch(**collated, parts=reads))

    return at
