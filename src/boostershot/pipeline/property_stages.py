"""The stages that the immunisation properties need beside those of a run, and the same stages on other rows."""

from __future__ import annotations

import gc
import importlib.metadata
import importlib.util
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from boostershot.config import AlignSource, AttackSettings, Generalization, Recipe, Stability, Trainability
from boostershot.config.data import Data
from boostershot.config.properties import SecondSource
from boostershot.data.format import Format
from boostershot.data.rows import Completion, in_categories
from boostershot.data.safe_prompts import SafePrompt, load_safe_prompts
from boostershot.data.texts import load_texts
from boostershot.errors import InputError, choices, nearest, shown
from boostershot.evaluation.generation import generate
from boostershot.evaluation.judgements import Judgements
from boostershot.evaluation.judges import is_refusal
from boostershot.evaluation.judges.judge import Judge, Settings
from boostershot.evaluation.perplexity import text_losses
from boostershot.models import Layer, load_chain, model_fingerprint
from boostershot.pipeline.data import GROUPS, RecipeData, file_hash, names, rows_hash
from boostershot.pipeline.files import write_jsonl
from boostershot.pipeline.kept import KeptAnswers
from boostershot.pipeline.stages import RULES, Stages

INSTALL_LM_EVAL = "pip install '.[lm-eval]'"


@dataclass(frozen=True)
class PartStages(Stages):
    """A recipe's stages on other harmful rows, with the judge as the whole recipe has calibrated it."""

    whole: Stages

    @cached_property
    def base(self) -> tuple[Any, Any, Format]:
        """That of the whole recipe."""
        return self.whole.base

    @cached_property
    def judgements(self) -> Judgements:
        """Those of the whole recipe."""
        return self.whole.judgements

    @cached_property
    def _open_judges(self) -> dict[Settings, Judge]:
        """Those of the whole recipe: a judge is loaded once."""
        return self.whole._open_judges

    def calibration(self) -> Path:
        """That of the whole recipe: another threshold would make another judge."""
        return self.whole.calibration()


@dataclass(frozen=True)
class VariedStages(PartStages):
    """The stages of the whole recipe with other values, on its data where those are the same."""

    @cached_property
    def data(self) -> RecipeData:
        """That of the whole recipe, if its rows are."""
        mine, others = self.recipe, self.whole.recipe
        same = (mine.data, mine.evaluate) == (others.data, others.evaluate)
        return self.whole.data if same else RecipeData(mine)


def varied(whole: Stages, changes: Mapping[str, Any]) -> Stages:
    """The stages of the recipe with these sections in place of its own, if any; the same ones each time."""
    if not changes:
        return whole
    recipe = whole.recipe.model_copy(update=dict(changes))
    key = recipe.model_dump_json()
    if key not in whole.variants:
        whole.variants[key] = VariedStages(recipe, whole.store, whole.reporter, whole)
    return whole.variants[key]


def second_data(data: Data, spec: SecondSource) -> Data:
    """A recipe's data with harmful rows and prompts of a second source alone."""
    align = AlignSource(source=spec.source, split=spec.split, columns=spec.columns)
    return data.model_copy(update={"align": align, "harmful": None})


