"""The row schemas: what each kind of row must hold, checked once, where it enters."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeVar

from boostershot.errors import InputError


@dataclass(frozen=True)
class HarmfulPrompt:
    """A harmful prompt with what is known of it.

    `chosen` is the safe answer (f), `rejected` the harmful one (h); a source of prompts alone has neither yet.
    `categories` are all that the prompt belongs to, where a source has several (BeaverTails); `category` is the first.
    """

    id: str
    prompt: str
    category: str
    chosen: str | None = None
    rejected: str | None = None
    categories: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "categories", tuple(self.categories) or (self.category,))  # JSON has lists

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


@dataclass(frozen=True)
class Completion:
    """A prompt and the answer to train on: unpaired harmful data, or a benign row."""

    id: str
    prompt: str
    completion: str


class _Known(Protocol):
    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=_Known)


def in_categories(rows: Sequence[HarmfulPrompt], wanted: Collection[str]) -> list[HarmfulPrompt]:
    """The rows that belong to these categories and no other: what is aligned on holds nothing of the others."""
    return [row for row in rows if set(wanted).issuperset(row.categories)]


def harmful_prompts(
    records: Iterable[Mapping[str, Any]], where: str, columns: Mapping[str, str], *, need_rejected: bool = True
) -> list[HarmfulPrompt]:
    """Preference rows from a source's records.

    Args:
        records: with `prompt, chosen, rejected`, plain text or TRL's conversational form; `id` and `category` optional.
        where: the file or data set, for messages.
        columns: our name -> the source's name, where they differ.
        need_rejected: False where nobody reads the harmful answers; a row may then lack the column.

    Raises:
        InputError: names the file, the row (from 1) and the column.
    """
    rows = []
    for number, record in enumerate(records, start=1):
        has_rejected = need_rejected or columns.get("rejected", "rejected") in record
        rows.append(
            HarmfulPrompt(
                id=_identity(record, number),
                prompt=text_of(record, "prompt", where, number, columns),
                category=str(record.get(columns.get("category", "category")) or "none"),
                chosen=text_of(record, "chosen", where, number, columns),
                rejected=text_of(record, "rejected", where, number, columns) if has_rejected else None,
            )
        )
    return checked(rows, where)


def completions(records: Iterable[Mapping[str, Any]], where: str, columns: Mapping[str, str]) -> list[Completion]:
    """Rows of `prompt, completion` (or of `messages`: one user turn and one assistant turn).

    Raises:
        InputError: names the file, the row (from 1) and the column.
    """
    rows = []
    for number, record in enumerate(records, start=1):
        if "messages" in record and "prompt" not in columns:
            turns = record["messages"]
            if not isinstance(turns, list) or [_role(turn) for turn in turns] != ["user", "assistant"]:
                raise InputError(
                    f"{where}: row {number}, column 'messages': expected one user turn and one assistant turn"
                )
            record = {
                **record,
                "prompt": [turns[0]],
                "completion": [turns[1]],
            }
        rows.append(
            Completion(
                id=_identity(record, number),
                prompt=text_of(record, "prompt", where, number, columns),
                completion=text_of(record, "completion", where, number, columns),
            )
        )
    return checked(rows, where)


def text_of(record: Mapping[str, Any], name: str, where: str, number: int, columns: Mapping[str, str]) -> str:
    """The text of one cell; a conversational cell holds one message.

    Raises:
        InputError: the column is missing, or the cell is not a text with something in it.
    """
    column = columns.get(name, name)
    if column not in record:
        have = ", ".join(sorted(map(str, record))) or "none"
        raise InputError(f"{where}: row {number} has no column {column!r}; it has {have}")
    value = record[column]
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], Mapping):
        value = value[0].get("content")
    if not isinstance(value, str):
        kind = type(value).__name__
        raise InputError(
            f"{where}: row {number}, column {column!r} is {kind}; expected text (or a list of one message)"
        )
    if not value.strip():
        raise InputError(f"{where}: row {number}, column {column!r} is empty; expected text")
    return value.strip()


def _identity(record: Mapping[str, Any], number: int) -> str:
    return str(record["id"]) if record.get("id") is not None else f"row-{number}"


def _role(turn: Any) -> Any:
    return turn.get("role") if isinstance(turn, Mapping) else None


def checked(rows: list[T], where: str) -> list[T]:
    """The rows, if there are any and their ids differ."""
    check_ids(rows, where)
    if not rows:
        raise InputError(f"{where}: no rows; expected at least one")
    return rows


def check_ids(rows: Iterable[_Known], where: str) -> None:
    """Raises InputError where two rows have one id: they would be taken for the same."""
    first: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        if first.setdefault(row.id, number) != number:
            raise InputError(f"{where}: row {number} has the id {row.id!r} of row {first[row.id]}; expected its own")
