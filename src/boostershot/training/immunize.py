"""The alignment stage: a model and preference data in, an immunised model out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, TrainerCallback
from transformers.modeling_utils import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.trainer_utils import set_seed

from boostershot.data.format import Format
from boostershot.data.rows import Completion, HarmfulPrompt, harmful_prompts
from boostershot.defenses.defense import Defense
from boostershot.errors import InputError
from boostershot.training.arguments import ImmunizeArguments, attach_lora
from boostershot.training.checkpoints import MarkWhole, last_whole_checkpoint
from boostershot.training.data import RolesDataset
from boostershot.training.trainer import DefenseTrainer


def immunize(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Iterable[Mapping[str, Any]] | Sequence[HarmfulPrompt],
    defense: Defense,
    args: ImmunizeArguments,
    *,
    harmful: Sequence[Completion] = (),
    template: str = "auto",
    max_length: int = 256,
    callbacks: Sequence[TrainerCallback] = (),
) -> Any:
    """Align `model` on the safe answers with `defense`, and return it (with its LoRA adapter attached, if any).

    Training goes on from the last whole checkpoint in `args.output_dir`, to the same weights bit for bit.

    Args:
        model: any causal language model, float32.
        tokenizer: its tokenizer, with a padding token.
        dataset: rows of `prompt, chosen, rejected` (TRL's preference format), such as a `datasets.Dataset`;
            `rejected` may be missing where the defence reads no harmful rows or `harmful` gives them.
        defense: such as `Booster(lam=20, alpha_per_weight=2.3e-5)`.
        args: training arguments; `lora=None` trains the weights that require a gradient.
        harmful: unpaired harmful rows to use in place of `rejected`.
        template: auto, chat or alpaca.
        max_length: tokens of a row; longer answers are cut.
        callbacks: further `TrainerCallback`s.

    Raises:
        InputError: a row is bad, or the defence needs harmful rows and there are none.
        NonFiniteError: a loss or gradient is not finite; names the rows.
    """
    rows = _preference_rows(dataset, need_rejected="harmful" in defense.reads() and not harmful)
    set_seed(args.seed)  # the adapter's initial weights
    form = Format.choose(tokenizer, template)
    roles = _roles(rows, harmful, defense, form, max_length)
    if args.lora is not None:
        model = attach_lora(model, args.lora)  # type: ignore[assignment]
    trainer = DefenseTrainer(model, defense, args, RolesDataset(roles, args.seed), tokenizer, [MarkWhole(), *callbacks])
    if args.disable_tqdm:
        trainer.remove_callback(PrinterCallback)  # the stock trainer prints every log where it shows no bar
    checkpoint = last_whole_checkpoint(Path(str(args.output_dir)))
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return trainer.accelerator.unwrap_model(trainer.model)


def _preference_rows(dataset: Iterable[Any], need_rejected: bool) -> list[HarmfulPrompt]:
    records = list(dataset)
    if records and isinstance(records[0], HarmfulPrompt):
        return records
    return harmful_prompts(records, "dataset", {}, need_rejected=need_rejected)


def _roles(
    rows: Sequence[HarmfulPrompt],
    harmful: Sequence[Completion],
    defense: Defense,
    form: Format,
    max_length: int,
) -> dict[str, list[Any]]:
    """The tokenised rows of each role that the defence reads."""
    safe = [(row.id, row.prompt, row.chosen) for row in rows if row.chosen is not None]
    unsafe = [(row.id, row.prompt, row.completion) for row in harmful] or [
        (row.id, row.prompt, row.rejected) for row in rows if row.rejected is not None
    ]
    if not safe:
        raise InputError("alignment data: no row has a `chosen` answer; expected at least one")
    if "harmful" in defense.reads() and not unsafe:
        raise InputError(
            f"{type(defense).__name__.lower()} needs harmful rows: give `rejected` answers or data.harmful, "
            "or set lam to 0"
        )
    wanted = {"align": safe, "harmful": unsafe}
    return {
        role: [
            form.tokenize(prompt, answer, name=f"{name} ({role})", max_length=max_length)
            for name, prompt, answer in wanted[role]
        ]
        for role in sorted(defense.reads())
    }
