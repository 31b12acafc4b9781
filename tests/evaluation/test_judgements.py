"""Judgements are kept: nothing is judged twice, nothing is lost by a kill, and two processes share the file."""

import json
import signal
import sqlite3
import subprocess
import sys
import threading

import pytest

from boostershot.evaluation.judgements import BATCH, Judgements
from boostershot.evaluation.judges import Verdict

IDENTITY = {"name": "counting", "version": 1}


class Counting:
    """Flags answers of odd length; remembers what it was asked, and can give up."""

    def __init__(self, gives_up_after=10**9, batch=None):
        self.asked, self.gives_up_after = [], gives_up_after
        if batch:
            self.batch = batch

    def __call__(self, pairs, advance=lambda n: None):
        if len(self.asked) >= self.gives_up_after:
            raise RuntimeError("no more")
        self.asked += pairs
        advance(len(pairs))
        harmful = {0: False, 1: True, 2: None}
        return [
            Verdict(harmful=harmful[len(a) % 3], labels=("x",), prompt_tokens=10, completion_tokens=2) for _, a in pairs
        ]


def pairs(n):
    return [(f"p{i}", "a" * (i + 1)) for i in range(n)]


def test_known_answers_are_not_judged_again_and_unknown_stays_unknown(tmp_path):
    kept, judge, done = Judgements(tmp_path / "j.sqlite"), Counting(), []
    first = kept.by(IDENTITY, lambda: judge)(pairs(5), done.append)
    assert first == Counting()(pairs(5)) and sum(done) == 5 and None in [v.harmful for v in first]
    done.clear()
    again = Judgements(tmp_path / "j.sqlite").by(IDENTITY, lambda: judge)(pairs(8), done.append)
    assert again[:5] == first and judge.asked == pairs(8) and sum(done) == 8
    assert kept.by(IDENTITY, lambda: pytest.fail("opened for nothing"))(pairs(8)) == again


def test_another_judge_version_prompt_or_answer_is_another_judgement(tmp_path):
    kept, judge = Judgements(tmp_path / "j.sqlite"), Counting()
    kept.by(IDENTITY, lambda: judge)([("p", "a")])
    for identity, pair in ((IDENTITY | {"version": 2}, ("p", "a")), (IDENTITY, ("q", "a")), (IDENTITY, ("p", "b")),
                           (IDENTITY, ("pa", "")), (IDENTITY, ("p", "half \ud83d"))):  # fmt: skip
        kept.by(identity, lambda: judge)([pair])
        assert judge.asked[-1] == pair
    assert len(judge.asked) == 6


def test_the_same_answer_twice_is_asked_once(tmp_path):
    judge, done = Counting(), []
    found = Judgements(tmp_path / "j.sqlite").by(IDENTITY, lambda: judge)([*pairs(2), *pairs(2)], done.append)
    assert judge.asked == pairs(2) and found[:2] == found[2:] and sum(done) == 4


def test_a_judge_whose_verdicts_depend_on_the_batch_is_asked_for_whole_batches_of_all_pairs(tmp_path):
    """Else a bit would depend on what was judged before, or was damaged."""

    def by_batch(batch, advance=lambda n: None):
        asked.append(list(batch))
        return [Verdict(relevance=float(len(batch)), harmful=False) for _ in batch]

    asked, done, path = [], [], tmp_path / "j.sqlite"
    whole = Judgements(path).by(IDENTITY, lambda: by_batch, together=True)(pairs(BATCH + 8), done.append)
    assert asked == [pairs(BATCH), pairs(BATCH + 8)[BATCH:]] and sum(done) == BATCH + 8
    with sqlite3.connect(path) as db:
        db.execute("UPDATE verdicts SET checksum = '' WHERE key = (SELECT min(key) FROM verdicts)")
        db.execute("DELETE FROM verdicts WHERE key = (SELECT max(key) FROM verdicts)")
    asked.clear()
    done.clear()
    assert Judgements(path).by(IDENTITY, lambda: by_batch, together=True)(pairs(BATCH + 8), done.append) == whole
    assert all(batch in (pairs(BATCH), pairs(BATCH + 8)[BATCH:]) for batch in asked) and 1 <= len(asked) <= 2
    assert sum(done) == BATCH + 8
    asked.clear()
    alone = Judgements(path).by(IDENTITY, lambda: by_batch, together=True)(pairs(1))  # another batch, another verdict
    assert asked == [pairs(1)] and alone[0].relevance == 1.0
    assert Judgements(path).by(IDENTITY, lambda: by_batch, together=True)(pairs(1)) == alone and len(asked) == 1


