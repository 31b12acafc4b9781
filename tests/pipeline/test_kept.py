"""Answers survive a kill between and within batches; what was cut short or changed is answered again."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from boostershot.pipeline.kept import KeptAnswers

FIRST = {"What is a kite?": "A toy.\nOf paper.", "Hi": "Hello \u2028 \u00fc \ud83d"}
SECOND = {"Why?": ""}


@pytest.fixture
def path(tmp_path):
    kept = KeptAnswers(tmp_path / "kept.txt")
    kept.add(FIRST)
    kept.add(SECOND)
    return kept.path


def test_a_batch_is_a_line_and_comes_back(path):
    assert KeptAnswers(path).answers == FIRST | SECOND
    assert path.read_bytes().count(b"\n") == 2
    kept = KeptAnswers(path)
    kept.drop()
    kept.drop()
    assert KeptAnswers(path).answers == {}


def test_a_line_cut_anywhere_counts_for_nothing(path):
    whole = path.read_bytes()
    start = whole.index(b"\n") + 1
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        kept = KeptAnswers(path)
        assert kept.answers in ({}, FIRST, FIRST | SECOND)
        assert (FIRST.items() <= kept.answers.items()) == (length >= start - 1)
        kept.add({"Later?": "yes"})
        assert KeptAnswers(path).answers["Later?"] == "yes"


def test_a_changed_line_counts_for_nothing_and_the_others_stay(path):
    path.write_bytes(path.read_bytes().replace(b"A toy", b"A boy"))
    assert KeptAnswers(path).answers == SECOND


def test_what_was_added_outlives_sigkill(tmp_path):
    code = """
        import os, signal, sys
        from pathlib import Path
        from boostershot.pipeline.kept import KeptAnswers
        kept = KeptAnswers(Path(sys.argv[1]))
        kept.add({"a": "1"})
        kept.add({"b": "2"})
        os.kill(os.getpid(), signal.SIGKILL)
    """
    path = tmp_path / "kept.txt"
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(path)], env=os.environ)
    assert done.returncode == -signal.SIGKILL
    assert KeptAnswers(path).answers == {"a": "1", "b": "2"}
