"""The field's sets of harmful prompts without answers, recognised by their columns, of the Hub or of their authors.

AdvBench's `target` is how an answer would begin, and no answer, so it is not read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from boostershot.data.rows import HarmfulPrompt, checked, text_of
from boostershot.data.safe_prompts import is_xstest, xstest_unsafe

# Without these columns of the Hub's copies (walledai/AdvBench, HarmBench, StrongREJECT) there may be answers.
BESIDE_PROMPTS = frozenset({"id", "prompt", "category", "categories", "context", "tags", "target", "source"})
CONTEXT_MARK = "\n\n---\n\n"  # what HarmBench writes between a behaviour's context and the behaviour


def layout_of(records: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str | None:
    """The name of the set that these records are of, `prompts` for any other prompts without answers, or None.

    `columns` (our name -> the source's) leave only the last two possible.
    """
    names = records[0].keys() if records else set()
    if not columns:
        if is_xstest(records):
            return "xstest"
        known = next((name for name, (needed, _) in _SETS.items() if names >= needed), None)
        if known:
            return known
    prompt = columns.get("prompt", "prompt")
    alone = prompt in names and not names - BESIDE_PROMPTS - set(columns.values())
    return "prompts" if alone and columns.keys() <= {"prompt", "category"} else None


def prompt_rows(
    layout: str, records: Sequence[Mapping[str, Any]], where: str, columns: Mapping[str, str]
) -> list[HarmfulPrompt]:
    """The prompts of records of that layout; of XSTest the unsafe ones.

    Raises:
        InputError: names the source, the row (from 1) and the column.
    """
    if layout == "xstest":
        return xstest_unsafe(records, where)
    read = _prompt if layout == "prompts" else _SETS[layout][1]
    return checked([read(record, where, number, columns) for number, record in enumerate(records, start=1)], where)


def _do_not_answer(record: Mapping[str, Any], where: str, number: int, columns: Mapping[str, str]) -> HarmfulPrompt:
    """LibrAI/do-not-answer: id, risk_area, types_of_harm, specific_harms, question."""
    area, prompt = (text_of(record, name, where, number, {}) for name in ("risk_area", "question"))
    return HarmfulPrompt(f"donotanswer/{_name(record, 'id', number)}", prompt, area)


def _adv_bench(record: Mapping[str, Any], where: str, number: int, columns: Mapping[str, str]) -> HarmfulPrompt:
    """AdvBench's harmful_behaviors.csv (goal, target) or walledai/AdvBench (prompt, target): 520 rows."""
    name = "goal" if "goal" in record else "prompt"
    return HarmfulPrompt(f"advbench/{number}", text_of(record, name, where, number, {}), "advbench")


def _harm_bench(record: Mapping[str, Any], where: str, number: int, columns: Mapping[str, str]) -> HarmfulPrompt:
    """HarmBench's own csv; a contextual behaviour stands after its context, as HarmBench asks it."""
    behaviour = _in_context(record, "ContextString", text_of(record, "Behavior", where, number, {}))
    category = text_of(record, "SemanticCategory", where, number, {})
    return HarmfulPrompt(f"harmbench/{_name(record, 'BehaviorID', number)}", behaviour, category)


def _strong_reject(record: Mapping[str, Any], where: str, number: int, columns: Mapping[str, str]) -> HarmfulPrompt:
    """StrongREJECT's own csv: category, source, forbidden_prompt; 313 rows."""
    prompt = text_of(record, "forbidden_prompt", where, number, {})
    return HarmfulPrompt(f"strongreject/{number}", prompt, text_of(record, "category", where, number, {}))


def _prompt(record: Mapping[str, Any], where: str, number: int, columns: Mapping[str, str]) -> HarmfulPrompt:
    """Prompts with a category, as walledai/HarmBench and walledai/StrongREJECT have them, or without."""
    prompt = _in_context(record, "context", text_of(record, "prompt", where, number, columns))
    category = str(record.get(columns.get("category", "category")) or "none")
    several = record.get("categories")
    given = tuple(map(str, several)) if isinstance(several, Sequence) and not isinstance(several, str) else ()
    return HarmfulPrompt(_name(record, "id", number), prompt, category, categories=given)


_SETS = {  # name -> the columns it is known by, and how a row is read
    "do-not-answer": ({"question", "risk_area", "types_of_harm"}, _do_not_answer),
    "advbench": ({"goal", "target"}, _adv_bench),
    "advbench (walledai)": ({"prompt", "target"}, _adv_bench),
    "harmbench": ({"Behavior", "SemanticCategory", "FunctionalCategory"}, _harm_bench),
    "strongreject": ({"forbidden_prompt", "category"}, _strong_reject),
}


def _in_context(record: Mapping[str, Any], column: str, prompt: str) -> str:
    context = record.get(column)
    return f"{context.strip()}{CONTEXT_MARK}{prompt}" if isinstance(context, str) and context.strip() else prompt


def _name(record: Mapping[str, Any], column: str, number: int) -> str:
    """The row's own name, else its place."""
    return str(record[column]) if record.get(column) not in (None, "") else f"row-{number}"
