"""Reading a data source as records: a local file, or a data set of the Hub."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from boostershot.errors import InputError

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
TEXT = "utf-8-sig"  # UTF-8, with or without the byte order mark that spreadsheets write


def read_records(source: str, split: str | None = None) -> list[Mapping[str, Any]]:
    """The records of a local `.jsonl/.json/.csv/.tsv/.parquet` file, or of a Hub data set (or a local copy of one).

    A `.tsv` or `.csv` file has its column names in its first line.

    Raises:
        InputError: the file is missing, unreadable or not of its kind; names the line.
    """
    path = Path(source)
    if path.suffix in SUFFIXES:
        if not path.is_file():
            raise InputError(f"{source}: no such file")
        try:
            return _read_file(path)
        except InputError:
            raise
        except (OSError, ValueError, csv.Error) as error:  # ValueError: bytes that are no UTF-8, or no parquet
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"{source}: cannot be read: {reason}") from error
    return _read_dataset(source, split)


def _read_file(path: Path) -> list[Mapping[str, Any]]:
    if path.suffix == ".jsonl":
        lines = path.read_text(encoding=TEXT).split("\n")  # splitlines would also cut at U+2028 inside a string
        return [_object(line, f"{path}: line {n}") for n, line in enumerate(lines, 1) if line.strip()]
    if path.suffix == ".json":
        try:
            records = json.loads(path.read_text(encoding=TEXT))
        except json.JSONDecodeError as error:
            raise InputError(f"{path}: line {error.lineno} is not JSON: {error.msg}") from error
        if not isinstance(records, list):
            raise InputError(f"{path}: holds {type(records).__name__}; expected a list of objects")
        for number, record in enumerate(records, 1):
            if not isinstance(record, dict):
                raise InputError(f"{path}: row {number} is {type(record).__name__}; expected an object")
        return records
    if path.suffix == ".parquet":
        from pyarrow import parquet  # and not through `datasets`, which would keep a converted copy in the user's home

        return parquet.read_table(path).to_pylist()
    with path.open(encoding=TEXT, newline="") as file:
        tabs = path.suffix == ".tsv"
        reader = csv.DictReader(
            file, delimiter="\t" if tabs else ",", quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL
        )
        return [{key: value for key, value in record.items() if value is not None} for record in reader]


def _object(line: str, where: str) -> Mapping[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{where} is not JSON: {error.msg}") from error
    if not isinstance(record, dict):
        raise InputError(f"{where} is {type(record).__name__}; expected an object")
    return record


def _read_dataset(source: str, split: str | None) -> list[Mapping[str, Any]]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    try:
        return list(load_dataset(source, split=split or "train"))  # type: ignore[arg-type]
    except (DatasetNotFoundError, FileNotFoundError, ValueError, ConnectionError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"data source {source!r}: {reason} (expected a built-in name, a Hub id, or a file ending in "
            f"{', '.join(SUFFIXES)})"
        ) from error
