"""Recipes and data files that hypothesis spoils: told in one line with exit code 2, never a traceback, never taken.

Each property is tried on a number of inputs, and on ten times as many by `make faults`; the draws are the same always.
"""

import contextlib
import copy
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from boostershot import cli, recipes
from tiny import preference_rows

TIMES = [1, pytest.param(10, marks=pytest.mark.faults)]
NAMES = ("quickstart", "paper-sst2", "attack-lab", "properties")  # sweeps and measured properties among them


def resolved(name: str) -> dict[str, Any]:
    from boostershot.config import load_recipe

    return json.loads(json.dumps(load_recipe(name).to_dict()))


RECIPES = {name: resolved(name) for name in NAMES}


def tried(n: int, strategy: st.SearchStrategy[Any], check: Callable[[Any], None]) -> int:
    """Check so many inputs; how many there were."""
    count = 0

    @settings(
        max_examples=n,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(drawn: Any) -> None:
        nonlocal count
        count += 1
        check(drawn)

    run()
    assert count >= n
    return count


def told(*arguments: str) -> tuple[int, list[str]]:
    """A command's exit code, and the lines of its standard error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.call(list(arguments))
    lines = err.getvalue().splitlines()
    assert not any("Traceback" in line for line in [*lines, *out.getvalue().splitlines()]), lines
    return code, lines


def refused(*arguments: str) -> None:
    code, lines = told(*arguments)
    assert code == 2, (code, lines)
    assert len(lines) == 1 and lines[0].startswith("boostershot: ") and lines[0].isprintable(), lines


def taken_or_refused(*arguments: str) -> None:
    code, lines = told(*arguments)
    assert code in (0, 2), (code, lines)
    if code == 2:
        assert len(lines) == 1 and lines[0].startswith("boostershot: ") and lines[0].isprintable(), lines


# --- recipes -------------------------------------------------------------------------------------------------------


def places(value: Any, above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The paths of all mappings in a recipe, but for those whose keys are its author's own."""
    found = [above] if above not in (("defenses",), ("attacks",)) else []
    for key, child in value.items():
        if isinstance(child, dict):
            found += places(child, (*above, key))
    return found


def at(recipe: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    for key in path:
        recipe = recipe[key]
    return recipe


@st.composite
def bad_recipes(draw: st.DrawFn) -> str:
    """A shipped recipe with one thing in it that cannot be right."""
    recipe = copy.deepcopy(RECIPES[draw(st.sampled_from(sorted(RECIPES)))])
    section = at(
        recipe, draw(st.sampled_from([path for path in places(recipe) if not {"columns", "options"} & {*path}]))
    )
    how = draw(st.sampled_from(["unknown key", "wrong type", "missing"]))
    if how == "unknown key":
        section["no " + draw(st.text(max_size=5))] = draw(st.none() | st.integers() | st.text(max_size=5))
    elif how == "wrong type" and section:
        key = draw(st.sampled_from(sorted(section)))
        section[key] = draw(st.sampled_from([[[[]]], {"a": {"b": {}}}, [None, {}], {"": []}]))
    else:
        del recipe[draw(st.sampled_from(["name", "data", "immunize", "defenses", "attacks"]))]
    return yaml.safe_dump(recipe, sort_keys=False, allow_unicode=draw(st.booleans()))


@st.composite
def any_text(draw: st.DrawFn) -> bytes:
    """A shipped recipe's text, edited at random, or no recipe at all."""
    if draw(st.integers(0, 4)) == 0:
        return draw(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode(errors="replace")))
    text = recipes.text(draw(st.sampled_from(sorted(RECIPES))))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 30)))
        put = draw(
            st.sampled_from(["", "\t", ": ", "- ", "{", "[", "&a ", "*a", "!!python/name:os.system ", "1e999", "null"])
            | st.text(max_size=8)
        )
        text = text[:start] + put + text[end:]
    return text.encode(errors="replace")


def test_a_sweep_measured_properties_and_a_paper_s_recipe_are_among_what_is_spoilt() -> None:
    assert RECIPES["attack-lab"]["sweep"]["attacker"]["space"]
    assert RECIPES["properties"]["properties"]["generalization"]["groups"]
    assert "paper-sst2" in RECIPES and len(RECIPES) == len(NAMES)


@pytest.mark.parametrize("times", TIMES)
def test_a_bad_recipe_is_refused(tmp_path: Path, times: int, count: Callable[[str], None]) -> None:
    path = tmp_path / "recipe.yaml"

    def check(text: str) -> None:
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        refused("run", str(path), "--dry-run")

    count(f"fuzz: {tried(60 * times, bad_recipes(), check)} bad recipes, all refused in a line")


@pytest.mark.parametrize("times", TIMES)
def test_any_text_is_a_recipe_or_refused(tmp_path: Path, times: int, count: Callable[[str], None]) -> None:
    path = tmp_path / "recipe.yaml"

    def check(text: bytes) -> None:
        path.write_bytes(text)
        taken_or_refused("run", str(path), "--dry-run")

    count(f"fuzz: {tried(60 * times, any_text(), check)} recipes edited at random, each taken or refused in a line")


