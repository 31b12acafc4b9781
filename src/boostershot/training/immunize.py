"""The alignment stage: a model and preference data in, an immunised model out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from transformers import TrainerCallback
from transformers.modeling_utils import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.trainer_utils import set_seed

from boostershot.data.format import Format
from boostershot.data.rows import Completion, HarmfulPrompt, harmful_prompts
from boostershot.data.unrelated import unrelated_answers
from boostershot.defenses.defense import Defense, reader_of_layers
from boostershot.defenses.finishing import stages_of
from boostershot.errors import InputError
from boostershot.training.arguments import ImmunizeArguments, attach_lora
from boostershot.training.checkpoints import training_facts
from boostershot.training.data import RolesDataset
from boostershot.training.finish import align_and_finish
from boostershot.training.metrics import MetricsFile
from boostershot.training.trainer import train


def immunize(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Iterable[Mapping[str, Any]] | Sequence[HarmfulPrompt],
    defense: Defense,
    args: ImmunizeArguments,
    *,
    harmful: Sequence[Completion] = (),
    general: Sequence[Completion] = (),
    dev: Sequence[Completion] = (),
    template: str = "auto",
    max_length: int = 256,
    callbacks: Sequence[TrainerCallback] = (),
) -> Any:
    """Align `model` on the safe answers with `defense`, and return it (with its LoRA adapter attached, if any).

    Training goes on from the last whole checkpoint in `args.output_dir`, to the same weights bit for bit. Stages that
    follow the alignment (LoX, NoiseAndDistil) run after it, and keep what they finish there too.

    Args:
        model: any causal language model, float32.
        tokenizer: its tokenizer, with a padding token.
        dataset: rows of `prompt, chosen, rejected` (TRL's preference format), such as a `datasets.Dataset`;
            `rejected` may be missing where the defence reads no harmful or paired rows, or `harmful` gives them.
        defense: such as `Booster(lam=20, alpha_per_weight=2.3e-5)`.
        args: training arguments; `lora=None` trains the weights that require a gradient.
        harmful: unpaired harmful rows to use in place of `rejected` (paired rows are always `rejected`).
        general: benign questions and answers, for defences that read general text or align on unrelated answers.
        dev: harmful rows that nothing else is trained or scored on, for defences that are steered by them.
        template: auto, chat or alpaca.
        max_length: tokens of a row; longer answers are cut.
        callbacks: further `TrainerCallback`s, also of the trainings of stages that follow.

    Raises:
        InputError: a row is bad, the defence needs rows of a kind and there are none, layers are to be cached and
            the defence reads them or the model cannot be started above them, or `args.output_dir` holds what another
            training or program left.
        ValueError: a stage that follows an alignment is a part of another defence.
        NonFiniteError: a loss or gradient is not finite; names the rows.
    """
    alignment, stages = stages_of(defense)
    if args.cached_layers and (reader := reader_of_layers(defense)):
        raise InputError(f"cached_layers is {args.cached_layers}; {reader} needs all layers, expected 0")
    reads = alignment.reads()
    need_rejected = "paired" in reads or ("harmful" in reads and not harmful)
    rows = _preference_rows(dataset, need_rejected=need_rejected)
    set_seed(args.seed)  # the adapter's initial weights
    form = Format.choose(tokenizer, template)
    answers = _answers(rows, harmful, general, dev, defense)
    tokenized = {
        role: [
            form.tokenize(prompt, answer, name=f"{name} ({role})", max_length=max_length)
            for name, prompt, answer in answers[role]
        ]
        for role in sorted({*reads}.union(*(stage.finish_reads() for stage in stages)))
    }

    def rows_read(batches: Mapping[str, int]) -> RolesDataset:
        return RolesDataset({role: tokenized[role] for role in sorted(batches)}, args.seed, batches)

    if args.lora is not None:
        model = attach_lora(model, {**args.lora, "first_layer": args.cached_layers})  # type: ignore[assignment]

    def align() -> Any:
        return train(model, alignment, args, rows_read(reads), tokenizer, callbacks)

    if not stages:
        return align()
    facts = training_facts(defense, rows_read(dict.fromkeys(tokenized, 1)).facts(), model, args)
    theirs = [callback for callback in callbacks if not isinstance(callback, MetricsFile)]  # each has its own file
    align_and_finish(model, align, stages, args, rows_read, tokenizer, facts, theirs)
    return model


def _preference_rows(dataset: Iterable[Any], need_rejected: bool) -> list[HarmfulPrompt]:
    records = list(dataset)
    if records and isinstance(records[0], HarmfulPrompt):
        return records
    return harmful_prompts(records, "dataset", {}, need_rejected=need_rejected)


def _answers(
    rows: Sequence[HarmfulPrompt],
    harmful: Sequence[Completion],
    general: Sequence[Completion],
    dev: Sequence[Completion],
    defense: Defense,
) -> dict[str, list[tuple[str, str, str]]]:
    """Name, prompt and answer of the rows of each role; those that the defence reads are not empty."""
    name = type(defense).__name__.lower()
    if "general" in defense.needs() and not general:
        raise InputError(f"{name} needs general text: give `general` rows (in a recipe: data.general)")
    if defense.answers() == "unrelated":
        safe = list(zip(rows, unrelated_answers(rows, general), strict=True))
    else:
        safe = [(row, row.chosen) for row in rows if row.chosen is not None]
    if not safe:
        raise InputError("alignment data: no row has a `chosen` answer; expected at least one")
    answers = {
        "align": [(row.id, row.prompt, answer) for row, answer in safe],
        "paired": [(row.id, row.prompt, row.rejected) for row, _ in safe if row.rejected is not None],
        "harmful": [(row.id, row.prompt, row.completion) for row in harmful]
        or [(row.id, row.prompt, row.rejected) for row in rows if row.rejected is not None],
        "general": [(row.id, row.prompt, row.completion) for row in general],
        "dev": [(row.id, row.prompt, row.completion) for row in dev],
    }
    reads = defense.reads()
    if "harmful" in reads and not answers["harmful"]:
        raise InputError(f"{name} needs harmful rows: give `rejected` answers or data.harmful, or set lam to 0")
    if "paired" in reads and len(answers["paired"]) < len(answers["align"]):
        lacking = next(row.id for row, _ in safe if row.rejected is None)
        raise InputError(f"{name} needs a harmful answer to each aligned prompt: row {lacking} has no `rejected`")
    if "dev" in reads and not dev:
        raise InputError(f"{name} is steered by dev rows: give `dev` rows")
    return answers