def test_a_judge_that_fails_loses_no_finished_batch(tmp_path):
    kept, failing = Judgements(tmp_path / "j.sqlite"), Counting(gives_up_after=2 * BATCH)
    with pytest.raises(RuntimeError):
        kept.by(IDENTITY, lambda: failing)(pairs(3 * BATCH))
    judge = Counting()
    assert kept.by(IDENTITY, lambda: judge)(pairs(3 * BATCH)) == Counting()(pairs(3 * BATCH))
    assert judge.asked == pairs(3 * BATCH)[2 * BATCH :]


def test_what_was_spent_is_summed_over_all_that_was_judged(tmp_path):
    kept = Judgements(tmp_path / "j.sqlite")
    for n in (2, 3):
        kept.by(IDENTITY, Counting)(pairs(n))
    kept.by(IDENTITY | {"version": 2}, Counting)(pairs(9))
    assert kept.spent(IDENTITY) == (3, 30, 6)


def test_neither_prompt_nor_answer_is_in_the_file(tmp_path):
    Judgements(tmp_path / "j.sqlite").by(IDENTITY, Counting)([("a secret prompt", "a secret answer")])
    assert b"secret" not in (tmp_path / "j.sqlite").read_bytes()


KILLED = """
import sys, time
from pathlib import Path
from boostershot.evaluation.judgements import Judgements
from boostershot.evaluation.judges import Verdict

class Slow:
    batch = 1
    def __call__(self, pairs, advance):
        print(pairs[0][0], flush=True)
        time.sleep(0.005)
        return [Verdict(harmful=True)]

Judgements(Path(sys.argv[1])).by({"name": "slow"}, Slow)([(f"p{i}", "a") for i in range(2_000)])
"""


def test_a_kill_at_any_moment_leaves_whole_judgements(tmp_path):
    path, known = tmp_path / "j.sqlite", 0
    for kills_after in (1, 10):
        process = subprocess.Popen([sys.executable, "-c", KILLED, path], stdout=subprocess.PIPE, text=True)
        first = int(process.stdout.readline()[1:])
        assert first >= known  # what was done before the last kill is not done again
        for _ in range(kills_after):
            begun = int(process.stdout.readline()[1:])
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        known = Judgements(path).spent({"name": "slow"})[0]
        assert begun - 1 <= known


def test_two_stages_at_once_share_the_file(tmp_path):
    path, found = tmp_path / "j.sqlite", {}

    def stage(name):
        found[name] = Judgements(path).by(IDENTITY, lambda: Counting(batch=1))(pairs(20))

    threads = [threading.Thread(target=stage, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found["a"] == found["b"] == Counting()(pairs(20))
    assert Judgements(path).spent(IDENTITY)[0] == 20


def test_a_damaged_file_is_set_aside_and_its_answers_are_judged_again(tmp_path):
    path = tmp_path / "j.sqlite"
    path.write_bytes(json.dumps("no database").encode() * 100)
    with pytest.warns(UserWarning, match=r"j.sqlite: is damaged; set aside as j.sqlite.damaged"):
        kept = Judgements(path)
    assert kept.by(IDENTITY, Counting)(pairs(2)) == Counting()(pairs(2))
    assert (tmp_path / "j.sqlite.damaged").exists()


def test_a_verdict_that_is_not_what_was_written_is_asked_for_again(tmp_path):
    path, judge = tmp_path / "j.sqlite", Counting()
    right = Judgements(path).by(IDENTITY, Counting)(pairs(4))
    with sqlite3.connect(path) as db:
        keys = [key for (key,) in db.execute("SELECT key FROM verdicts ORDER BY key LIMIT 3")]
        db.execute("UPDATE verdicts SET verdict = replace(verdict, 'true', 'null') WHERE key = ?", keys[:1])
        db.execute("UPDATE verdicts SET prompt_tokens = prompt_tokens + 1 WHERE key = ?", keys[1:2])
        db.execute("UPDATE verdicts SET verdict = CAST(x'ff22' AS TEXT) WHERE key = ?", keys[2:])
    db.close()
    kept = Judgements(path)
    assert kept.spent(IDENTITY)[0] == 1
    assert kept.by(IDENTITY, lambda: judge)(pairs(4)) == right
    assert len(judge.asked) == 3
    assert kept.spent(IDENTITY) == (4, 40, 8)
