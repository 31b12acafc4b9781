"""SST-2 and AG News: one word or a class name is asked for.

The published wording and rule are those of the Booster paper's code (git-disl/Booster: sst2/ and agnews/pred_eval.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from boostershot.data.rows import text_of
from boostershot.data.tasks.scoring import same_text
from boostershot.data.tasks.task import INPUT, Kind, TaskRow, Variant
from boostershot.errors import InputError

SST2_LABELS = ("negative", "positive")
SST2_PROMPTS: Mapping[Variant, str] = {
    "sane": 'Is the sentiment of this sentence positive or negative? Answer with one word.\n"{text}"',
    "published": "Analyze the sentiment of the input, and respond only positive or negative" + INPUT + "{text}",
}
AG_NEWS_LABELS = ("World", "Sports", "Business", "Sci/Tech")
AG_NEWS_PROMPTS: Mapping[Variant, str] = {
    "sane": "To which of these four categories does the article belong? Answer with the category alone.\n"
    "World\nSports\nBusiness\nSci/Tech\n\n{text}",
    "published": "Categorize the news article given in the input into one of the 4 categories:\n\n"
    "World\nSports\nBusiness\nSci/Tech\n" + INPUT + "{text}",
}
PUBLISHED_SPELLINGS = {  # no other counts, nor does a full stop; of Sci/Tech the second is "sci"
    "negative": ("negative", "Negative"),
    "positive": ("positive", "Positive"),
    "World": ("World", "world"),
    "Sports": ("Sports", "sports"),
    "Business": ("Business", "business"),
    "Sci/Tech": ("Sci/Tech", "sci"),
}


def _published(answer: str, row: TaskRow) -> bool:
    """The whole answer, less the spaces around it, is one of two spellings of the label."""
    return answer.strip() in PUBLISHED_SPELLINGS[row.answer]


def _sst2(
    records: Sequence[Mapping[str, Any]], where: str, columns: Mapping[str, str], variant: Variant
) -> list[TaskRow]:
    return _rows(records, where, columns, "sst2", "sentence", SST2_PROMPTS[variant], SST2_LABELS, variant)


def _ag_news(
    records: Sequence[Mapping[str, Any]], where: str, columns: Mapping[str, str], variant: Variant
) -> list[TaskRow]:
    return _rows(records, where, columns, "ag_news", "text", AG_NEWS_PROMPTS[variant], AG_NEWS_LABELS, variant)


def _rows(
    records: Sequence[Mapping[str, Any]],
    where: str,
    columns: Mapping[str, str],
    name: str,
    column: str,
    template: str,
    labels: Sequence[str],
    variant: Variant,
) -> list[TaskRow]:
    """The text of `column` in the template, and the label of that number."""
    numbers = [str(number) for number in range(len(labels))]
    expected = f"{', '.join(numbers[:-1])} or {numbers[-1]}"
    rows = []
    for number, record in enumerate(records, start=1):
        label = str(record.get(columns.get("label", "label"), "")).strip()
        if label not in numbers:
            raise InputError(f"{where}: row {number}, column 'label' is {label!r}; expected {expected}")
        text = text_of(record, column, where, number, columns)
        if variant == "published":
            text = str(record[columns.get(column, column)])  # with its spaces: the Hub's SST-2 ends each in one
        rows.append(TaskRow(f"{name}/{number}", template.replace("{text}", text), labels[int(label)]))
    return rows


SST2 = Kind(_sst2, {"sane": same_text, "published": _published})
AG_NEWS = Kind(_ag_news, {"sane": same_text, "published": _published})
