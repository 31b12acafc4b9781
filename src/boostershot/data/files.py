"""Reading a data source as records: a local file, or a data set of the Hub."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from boostershot.errors import InputError

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
HUB_FILE = "hf://datasets/"
TEXT = "utf-8-sig"  # UTF-8, with or without the byte order mark that spreadsheets write


def read_records(source: str, split: str | None = None) -> list[Mapping[str, Any]]:
    """The records of a `.jsonl/.json/.csv/.tsv/.parquet` file, or of a Hub data set (or a local copy of one).

    A `.tsv` or `.csv` file has its column names in its first line.

    Args:
        source: a local file; `owner/name` or `owner/name:configuration` of the Hub; or one file of a Hub data set,
            `hf://datasets/owner/name/path`, for those whose loading script no longer runs.
        split: of a Hub data set; train if not given.

    Raises:
        InputError: the file is missing, unreadable or not of its kind; names the line.
    """
    path = _downloaded(source) if source.startswith(HUB_FILE) else Path(source)
    if path.suffix in SUFFIXES:
        if not path.is_file():
            raise InputError(f"{source}: no such file")
        try:
            return _read_file(path)
        except InputError:
            raise
        except (OSError, ValueError, csv.Error) as error:  # ValueError: bytes that are no UTF-8, or no parquet
            raise InputError(f"{source}: cannot be read: {_reason(error)}") from error
    return _read_dataset(source, split)


def _downloaded(source: str) -> Path:
    """A local copy of one file of a Hub data set."""
    from huggingface_hub import hf_hub_download

    parts = source.removeprefix(HUB_FILE).split("/", 2)
    if len(parts) < 3 or Path(source).suffix not in SUFFIXES:
        raise InputError(f"{source}: expected {HUB_FILE}OWNER/NAME/FILE with one of {', '.join(SUFFIXES)}")
    owner, name, file = parts
    try:
        return Path(hf_hub_download(f"{owner}/{name}", file, repo_type="dataset"))
    except (OSError, ValueError) as error:  # ValueError: no such name is possible
        raise InputError(f"{source}: cannot be fetched: {_reason(error)}") from error


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

    name, _, configuration = source.partition(":") if not Path(source).exists() else (source, "", "")
    try:
        return list(load_dataset(name, configuration or None, split=split or "train"))  # type: ignore[arg-type]
    except (DatasetNotFoundError, RuntimeError, ValueError, OSError) as error:  # RuntimeError: a loading script
        raise InputError(
            f"data source {source!r}: {_reason(error)} (expected a built-in name, a Hub id, or a file ending in "
            f"{', '.join(SUFFIXES)})"
        ) from error


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
