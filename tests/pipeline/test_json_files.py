"""Files are written whole or not at all, and read with a message that names them."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boostershot.errors import InputError
from boostershot.pipeline.files import read_json, read_jsonl, write_json, write_jsonl

json_data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    for wrong in (float("nan"), object()):
        with pytest.raises((ValueError, TypeError)):
            write_json(path, {"a": wrong})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_jsonl(path, [{"a": 2}, {"a": float("inf")}])
    assert read_json(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


@given(st.lists(st.dictionaries(st.text(max_size=3), json_data, max_size=3), max_size=3))
def test_rows_survive_whatever_characters_they_hold(rows: list[dict[str, Any]]) -> None:
    rows = [*rows, {"answer": "line\u2028 paragraph\u2029 next\x85 lone \ud800"}]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        write_jsonl(path, rows)
        assert read_jsonl(path) == rows
        assert len(path.read_text(encoding="utf-8").splitlines()) == len(rows)
        write_json(path, rows)
        assert read_json(path) == rows


def test_rows_written_elsewhere_may_hold_line_separators(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": "one\u2028line"}\n\n{"a": "two"}', encoding="utf-8")
    assert read_jsonl(tmp_path / "a.jsonl") == [{"a": "one\u2028line"}, {"a": "two"}]


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"b"')
    for read, name in ((read_json, "none.json"), (read_jsonl, "none.jsonl"), (read_jsonl, "a.jsonl")):
        with pytest.raises(InputError, match=f"{name}: cannot be read: "):
            read(tmp_path / name)
