"""What a user's recipe names: a tiny model and harmless data, in files."""

import json
from pathlib import Path
from typing import Any

from tiny import preference_rows, save_tiny_chat


def write_jsonl(path: Path, records: list[Any]) -> None:
    """A record a line."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def even_rows(n: int) -> list[dict[str, str]]:
    """Rows of a task of yes and no."""
    return [{"prompt": f"Is {i} even?", "answer": "no" if i % 2 else "yes"} for i in range(n)]


def user_files(
    folder: Path, pairs: int, tasks: int, *, n: int = 8, categories: str = "", std: float = 0.2
) -> dict[str, Any]:
    """`model/`, `pairs.jsonl` and `task.jsonl` in the folder, and the sections `model` and `data` of a recipe.

    Args:
        pairs, tasks: rows of each file.
        n: rows to align on.
        categories: of harm, a letter each, in turn; none if empty.
        std: of the model's weights.
    """
    save_tiny_chat(folder / "model", std=std)
    harm = [{"category": letter} for letter in categories] or [{}]
    rows = [{"id": f"syn-{i}", **harm[i % len(harm)], **row} for i, row in enumerate(preference_rows(pairs))]
    write_jsonl(folder / "pairs.jsonl", rows)
    write_jsonl(folder / "task.jsonl", even_rows(tasks))
    return {
        "model": {"id": str(folder / "model")},
        "data": {
            "align": {"source": str(folder / "pairs.jsonl"), "n": n},
            "task": {"source": str(folder / "task.jsonl")},
        },
    }
