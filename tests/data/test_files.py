"""Every kind of file gives the same records, and one that cannot be read is named with its line."""

import csv
import json

import datasets
import huggingface_hub
import pyarrow
import pyarrow.parquet
import pytest

from boostershot import InputError, load_harmful_prompts
from boostershot.data.files import SUFFIXES, read_records

ROWS = [
    {"prompt": 'Say "hi", please', "chosen": "No.", "rejected": "Ünïcode\u2028 text"},
    {"prompt": "Two", "chosen": "I would rather not.", "rejected": "Sure,\\ yes"},
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """`datasets` keeps converted copies; not in the user's home."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def write(path, rows):
    """The rows as a file of the kind that its suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n", encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".tsv":
        lines = ["\t".join(rows[0]), *["\t".join(row.values()) for row in rows]]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    return path


def error(source, split=None):
    """The one line of the error, which starts with the source."""
    with pytest.raises(InputError) as caught:
        load_harmful_prompts(str(source), split)
    assert "\n" not in str(caught.value)
    assert str(source) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_kind_gives_the_same_records(tmp_path, suffix):
    path = write(tmp_path / f"rows{suffix}", ROWS)
    assert [dict(record) for record in read_records(str(path))] == ROWS
    assert [row.rejected for row in load_harmful_prompts(str(path))] == [row["rejected"] for row in ROWS]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv"])
def test_a_byte_order_mark_is_not_part_of_the_first_column(tmp_path, suffix):
    path = write(tmp_path / f"rows{suffix}", ROWS)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert [dict(record) for record in read_records(str(path))] == ROWS


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_bad_row_names_file_row_and_column(tmp_path, suffix):
    path = write(tmp_path / f"rows{suffix}", [*ROWS, {**ROWS[0], "rejected": ""}])
    assert f"{path}: row 3, column 'rejected' is empty" in error(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_missing_column_names_those_there_are(tmp_path, suffix):
    path = write(tmp_path / f"rows{suffix}", [{"prompt": "a", "answer": "b"}])
    assert f"{path}: row 1 has no column 'chosen'; it has answer, prompt" in error(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_such_file(tmp_path, suffix):
    assert "no such file" in error(tmp_path / f"rows{suffix}")


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv"])
def test_empty_file(tmp_path, suffix):
    path = tmp_path / f"rows{suffix}"
    path.write_text("")
    assert "no rows" in error(path)


def test_empty_list_and_empty_json(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text("[]")
    assert "no rows" in error(path)
    path.write_text("")
    assert "line 1 is not JSON" in error(path)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
def test_bytes_that_are_no_text(tmp_path, suffix):
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(b'{"prompt": "\xff\xfe"}\x00\n')
    assert "cannot be read" in error(path)


def test_line_that_is_not_json_is_numbered(tmp_path):
    path = write(tmp_path / "rows.jsonl", ROWS)
    path.write_text(path.read_text(encoding="utf-8").rstrip("\n") + "\n\n{oops\n", encoding="utf-8")
    assert f"{path}: line 4 is not JSON" in error(path)
    path.write_text("[1]\n")
    assert "line 1 is list; expected an object" in error(path)


def test_json_that_is_not_a_list_of_objects(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text('[\n{"a": 1},\n{oops}\n]')
    assert "line 3 is not JSON" in error(path)
    path.write_text('{"a": 1}')
    assert "holds dict; expected a list of objects" in error(path)
    path.write_text('[{"a": 1}, 2]')
    assert "row 2 is int; expected an object" in error(path)


def test_folder_as_the_hub_lays_it_out(tmp_path):
    folder = tmp_path / "org" / "data-set"
    write(folder / "data" / "train-00000-of-00001.parquet", ROWS)
    write(folder / "data" / "test-00000-of-00001.parquet", ROWS[:1])
    assert [dict(record) for record in read_records(str(folder))] == ROWS
    assert len(load_harmful_prompts(str(folder), "test")) == 1
    assert "validation" in error(folder, "validation")


def test_configuration_of_a_hub_data_set(tmp_path, monkeypatch):
    folder = tmp_path / "org" / "data-set"
    write(folder / "main" / "train.parquet", ROWS)
    write(folder / "other" / "train.parquet", ROWS[:1])
    configs = "".join(f"- {{config_name: {name}, data_files: {name}/train.parquet}}\n" for name in ("main", "other"))
    (folder / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    monkeypatch.chdir(tmp_path)
    assert [len(read_records(f"org/data-set:{name}")) for name in ("main", "other")] == [2, 1]
    assert "third" in error("org/data-set:third")


def test_one_file_of_a_hub_data_set(tmp_path, monkeypatch):
    path = write(tmp_path / "rows.json", ROWS)
    asked = []

    def download(repo, file, repo_type):
        asked.append((repo, file, repo_type))
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert read_records("hf://datasets/org/data-set/folder/rows.json") == ROWS
    assert asked == [("org/data-set", "folder/rows.json", "dataset")]
    monkeypatch.undo()
    assert "cannot be fetched" in error("hf://datasets/org/data-set/rows.json")
    for source in ("hf://datasets/org/data-set", "hf://datasets/org/data-set/rows.xml"):
        assert "expected hf://datasets/OWNER/NAME/FILE with one of .jsonl" in error(source)


def test_source_that_is_nowhere():
    message = error("nobody/no-such-data")
    assert "expected a built-in name, a Hub id, or a file ending in .jsonl" in message