BOMBS = {
    "aliases of aliases": "a0: &a0 [x]\n"
    + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)),
    "merges of merges": "a0: &a0 {x: 1}\n"
    + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}\n" for i in range(1, 12)),
    "deep nesting": "a: " + "{a: " * 3_000,
    "a long number": "seeds: [" + "9" * 50_000 + "]",
    "an object": "name: !!python/object/apply:os.system ['exit 3']",
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_yaml_bomb_is_refused(tmp_path: Path, bomb: str) -> None:
    (tmp_path / "recipe.yaml").write_text(bomb)
    refused("run", str(tmp_path / "recipe.yaml"), "--dry-run")


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "..", "a/b", "a\\b", ".hidden", "a\x00b", "-rf"])
def test_a_recipe_s_name_and_labels_are_no_paths(tmp_path: Path, name: str) -> None:
    """The run folder is named after the recipe; nothing in a recipe leads out of it."""
    for change in ({"name": name}, {"defenses": {f"{name}.": {"method": "sft"}}}):
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPES["quickstart"] | change))
        refused("run", str(tmp_path / "recipe.yaml"), "--dry-run")


# --- data ----------------------------------------------------------------------------------------------------------

ROWS = "".join(json.dumps(row) + "\n" for row in preference_rows(12))
CSV = "prompt,chosen,rejected\n" + "".join(
    f'"{r["prompt"]}","{r["chosen"]}","{r["rejected"]}"\n' for r in preference_rows(6)
)
SOUND = {
    "rows.jsonl": ROWS.encode(),
    "rows.json": json.dumps(preference_rows(12)).encode(),
    "rows.csv": CSV.encode(),
    "rows.tsv": b"prompt\tanswer\nIs it?\tyes\nWhy?\tno\n",
    "rows.jsonl.gz": gzip.compress(ROWS.encode(), mtime=0),
    "rows.jsonl.xz": lzma.compress(ROWS.encode()),
}


@st.composite
def bad_data(draw: st.DrawFn) -> tuple[str, bytes]:
    """A file that is not what its name says, or whose rows lack what every reading needs."""
    name = draw(st.sampled_from(sorted(SOUND)))
    content, how = SOUND[name], draw(st.sampled_from(["cut", "no text", "no rows", "not objects", "no prompt"]))
    if how == "cut" and name.endswith((".gz", ".xz", ".json", ".jsonl")):
        while True:
            shorter = content[: draw(st.integers(1, len(content) - 3))]
            if name != "rows.jsonl" or not shorter.endswith((b"}", b"\n")):  # else whole rows are left
                return name, shorter
            content = shorter
    if how == "no text" and not name.endswith((".gz", ".xz")):
        middle = draw(st.integers(0, len(content)))
        return name, content[:middle] + draw(st.sampled_from([b"\xff\xfe\xfa", b"\x80", b"\xc3\x28"])) + content[
            middle:
        ]
    if how == "not objects":
        values = draw(
            st.lists(st.integers() | st.text(max_size=3) | st.lists(st.none(), max_size=2), min_size=1, max_size=4)
        )
        return "rows.jsonl", "".join(json.dumps(value) + "\n" for value in values).encode()
    if how == "no prompt":
        keys = draw(st.lists(st.sampled_from(["prmpt", "x", "answr", "", "Ä"]), min_size=1, max_size=3, unique=True))
        return "rows.jsonl", "".join(json.dumps(dict.fromkeys(keys, "text")) + "\n" for _ in range(3)).encode()
    return draw(st.sampled_from(["rows.jsonl", "rows.csv", "rows.json", "rows.parquet"])), b""


@st.composite
def any_data(draw: st.DrawFn) -> tuple[str, bytes]:
    """A sound file, spoilt at random, or any bytes."""
    name = draw(st.sampled_from([*sorted(SOUND), "rows.parquet"]))
    if name not in SOUND or draw(st.integers(0, 4)) == 0:
        return name, draw(st.binary(max_size=300))
    content = bytearray(SOUND[name])
    for _ in range(draw(st.integers(1, 4))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return name, bytes(content)


@pytest.mark.parametrize("times", TIMES)
def test_a_bad_data_file_is_refused(tmp_path: Path, times: int, count: Callable[[str], None]) -> None:
    def check(drawn: tuple[str, bytes]) -> None:
        (tmp_path / drawn[0]).write_bytes(drawn[1])
        refused_with_what_was_found("data", "check", str(tmp_path / drawn[0]))

    count(f"fuzz: {tried(40 * times, bad_data(), check)} bad data files, all refused")


def refused_with_what_was_found(*arguments: str) -> None:
    code, lines = told(*arguments)
    assert code == 2, (code, lines)
    assert lines[-1].startswith("boostershot: ") and lines[-1].isprintable(), lines


@pytest.mark.parametrize("times", TIMES)
def test_any_file_is_data_or_refused(tmp_path: Path, times: int, count: Callable[[str], None]) -> None:
    def check(drawn: tuple[str, bytes]) -> None:
        (tmp_path / drawn[0]).write_bytes(drawn[1])
        code, lines = told("data", "check", str(tmp_path / drawn[0]))
        assert code in (0, 2), (code, lines)

    count(f"fuzz: {tried(40 * times, any_data(), check)} data files spoilt at random, each taken or refused")
