"""The manifest says what ran, keeps what ran before, and guards the folder against another recipe."""

import shutil
import subprocess
from pathlib import Path

import pytest

from boostershot.config import load_recipe
from boostershot.errors import InputError
from boostershot.pipeline import manifest
from boostershot.pipeline.files import read_json, read_manifest
from boostershot.pipeline.manifest import describe_data, finish_manifest, git_commit, start_manifest
from boostershot.pipeline.store import Store


def test_a_finished_run_is_described(tmp_path: Path) -> None:
    recipe = load_recipe("quickstart", ["seeds=[3, 4]", "runtime.threads=2"])
    start_manifest(tmp_path, recipe, threads=2)
    assert read_manifest(tmp_path)["ended"] is None
    describe_data(tmp_path, {"align": "5f"}, {"align": 240, "test": 150}, {"align&test": 0})
    finish_manifest(tmp_path)
    found = read_json(tmp_path / "manifest.json")
    assert found["schema"] == 1
    assert found["recipes"] == {"quickstart": recipe.to_dict()}
    assert (found["seeds"], found["threads"]) == ([3, 4], 2)
    assert (found["data"], found["overlaps"]) == ({"align": "5f"}, {"align&test": 0})
    assert found["splits"] == {"align": 240, "test": 150}
    assert found["ended"] >= found["started"]
    assert {"python", "torch", "transformers", "peft", "trl", "boostershot"} <= found["versions"].keys()
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["memory_gib"] > 0
    assert found["history"] == []


def test_a_repetition_keeps_its_start_and_other_values_are_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter("abcdefgh")
    monkeypatch.setattr(manifest, "now", lambda: next(times))
    first = load_recipe("quickstart")
    start_manifest(tmp_path, first, threads=1)  # a
    finish_manifest(tmp_path)  # b
    start_manifest(tmp_path, load_recipe("quickstart", ["runtime.threads=2"]), threads=2)
    assert (read_manifest(tmp_path)["started"], read_manifest(tmp_path)["ended"]) == ("a", None)
    finish_manifest(tmp_path)  # c

    other = load_recipe("quickstart", ["immunize.steps=3"])
    start_manifest(tmp_path, other, threads=1)  # d
    found = read_manifest(tmp_path)
    assert found["recipes"] == {"quickstart": other.to_dict()}
    assert found["started"] == "d"
    (before,) = found["history"]
    assert (before["started"], before["ended"]) == ("a", "c")
    assert before["recipe"]["immunize"]["steps"] == first.immunize.steps

    start_manifest(tmp_path, first, threads=1)  # e
    assert [one["started"] for one in read_manifest(tmp_path)["history"]] == ["a", "d"]


def test_a_run_that_goes_on_under_other_versions_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("quickstart")
    assert start_manifest(tmp_path, recipe, threads=1) == []
    assert start_manifest(tmp_path, recipe, threads=1) == []
    then = read_manifest(tmp_path)["versions"]
    monkeypatch.setattr(manifest, "versions", lambda: then | {"torch": "3.0"})
    assert start_manifest(tmp_path, recipe, threads=1) == [f"torch {then['torch']} -> 3.0"]
    assert [one["versions"] for one in read_manifest(tmp_path)["history"]] == [then]


def test_a_recipe_of_another_name_is_refused(tmp_path: Path) -> None:
    recipe = load_recipe("quickstart")
    store = Store(tmp_path)
    with store.claimed(recipe.name):
        start_manifest(tmp_path, recipe, threads=1)
    with store.claimed("quickstart"):
        pass
    other = "holds a run of the recipe 'quickstart'"
    with pytest.raises(InputError, match=other), store.claimed("quickstart-seeds"):
        raise AssertionError("claimed")
    assert (tmp_path / "lock").read_text() == ""


@pytest.mark.skipif(shutil.which("git") is None, reason="no git here")
def test_the_commit_is_the_source_trees_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        done = subprocess.run(["git", *identity, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    source = tmp_path / "boostershot"
    source.mkdir()
    (source / "errors.py").write_text("one = 1\n")
    monkeypatch.setattr(manifest, "_SOURCE", source)
    assert git_commit() is None
    git("init")
    git("commit", "--allow-empty", "-m", "somebody's own repository")
    assert git_commit() is None
    git("add", ".")
    git("commit", "-m", "the source")
    commit = git("rev-parse", "HEAD")
    assert git_commit() == commit
    (source / "errors.py").write_text("one = 2\n")
    assert git_commit() == f"{commit}-dirty"