@dataclass(frozen=True)
class PropertyStages:
    """What a recipe's `properties` need; each method that fills a folder returns it."""

    stages: Stages

    @property
    def recipe(self) -> Recipe:
        """The recipe of the run."""
        return self.stages.recipe

    # --- rows -------------------------------------------------------------------------------------------------

    @cached_property
    def texts(self) -> list[Completion]:
        """The neutral texts."""
        settings = self._stability()
        spec = settings.texts
        return load_texts(spec.source, spec.split, names(spec.columns), spec.options)[: settings.n_texts]

    @cached_property
    def safe(self) -> list[SafePrompt]:
        """The safe prompts that look harmful."""
        settings = self._stability()
        spec = settings.safe
        return load_safe_prompts(spec.source, spec.split, names(spec.columns))[: settings.n_safe]

    @cached_property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Name -> the harm categories of the group.

        Raises:
            InputError: a category is not in the source, or a group has no row in a split that it needs.
        """
        settings = self.recipe.properties.generalization
        splits = self.stages.data.splits
        sizes = Counter(row.category for rows in splits.values() for row in rows)
        given = settings.groups if settings else None
        if given is None:
            return self._dealt(sizes)
        for name, categories in given.items():
            for category in categories:
                if category not in sizes:
                    raise InputError(f"properties.generalization.groups.{name}: has {shown(category)}; "
                                     + choices(category, sizes))  # fmt: skip
            for split in self._needed:
                if not in_categories(splits[split], categories):
                    raise InputError(f"properties.generalization.groups.{name}: no row of the {split} split; "
                                     "expected one or more")  # fmt: skip
        return dict(given)

    def _dealt(self, sizes: Mapping[str, int]) -> dict[str, tuple[str, ...]]:
        """Three groups (two where three would leave one without rows), or none where there is a single category.

        By falling size, each category joins the group that has the fewest rows so far.
        """
        for count in range(min(GROUPS, len(sizes)), 1, -1):
            dealt: list[list[str]] = [[] for _ in range(count)]
            for category in sorted(sizes, key=lambda name: (-sizes[name], name)):
                min(dealt, key=lambda group: sum(sizes[name] for name in group)).append(category)
            splits = [self.stages.data.splits[split] for split in self._needed]
            if all(in_categories(rows, group) for group in dealt for rows in splits):
                return {" + ".join(group): tuple(group) for group in dealt}
        return {}

    @property
    def _needed(self) -> tuple[str, ...]:
        """The splits of which a group needs rows; all but the judge's, for a defence may be steered by dev."""
        return ("align", "attack", "dev", "test")

    def part(self, categories: Sequence[str]) -> PartStages:
        """The stages on the rows of these categories alone; as many to align on as the smallest group has."""
        data = self.recipe.data
        have = [self._count("align", group) for group in self.groups.values()]
        align = data.align.model_copy(
            update={"categories": tuple(categories), "n": min(*have, *([data.align.n] if data.align.n else []))}
        )
        # Unpaired harmful rows have no categories: a defence that reads harmful rows gets the group's own answers.
        return self._with(data.model_copy(update={"align": align, "harmful": None}))

    def second(self) -> PartStages | None:
        """The stages on the second prompt source; None where there is none."""
        settings = self.recipe.properties.generalization
        spec = settings.second if settings else None
        if spec is None:
            return None
        return self._with(second_data(self.recipe.data, spec))

    def _with(self, data: Any) -> PartStages:
        settings = self.recipe.properties.generalization
        n = (settings.n if settings else None) or self.recipe.evaluate.n_harmful
        # One task row, for there has to be one: the task's accuracy is none of this matrix.
        evaluate = self.recipe.evaluate.model_copy(update={"n_harmful": n, "n_task": 1})
        recipe = self.recipe.model_copy(update={"data": data, "evaluate": evaluate})
        return PartStages(recipe, self.stages.store, self.stages.reporter, self.stages)

    def _count(self, split: str, categories: Sequence[str]) -> int:
        return len(in_categories(self.stages.data.splits[split], categories))

    # --- attacks ----------------------------------------------------------------------------------------------

    def cross_attack(self, settings: Generalization) -> tuple[str, AttackSettings] | None:
        """The attack of the harm-category matrix and its label; None where no attack has harmful rows."""
        label = settings.attack or next(iter(self.recipe.harmful_attacks), None)
        return None if label is None else (label, self.recipe.attacks[label])

    def affordable(self, attack: AttackSettings, parts: Sequence[Stages]) -> AttackSettings | None:
        """The attack with as many rows as the part with the fewest harmful ones allows, so that all meet the same.

        None where not even one harmful row is left.
        """
        wanted = attack.attack.n_harmful
        have = min(_rows_in(part.harmful_rows("attack", wanted, None)) for part in parts)
        if have >= wanted:
            return attack
        fewer = attack.attack.scaled(have / wanted, 1)
        if not 0 < fewer.n_harmful <= have:
            return None
        return scored_last(attack.doing(fewer))

    def clean_tuning(self, settings: Trainability) -> AttackSettings:
        """A fine-tuning without harmful rows, of a fresh adapter on whatever it meets."""
        attack = self.recipe.attacks[settings.attack or self.recipe.trained_attacks[0]]
        _, _, form = self.stages.base
        have = form.fitting(self.stages.data.task.splits["train"], self.recipe.data.max_length)
        n = min(settings.n or attack.attack.n, len(have))
        tuning = attack.benign(n, settings.steps, self.recipe.immunize.lora)
        return tuning.model_copy(update={"eval_steps": clean_steps(tuning.total_steps, settings.points)})

    # --- stages -----------------------------------------------------------------------------------------------

    def perplexity(self, of: Path | None, layers: Sequence[Layer], what: str) -> Path:
        """`texts.jsonl`: the nats and tokens of each neutral text under the model that the layers make."""
        length = self.recipe.data.max_length
        texts = rows_hash([part for text in self.texts for part in (text.id, text.prompt, text.completion)])
        config = self._config(layers) | {"texts": texts, "max_length": length}

        def work(folder: Path) -> dict[str, Any]:
            with self.stages.reporter.bar(f"perplexity: {what}", len(self.texts)) as advance:
                model, form = self._model(layers)
                losses = text_losses(model, form, self.texts, max_length=length, advance=advance)
            rows = [
                {"id": text.id, "nats": nats, "tokens": tokens}
                for text, (nats, tokens) in zip(self.texts, losses, strict=True)
            ]
            write_jsonl(folder / "texts.jsonl", rows)
            return {"texts": len(rows)}

        return self._run("perplexity", config, of, work)

    def over_refusal(self, of: Path | None, layers: Sequence[Layer], what: str) -> Path:
        """`safe.jsonl`: the answer to each safe prompt and whether it refuses, by keywords."""
        tokens = self.recipe.evaluate.max_new_tokens
        safe = rows_hash([part for row in self.safe for part in (row.id, row.prompt)])
        config = self._config(layers) | {"safe": safe, "max_new_tokens": tokens, "rule": RULES["refusal"]}

        def work(folder: Path) -> dict[str, Any]:
            answers = self._answers(folder, layers, [row.prompt for row in self.safe], f"safe prompts: {what}")
            rows = [
                {"id": row.id, "type": row.type, "answer": answer, "refused": is_refusal(answer)}
                for row, answer in zip(self.safe, answers, strict=True)
            ]
            write_jsonl(folder / "safe.jsonl", rows)
            return {"safe": len(rows), "refused": sum(row["refused"] for row in rows)}

        return self._run("over-refusal", config, of, work)

    def accuracy(self, of: Path | None, layers: Sequence[Layer], what: str) -> Path:
        """`task.jsonl`: the answer to each scored row of the benign task and whether it is right."""
        settings, task = self.recipe.evaluate, self.stages.data.task
        config = self._config(layers) | {
            "task": self.stages.data.scoring_identity(),
            "split": settings.split,
            "n": settings.n_task,
            "max_new_tokens": settings.max_new_tokens,
        }

        def work(folder: Path) -> dict[str, Any]:
            assert task.correct is not None  # who calls has asked
            picked = list(task.splits[settings.split])[: settings.n_task]
            answers = self._answers(folder, layers, [row.prompt for row in picked], f"task: {what}")
            rows = [
                {"id": row.id, "answer": answer, "correct": task.correct(answer, row)}
                for row, answer in zip(picked, answers, strict=True)
            ]
            write_jsonl(folder / "task.jsonl", rows)
            return {"n": len(rows), "correct": sum(row["correct"] for row in rows)}

        return self._run("accuracy", config, of, work)

    def benchmarks(self, of: Path | None, layers: Sequence[Layer], what: str) -> Path:
        """`result`: task -> metric -> [value, standard error], of lm-eval's tasks, by its own defaults."""
        settings = self._stability()
        config = self._config(layers) | {
            "tasks": list(settings.lm_eval),
            "own": settings.lm_eval_path and file_hash(settings.lm_eval_path),
            "limit": settings.lm_eval_limit,
            "version": importlib.metadata.version("lm-eval"),
        }

        def work(folder: Path) -> dict[str, Any]:
            from lm_eval.evaluator import simple_evaluate  # pyright: ignore[reportMissingImports]
            from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]

            model, form = self._model(layers)
            self.stages.reporter.line(f"lm-eval: {', '.join(settings.lm_eval)}: {what}")
            batch = self.recipe.runtime.generation_batch_size
            found: Any = simple_evaluate(
                model=HFLM(pretrained=model, tokenizer=form.tokenizer, batch_size=batch),
                tasks=list(settings.lm_eval),
                limit=settings.lm_eval_limit,
                log_samples=False,
                task_manager=self._lm_eval_tasks,
            )
            return {task: _metrics(values) for task, values in found["results"].items()}

        return self._run("lm-eval", config, of, work)

    def check(self) -> None:
        """Read what the user gave, so that what is wrong is told before anything is done.

        Raises:
            InputError: a source is wrong, a group is empty, or lm-eval is missing.
        """
        properties = self.recipe.properties
        if properties.stability is not None:
            _ = self.texts, self.safe
            if properties.stability.lm_eval:
                have = self._lm_eval_tasks.all_tasks
                for task in properties.stability.lm_eval:
                    if task not in have:
                        near = nearest(task, have)
                        hint = f' (did you mean "{near}"?)' if near else ""
                        raise InputError(
                            f"properties.stability.lm_eval: is {shown(task)}; expected a task that `lm-eval ls tasks` "
                            f"lists{hint}"
                        )
        if properties.generalization is not None:
            _ = self.groups
            second = self.second()
            if second is not None:
                _ = second.data.splits

    @cached_property
    def _lm_eval_tasks(self) -> Any:
        """The tasks that lm-eval knows.

        Raises:
            InputError: it is not installed, or the folder of own tasks is not there.
        """
        if importlib.util.find_spec("lm_eval") is None:
            raise InputError(f"properties.stability.lm_eval: needs a package that is missing: {INSTALL_LM_EVAL}")
        own = self._stability().lm_eval_path
        if own and not Path(own).is_dir():
            raise InputError(f"properties.stability.lm_eval_path: {own}: no such folder")
        from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

        return TaskManager(include_path=own)

    def _config(self, layers: Sequence[Layer]) -> dict[str, Any]:
        names = [f"{layer.folder.parent.name}/{layer.folder.name}" for layer in layers]
        model = self.recipe.model
        return {"model": model_fingerprint(model.id), "template": model.template, "layers": names}

    def _model(self, layers: Sequence[Layer]) -> tuple[Any, Format]:
        gc.collect()  # of the model before
        model, tokenizer = load_chain(self.recipe.model.id, layers)
        return model, Format.choose(tokenizer, self.recipe.model.template)

    def _answers(self, folder: Path, layers: Sequence[Layer], prompts: Sequence[str], what: str) -> list[str]:
        """The model's answers; those of finished batches are in the folder until all are there."""
        kept = KeptAnswers(folder / "kept.txt")
        with self.stages.reporter.bar(what, len(prompts)) as advance:
            model, form = self._model(layers)
            answers = generate(
                model,
                form,
                prompts,
                max_new_tokens=self.recipe.evaluate.max_new_tokens,
                batch_size=self.recipe.runtime.generation_batch_size,
                known=kept.answers,
                keep=kept.add,
                advance=advance,
            )
        kept.drop()
        return answers

    def _run(self, stage: str, config: dict[str, Any], of: Path | None, work: Any) -> Path:
        return self.stages.store.run(stage, config, [of] if of else [], work)

    def _stability(self) -> Stability:
        settings = self.recipe.properties.stability
        assert settings is not None  # who calls has asked
        return settings


def scored_last(attack: AttackSettings) -> AttackSettings:
    """The attack, scored at its last step alone."""
    return attack.model_copy(update={"eval_steps": (attack.total_steps,)})


def clean_steps(total: int, points: int) -> tuple[int, ...]:
    """0 and at most so many steps after it, evenly spaced, the last one included."""
    return tuple(sorted({round(total * i / points) for i in range(points + 1)}))


def _metrics(values: Mapping[str, Any]) -> dict[str, list[float | None]]:
    """`acc,none` and `acc_stderr,none` of lm-eval as acc: [value, standard error]."""
    found: dict[str, list[float | None]] = {}
    for key, value in values.items():
        name, _, how = key.partition(",")
        if not how or name.endswith("_stderr") or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if not math.isfinite(value):
            continue
        error = values.get(f"{name}_stderr,{how}")
        label = name if how == "none" else f"{name} ({how})"
        found[label] = [float(value), float(error) if isinstance(error, int | float) and math.isfinite(error) else None]
    return found


def _rows_in(folder: Path) -> int:
    return sum(1 for line in (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines() if line.strip())
