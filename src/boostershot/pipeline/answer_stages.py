"""The answers' stage: what a model says, before any judge."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from boostershot.data.asking import PLAIN, Asking
from boostershot.data.format import Format
from boostershot.data.rows import HarmfulPrompt
from boostershot.evaluation.evaluate import answer_all
from boostershot.evaluation.vllm_generation import generate_with_vllm
from boostershot.models import Layer, load_chain
from boostershot.pipeline.artifacts import write_answers
from boostershot.pipeline.data import LOSS_ROWS
from boostershot.pipeline.files import read_jsonl
from boostershot.pipeline.kept import KeptAnswers

if TYPE_CHECKING:
    from boostershot.pipeline.stages import Stages


@dataclass(frozen=True)
class Asked:
    """How a model is asked.

    Args:
        template: None for the recipe's.
        asking: what stands around a harmful question.
    """

    template: str | None = None
    asking: Asking = PLAIN

    def forms(self, tokenizer: PreTrainedTokenizerBase, template: str) -> tuple[Format, Format]:
        """The format of a harmful prompt and that of a task's; `template` is the recipe's."""
        form = Format.choose(tokenizer, self.template or template)
        return form.asked(self.asking), form.asked(self.asking.for_task())


USUAL = Asked()


def answers(stages: Stages, of: Path | None, layers: Sequence[Layer], what: str, asked: Asked = USUAL) -> Path:
    """`answers.jsonl` and `task.jsonl`: what the model that the layers make answers, and its harmful losses.

    No judge has a say here: another judge, or another calibration, generates nothing again.

    Args:
        of: the stage that made the last layer; None for the base model.
        layers: what to stack on the base model.
        what: for the progress line.
        asked: how.
    """
    settings = stages.recipe.evaluate
    rows_folder = stages.held_out()
    config = {
        **stages.identity(),
        "layers": [f"{layer.folder.parent.name}/{layer.folder.name}" for layer in layers],
        "evaluate": settings.model_dump(mode="json", exclude={"judges", "preference"}),
        "compared": settings.preference is not None,
        "asked": asdict(asked),
        "task": stages.data.scoring_identity(),
        "max_length": stages.recipe.data.max_length,
    }

    def work(folder: Path) -> dict[str, Any]:
        prompts = [HarmfulPrompt(**row) for row in read_jsonl(rows_folder / "rows.jsonl")]
        task = stages.data.task
        task_rows = list(task.splits[settings.split])[: settings.n_task]
        total = len(prompts) + len(task_rows) + LOSS_ROWS
        kept = KeptAnswers(folder / "kept.txt")
        weights = folder / "merged"
        shutil.rmtree(weights, ignore_errors=True)  # of a kill; whoever generates now, they are no part of it
        if stages.recipe.runtime.generator == "vllm":
            wanted = [[row.prompt for row in prompts], [row.prompt for row in task_rows]]
            if not kept.answers.keys() >= {prompt for some in wanted for prompt in some}:
                _answer_with_vllm(stages, wanted, asked, layers, kept, weights, what)
        with stages.reporter.bar(f"answering: {what}", total) as advance:
            model, tokenizer = load_chain(stages.recipe.model.id, layers)
            answers = answer_all(
                model,
                *asked.forms(tokenizer, stages.recipe.model.template),
                prompts,
                task,
                task_rows,
                max_new_tokens=settings.max_new_tokens,
                batch_size=stages.recipe.runtime.generation_batch_size,
                max_length=stages.recipe.data.max_length,
                compared=settings.preference is not None,
                known=kept.answers,
                keep=kept.add,
                advance=advance,
            )
            del model
            gc.collect()
        write_answers(folder, answers)
        kept.drop()
        return {"n_harmful": len(answers.answers), "n_task": len(answers.task)}

    return stages.store.run("answers", config, [rows_folder, *([of] if of else [])], work)


def _answer_with_vllm(
    stages: Stages,
    wanted: Sequence[Sequence[str]],
    asked: Asked,
    layers: Sequence[Layer],
    kept: KeptAnswers,
    weights: Path,
    what: str,
) -> None:
    """Fill `kept` before the model itself is loaded: the two would not fit beside each other on a GPU.

    Args:
        wanted: the harmful prompts, and the task's.
    """
    model, tokenizer = load_chain(stages.recipe.model.id, [replace(layer, merge=True) for layer in layers])
    model.save_pretrained(weights, safe_serialization=True)
    tokenizer.save_pretrained(weights)
    del model
    gc.collect()
    forms = asked.forms(tokenizer, stages.recipe.model.template)
    groups = list(zip(forms, wanted, strict=True))
    if forms[0] == forms[1]:  # one engine for all
        groups = [(forms[0], [prompt for prompts in wanted for prompt in prompts])]
    with stages.reporter.bar(f"answering with vLLM: {what}", sum(map(len, wanted))) as advance:
        for form, prompts in groups:
            generate_with_vllm(
                weights,
                form,
                prompts,
                max_new_tokens=stages.recipe.evaluate.max_new_tokens,
                known=kept.answers,
                keep=kept.add,
                advance=advance,
            )
    shutil.rmtree(weights)
