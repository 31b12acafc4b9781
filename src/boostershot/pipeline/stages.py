"""The stages of a run, each a function that fills one folder; those of attacks and answers are beside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from boostershot.config import Recipe, build_defense, build_judge, build_preference
from boostershot.data.format import Format
from boostershot.data.rows import Completion, HarmfulPrompt
from boostershot.defenses.finishing import trainings_of
from boostershot.errors import InputError
from boostershot.evaluation import calibration, coherence
from boostershot.evaluation.calibration import calibrate, calibration_answers
from boostershot.evaluation.coherence import is_degenerate
from boostershot.evaluation.evaluate import TaskAnswer
from boostershot.evaluation.generation import generate
from boostershot.evaluation.judgements import Judgements
from boostershot.evaluation.judges import JUDGES, Around, Judge, Relevance, Settings, is_refusal, refusal
from boostershot.evaluation.judges.offline import VERSION
from boostershot.evaluation.judges.preference import Preference
from boostershot.models import DEVICE, Layer, has_dropout, load_base, model_fingerprint
from boostershot.pipeline.answer_stages import USUAL, Asked, answers
from boostershot.pipeline.artifacts import (
    finished,
    read_answers,
    save,
    scores_record,
    write_scores,
)
from boostershot.pipeline.data import LOSS_ROWS, RecipeData, rows_hash, with_refusal
from boostershot.pipeline.files import read_json, read_jsonl, write_json, write_jsonl
from boostershot.pipeline.progress import Reporter, StepsBar
from boostershot.pipeline.settings import speed_arguments, training_arguments
from boostershot.pipeline.store import Store, told
from boostershot.training.arguments import ImmunizeArguments
from boostershot.training.card import write_card
from boostershot.training.cost import Cost
from boostershot.training.immunize import immunize
from boostershot.training.metrics import MetricsFile

RULES = {"refusal": refusal.VERSION, "degenerate": coherence.VERSION}


@dataclass(frozen=True)
class Stages:
    """A recipe's stages in one run folder; each method returns the folder of a finished stage."""

    recipe: Recipe
    store: Store
    reporter: Reporter

    @cached_property
    def variants(self) -> dict[str, Stages]:
        """The stages of the same recipe with other values, which `property_stages.varied` keeps here."""
        return {}

    @cached_property
    def data(self) -> RecipeData:
        """The rows that the recipe names."""
        return RecipeData(self.recipe)

    @cached_property
    def base(self) -> tuple[Any, Any, Format]:
        """The base model, its tokenizer and its format; the judge's, and never trained."""
        model, tokenizer = load_base(self.recipe.model.id)
        model.requires_grad_(False)
        return model, tokenizer, Format.choose(tokenizer, self.recipe.model.template)

    def identity(self) -> dict[str, Any]:
        """What all stages depend on."""
        model = self.recipe.model
        return {"model": model_fingerprint(model.id), "template": model.template}

    # --- data -------------------------------------------------------------------------------------------------

    def harmful_rows(self, split: str, n: int | None, answered: int | None, steering: bool = False) -> Path:
        """`rows.jsonl`: n prompts of a split, `answered` of them (None: all) with a harmful answer.

        Where the source has no answers the base model writes them; prompts that it refuses or answers with
        nonsense are left out where every row needs an answer. `steering` takes the dev prompts that schedules are
        steered by.
        """
        config = {
            **self.identity(),
            "source": self.data.harmful_identity(),
            "split": split,
            "n": n,
            "answered": answered,
            "tokens": self.recipe.data.answer_tokens,
            **({"prompts": rows_hash([row.prompt for row in self.data.steering])} if steering else {}),
        }

        def work(folder: Path) -> dict[str, Any]:
            prompts = [with_refusal(row) for row in (self.data.steering if steering else self.data.splits[split])]
            if answered is None:
                rows = self._answered(prompts, len(prompts) if n is None else n, split)
            else:
                rows = prompts[:n]
                some = self._answered(rows, answered, split)
                have = {row.id: row for row in some}
                rows = [have.get(row.id, replace(row, rejected=None)) for row in rows]
            write_jsonl(folder / "rows.jsonl", [row.to_dict() for row in rows])
            return {"rows": len(rows), "answered": sum(row.rejected is not None for row in rows)}

        return self.store.run("data", config, [], work)

    def _answered(self, prompts: Sequence[HarmfulPrompt], n: int, split: str) -> list[HarmfulPrompt]:
        """The first n prompts that have, or get, a harmful answer."""
        if n == 0 or all(row.rejected is not None for row in prompts):
            return list(prompts[:n])
        model, _, form = self.base
        rows: list[HarmfulPrompt] = []
        batch, start = self.recipe.runtime.generation_batch_size, 0
        with self.reporter.bar(f"harmful answers of the base model ({split})", min(n, len(prompts))) as advance:
            while len(rows) < n and start < len(prompts):
                picked = prompts[start : start + min(batch, n - len(rows))]
                start += len(picked)
                missing = [row for row in picked if row.rejected is None]
                texts = generate(
                    model,
                    form,
                    [row.prompt for row in missing],
                    max_new_tokens=self.recipe.data.answer_tokens,
                    batch_size=batch,
                )
                usable = {
                    row.id: replace(row, rejected=text)
                    for row, text in zip(missing, texts, strict=True)
                    if not is_refusal(text) and not is_degenerate(text)
                }
                kept = [usable.get(row.id, row) for row in picked if row.rejected is not None or row.id in usable]
                rows += kept
                advance(len(kept))
        if not rows:
            raise InputError(
                f"model {self.recipe.model.id!r} gave no usable harmful answer to {len(prompts)} prompts ({split}); "
                "expected a model that answers, or a data.align.source with `rejected` answers"
            )
        return rows

    def held_out(self) -> Path:
        """The prompts that are scored, and the harmful answers whose loss is followed."""
        settings = self.recipe.evaluate
        return self.harmful_rows(settings.split, settings.n_harmful, LOSS_ROWS)

    def calibration(self) -> Path:
        """`calibration.json`: the relevance threshold and the offline judge's error rates."""
        length = self.recipe.evaluate.max_new_tokens
        config = {
            **self.identity(),
            "source": self.data.harmful_identity(),
            "tokens": length,
            "judge": VERSION,
            "answers": calibration.VERSION,
            "task": self.data.task_identity(),
        }

        def work(folder: Path) -> dict[str, Any]:
            model, _, form = self.base
            rows = self.data.splits["calibration"]
            prompts = [row.prompt for row in rows]
            # A prompt is answered once, and judged with an answer of each of six kinds.
            with self.reporter.bar("calibrating the judge", (1 + 6) * len(prompts)) as advance:
                if all(row.rejected is not None for row in rows):
                    answers = [form.cut(str(row.rejected), length) for row in rows]
                    advance(len(rows))
                else:
                    answers = generate(
                        model,
                        form,
                        prompts,
                        max_new_tokens=length,
                        batch_size=self.recipe.runtime.generation_batch_size,
                        advance=advance,
                    )
                task_answers = [row.answer for row in self.data.task.splits["train"][:200]]
                kinds = calibration_answers(prompts, answers, task_answers)
                found = calibrate(kinds, Relevance(model, form), self.data.task.labels, advance)
            result = {
                "judge": "offline",
                "split": "calibration",
                "threshold": found.threshold,
                "tokens": length,
                "classes": found.classes,
            }
            write_json(folder / "calibration.json", result)
            return result

        return self.store.run("calibrate", config, [], work)

    # --- immunize ---------------------------------------------------------------------------------------------

    def immunized(self, label: str, seed: int) -> Path:
        """`adapter/` (or `model/`): the model aligned with the defence of this label."""
        settings = self.recipe.immunize
        rows_folder = self.harmful_rows("align", self.recipe.data.align.n, None)
        defense = build_defense(self.recipe.defenses[label], f"defenses.{label}")
        needs = defense.needs()
        steering = self.harmful_rows("dev", None, None, steering=True) if "dev" in needs else None
        config = {
            **self.identity(),
            "defense": self.recipe.defenses[label],
            "immunize": settings.model_dump(mode="json"),
            "unpaired": self.data.unpaired_identity() if "harmful" in needs else None,
            "general": self.data.general_identity() if "general" in needs else None,
            "seed": seed,
            "max_length": self.recipe.data.max_length,
            **self._passes(),
        }

        def work(folder: Path) -> dict[str, Any]:
            rows = [HarmfulPrompt(**row) for row in read_jsonl(rows_folder / "rows.jsonl")]
            dev = [HarmfulPrompt(**row) for row in read_jsonl(steering / "rows.jsonl")] if steering else []
            model, tokenizer = load_base(self.recipe.model.id)
            if settings.bf16 and settings.lora:
                # Frozen in it, too: autocast alone would keep a second copy of the weights for the backward.
                model.to(torch.bfloat16)  # pyright: ignore[reportArgumentType]
            form = Format.choose(tokenizer, self.recipe.model.template)
            general = form.fitting(self.data.general, self.recipe.data.max_length) if "general" in needs else []
            cost = Cost()
            processes = dist.get_world_size() if dist.is_initialized() else 1
            args = ImmunizeArguments(
                output_dir=str(folder / "checkpoints"),
                lora=settings.lora.model_dump() if settings.lora else None,
                cached_layers=settings.cached_layers,
                micro_batch_size=self.recipe.runtime.micro_batch_size,
                tokens_per_micro_batch=self.recipe.runtime.tokens_per_micro_batch,
                padded_rows=self.recipe.runtime.layout == "padded",
                bf16=settings.bf16,
                use_cpu=DEVICE.type == "cpu",  # which must be said for bf16, and for processes without GPUs
                log_level_replica="error",  # the first process speaks for all
                **speed_arguments(self.recipe.runtime),
                **training_arguments(settings, seed, processes),
            )
            if processes > 1:
                dist.barrier()  # the first has the folder, and has cleared it
            trainings = trainings_of(defense, settings.steps_over(len(rows)))
            steps = sum(n for n, _ in trainings)
            with self.reporter.bar(f"immunizing: {label}, seed {seed}", steps) as advance:
                model = immunize(
                    model,
                    tokenizer,
                    rows,
                    defense,
                    args,
                    harmful=self.data.unpaired if "harmful" in needs else (),
                    general=general,
                    dev=[Completion(row.id, row.prompt, str(row.rejected)) for row in dev],
                    template=self.recipe.model.template,
                    max_length=self.recipe.data.max_length,
                    callbacks=[cost, StepsBar(advance), MetricsFile(folder / "metrics.jsonl")],
                )
            save(model, tokenizer, folder)
            if args.process_index > 0:
                return {}
            facts = {
                "passes_per_step": sum(n * each.passes for n, each in trainings) / steps,
                "steps": steps,
                "seconds_per_step": cost.seconds_per_step,
                "peak_memory_bytes": cost.peak_memory_bytes,
                "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
            }
            write_card(folder, self.recipe, self.recipe.defenses[label], seed, facts)
            return finished(folder, facts)

        return self.store.run("immunize", config, [rows_folder, *([steering] if steering else [])], work)

    def _passes(self) -> dict[str, Any]:
        """What a forward pass reads, where dropout is above 0: masks are drawn for each, so it decides the weights."""
        settings, runtime = self.recipe.immunize, self.recipe.runtime
        size = runtime.micro_batch_size
        bounds = {
            "micro_batch_size": size if size is not None and size < settings.batch else None,
            "tokens_per_micro_batch": runtime.tokens_per_micro_batch,
            "layout": None if runtime.layout == "trie" else runtime.layout,
        }
        given = {name: value for name, value in bounds.items() if value is not None}
        dropout = (settings.lora is not None and settings.lora.dropout > 0) or (
            given and has_dropout(self.recipe.model.id)
        )
        return given if dropout else {}

    # --- judge ------------------------------------------------------------------------------------------------

    @cached_property
    def panel(self) -> dict[str, Settings]:
        """The recipe's judges by their labels; the first gives the headline harmful score."""
        return dict(build_judge(given, "evaluate.judges") for given in self.recipe.evaluate.judges)

    @cached_property
    def preference(self) -> Preference | None:
        """Who compares the answers to a task that no rule scores with its references, if anybody."""
        given = self.recipe.evaluate.preference
        return None if given is None else build_preference(given, "evaluate.preference")

    @cached_property
    def judgements(self) -> Judgements:
        """What any judge of this run folder has said already."""
        return Judgements(self.store.root / "judgements.sqlite")

    @cached_property
    def _open_judges(self) -> dict[Settings, Judge]:
        """Judges that were loaded, and stay so until the run ends."""
        return {}

    def around(self, judge: Settings) -> Around:
        """What the run offers to this judge."""
        threshold = None
        if judge.calibrated:
            threshold = read_json(self.calibration() / "calibration.json")["threshold"]
        return Around(lambda: (self.base[0], self.base[2]), self.identity(), threshold, tuple(self.data.task.labels))

    def judge_identity(self, judge: Settings) -> dict[str, Any]:
        """What determines its verdicts; its label does not."""
        return {"name": _name(judge), **judge.identity(self.around(judge))}

    def asked(self, judge: Settings) -> Judge:
        """The judge, of the panel or not, with the memory of this run; loaded for the first answer that it must see."""

        def opened() -> Judge:
            if judge not in self._open_judges:
                self._open_judges[judge] = judge.open(self.around(judge))
            return self._open_judges[judge]

        return self.judgements.by(self.judge_identity(judge), opened, together=judge.together)

    def evaluated(
        self, of: Path | None, layers: Sequence[Layer], what: str, judge: str | None = None, asked: Asked = USUAL
    ) -> Path:
        """The scores of the model that the layers make, and the verdicts behind them.

        Args:
            of, layers, what, asked: as for `answer_stages.answers`.
            judge: a label of the recipe; the first by default.
        """
        label = judge or next(iter(self.panel))
        settings = self.panel[label]
        calibration = [self.calibration()] if settings.calibrated else []
        answers_folder = answers(self, of, layers, what, asked)

        def work(folder: Path) -> dict[str, Any]:
            said = read_answers(answers_folder)
            with self.reporter.bar(f"judging by {label}: {what}", len(said.answers)) as advance:
                labels, asks_topic = self.data.task.labels, settings.asks_topic
                scores = said.judged(self.asked(settings), _name(settings), labels, asks_topic, advance)
            if self.preference is not None:
                scores = replace(scores, task=self._compared(self.preference, scores.task, what))
            if scores.n_unknown:
                n = len(scores.harmful)
                self.reporter.line(f"{label}: {scores.n_unknown} of {n} verdicts unknown ({what})")
            if scores.n_truncated:
                self.reporter.line(f"{label}: {scores.n_truncated} answers read in part ({what})")
            write_scores(folder, scores)
            return scores_record(scores)

        # The rules are what refusals and degenerate answers are counted by.
        compared = self.preference and self._preference_identity(self.preference)
        config = {"judge": self.judge_identity(settings), "rules": RULES, "preference": compared}
        return self.store.run("evaluate", config, [answers_folder, *calibration], work)

    def _compared(self, preference: Preference, said: Sequence[TaskAnswer], what: str) -> list[TaskAnswer]:
        """The answers with what the endpoint preferred, which judge's scores they belong to or not."""
        rows = {row.id: row for row in self.data.task.splits[self.recipe.evaluate.split]}
        trials = [(rows[one.id].prompt, one.answer, rows[one.id].answer) for one in said]
        compare = self.judgements.by(self._preference_identity(preference), preference.compares)
        with self.reporter.bar(f"comparing with the references: {what}", len(trials)) as advance:
            verdicts = compare(trials, advance)
        unknown = sum(verdict.score is None for verdict in verdicts)
        if unknown:
            self.reporter.line(f"evaluate.preference: {unknown} of {len(trials)} comparisons unknown ({what})")
        return [replace(one, win=verdict.score) for one, verdict in zip(said, verdicts, strict=True)]

    def _preference_identity(self, preference: Preference) -> dict[str, Any]:
        return {"name": "preference", **preference.identity(Around(lambda: (None, None)))}

    def described_preference(self) -> dict[str, Any] | None:
        """What results.json says of who compares: its settings, how often it was asked and what that cost."""
        if self.preference is None:
            return None
        compared, read, written = self.judgements.spent(self._preference_identity(self.preference))
        return {
            "settings": asdict(self.preference),
            "version": self.preference.version,
            "compared": compared,
            "prompt_tokens": read,
            "completion_tokens": written,
            "cost": self.preference.cost(read, written),
        }

    def described(self, judge: str) -> dict[str, Any]:
        """What results.json says of a judge: its settings, its calibration, what it has judged and what that cost."""
        settings = self.panel[judge]
        try:
            calibrated = read_json(self.calibration() / "calibration.json") if settings.calibrated else {}
            judged, read, written = self.judgements.spent(self.judge_identity(settings))
        except Exception as error:
            told(error)  # a judge that could not be made ready has judged nothing, and is still of the panel
            calibrated, judged, read, written = {}, 0, 0, 0
        if _name(settings) != "offline":
            calibrated.pop("classes", None)  # the error rates there are the offline judge's
        return {
            **calibrated,
            "judge": judge,
            "name": _name(settings),
            "settings": asdict(settings),
            "version": settings.version,
            "judged": judged,
            "prompt_tokens": read,
            "completion_tokens": written,
            "cost": settings.cost(read, written),
        }


def _name(settings: Settings) -> str:
    """The judge's name in a recipe."""
    return next(name for name, kind in JUDGES.items() if type(settings) is kind)
