"""Refusal taken out of the weights without any training: directional ablation (Arditi et al., arXiv 2406.11717)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from boostershot.attacks.attack import AttackRow, Counted
from boostershot.errors import InputError

if TYPE_CHECKING:  # torch comes with it
    from boostershot.data.format import Format

CHOOSING = 16  # harmful rows by which the layer is chosen
TOKENS = 16  # of each of their answers: whether it is a refusal is decided early


@dataclass(frozen=True)
class Ablation(Counted):
    """The refusal direction, a difference of mean hidden states, projected out of the weights without any training.

    Directional ablation after Arditi et al., "Refusal in language models is mediated by a single direction", arXiv
    2406.11717: the mean over harmful prompts less the mean over harmless ones, at the prompt's last token. The harmless
    prompts are the recipe's general text, if it has any, else the benign task's; a task with a wording of its own makes
    the direction that of the wording, too. An adapter is merged first.

    Writing matrices are the attention's and the feed-forward block's last and the embeddings (a tied output embedding
    with them): the residual stream then holds nothing along the direction. Reading matrices are those that are given
    a block's input (queries, keys, values, gate and up): the stream holds it, and no block sees it.

    Args:
        n: harmful prompts, and as many harmless ones, of which the means are taken.
        matrices: which of them the direction is projected out of.
        layer: the decoder layer, from 0, after which the hidden states are read; None chooses one of the middle
            three fifths, by how seldom the model then begins with a refusal and the loss of the harmful answers.

    Raises:
        ValueError: n is below 1, or the layer below 0.
    """

    n: int = 64
    matrices: Literal["reading", "writing", "both"] = "writing"
    layer: int | None = None

    name = "ablation"
    trains: ClassVar[bool] = False
    edits: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layer is not None and self.layer < 0:
            raise ValueError(f"layer is {self.layer}; expected 0 or more")

    @property
    def n_harmful(self) -> int:
        """The harmful side of the difference."""
        return self.n

    @property
    def n_benign(self) -> int:
        """The harmless side of the difference."""
        return self.n

    @property
    def p(self) -> float:
        """Of no training."""
        return 0.0

    def edit(self, model: Any, form: Format, pool: Sequence[AttackRow], max_length: int) -> None:
        """Take the direction out of the model's weights; the harmful rows choose the layer.

        Raises:
            InputError: there are too few rows of a kind, or the model has no such layer.
            ValueError: the matrices are not recognised.
        """
        from boostershot.attacks.direction import best_layer, mean_differences, take_out
        from boostershot.core.stream import residual_stream

        harmful, harmless = ([row for row in pool if row.harmful is kind][: self.n] for kind in (True, False))
        for rows, kind in ((harmful, "harmful"), (harmless, "benign")):
            if len(rows) < self.n:
                raise InputError(f"{self.name}: needs {self.n} {kind} rows; the data has {len(rows)}")
        directions = mean_differences(model, form, [row.prompt for row in harmful], [row.prompt for row in harmless])
        layer = self.layer
        if layer is None:
            common: dict[str, Any] = {"max_length": max_length, "end": False}
            answered = [
                (row.prompt, form.tokenize(row.prompt, form.cut(row.completion, TOKENS), **common, name=row.id))
                for row in harmful[:CHOOSING]
            ]
            layer = best_layer(model, form, directions, self.matrices, answered)
        elif layer >= len(directions):
            raise InputError(f"{self.name}: layer is {layer}; expected one of the model's {len(directions)}, from 0")
        take_out(residual_stream(model), directions[layer], self.matrices)
