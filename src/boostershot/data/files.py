"""Reading a data source as records: a local file, or a data set of the Hub."""

from __future__ import annotations

import csv
import gzip
import json
import lzma
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

from boostershot.errors import InputError

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
PACKED: Mapping[str, Any] = {".gz": gzip.open, ".xz": lzma.open}
HUB_FILE = "hf://datasets/"
TEXT = "utf-8-sig"  # UTF-8, with or without the byte order mark that spreadsheets write


def read_records(source: str, split: str | None = None) -> list[Mapping[str, Any]]:
    """The records of a `.jsonl/.json/.csv/.tsv/.parquet` file, or of a Hub data set (or a local copy of one).

    A `.tsv` or `.csv` file has its column names in its first line. All but parquet may be packed (`.jsonl.gz`, as
    BeaverTails has its files, or `.xz`).

    Args:
        source: a local file; `owner/name` or `owner/name:configuration` of the Hub; or one file of a Hub data set,
            `hf://datasets/owner/name/path`, for those whose loading script no longer runs.
        split: of a Hub data set; train if not given.

    Raises:
        InputError: the file is missing, unreadable or not of its kind; names the line.
    """
    path = _downloaded(source) if source.startswith(HUB_FILE) else Path(source)
    if kind_of(path) in SUFFIXES:
        if not path.is_file():
            raise InputError(f"{source}: no such file")
        try:
            return _read_file(path)
        except InputError:
            raise
        except (OSError, EOFError, ValueError, csv.Error, lzma.LZMAError, zlib.error) as error:
            # ValueError: no UTF-8, no parquet
            raise InputError(f"{source}: cannot be read: {_reason(error)}") from error
    return _read_dataset(source, split)


def kind_of(path: Path) -> str:
    """The suffix that tells how to read a file: `.jsonl` of `train.jsonl.gz`."""
    packed = path.suffix in PACKED and path.with_suffix("").suffix in SUFFIXES[:-1]
    return path.with_suffix("").suffix if packed else path.suffix


def open_text(path: Path) -> IO[str]:
    """A file's text, unpacked where it is packed, with its line ends as they are."""
    opener = PACKED.get(path.suffix, open)
    return cast(IO[str], opener(path, "rt", encoding=TEXT, newline=""))


def _downloaded(source: str) -> Path:
    """A local copy of one file of a Hub data set."""
    from huggingface_hub import hf_hub_download

    parts = source.removeprefix(HUB_FILE).split("/", 2)
    if len(parts) < 3 or kind_of(Path(source)) not in SUFFIXES:
        raise InputError(f"{source}: expected {HUB_FILE}OWNER/NAME/FILE with one of {', '.join(SUFFIXES)}")
    owner, name, file = parts
    try:
        return Path(hf_hub_download(f"{owner}/{name}", file, repo_type="dataset"))
    except (OSError, ValueError) as error:  # ValueError: no such name is possible
        raise InputError(f"{source}: cannot be fetched: {_reason(error)}") from error


def _read_file(path: Path) -> list[Mapping[str, Any]]:
    kind = kind_of(path)
    if kind == ".parquet":
        from pyarrow import parquet  # and not through `datasets`, which would keep a converted copy in the user's home

        return parquet.read_table(path).to_pylist()
    with open_text(path) as file:
        if kind == ".jsonl":
            lines = file.read().split("\n")  # splitlines would also cut at U+2028 inside a string
            return [_object(line, f"{path}: line {n}") for n, line in enumerate(lines, 1) if line.strip()]
        if kind == ".json":
            return _objects(file.read(), path)
        tabs = kind == ".tsv"
        reader = csv.DictReader(
            file, delimiter="\t" if tabs else ",", quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL
        )
        if reader.fieldnames == []:
            raise InputError(f"{path}: its first line is blank; expected the columns' names there")
        records: list[Mapping[Any, Any]] = [
            {key: value for key, value in record.items() if value is not None} for record in reader
        ]
    for number, record in enumerate(records, 1):
        if None in record:  # csv's key for what is left over
            raise InputError(f"{path}: row {number} has more cells than the first line has names")
    return records


def _objects(text: str, path: Path) -> list[Mapping[str, Any]]:
    """The list of objects that a .json file holds."""
    try:
        records = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: line {error.lineno} is not JSON: {error.msg}") from error
    if not isinstance(records, list):
        raise InputError(f"{path}: holds {type(records).__name__}; expected a list of objects")
    for number, record in enumerate(records, 1):
        if not isinstance(record, dict):
            raise InputError(f"{path}: row {number} is {type(record).__name__}; expected an object")
    return records


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
