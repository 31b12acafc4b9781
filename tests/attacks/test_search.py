"""The search: the same whatever the finishing order and however often it is killed."""

import random

import pytest

from boostershot.attacks.search import Search, Trial, limits
from boostershot.config.space import read_space
from boostershot.errors import InputError

SPACE = read_space(
    {
        "adapter": ["continue", "fresh"],
        "lr": {"low": 1e-6, "high": 1e-2, "log": True},
        "batch": [4, 8, 16],
        "targets": [["q", "k"], "all"],
        "lora.rank": {"values": [4, 8, 16], "when": {"adapter": ["fresh"]}},
    },
    "space",
)


def as_told(trial):
    return trial.excess


def outcome(number, values):
    """A made-up attack: best at a middling rate; the highest rates fail, the lowest are given up."""
    if values["lr"] > 3e-3:
        return Trial(number, values, "failed", facts={"error": "made up"})
    value = abs(values["lr"] - 1e-4) * 1e4 + values["batch"] / 100 + (values["adapter"] == "fresh")
    if values["lr"] < 3e-6:
        return Trial(number, values, "pruned", course={5: value})
    return Trial(number, values, "done", value, excess=0.01 * (number % 3) - 0.01, course={5: value, 10: value / 2})


def searched(file, trials, name="one", stop_after=None, seed=0, first=None):
    search = Search(file, name, SPACE, seed, 4, first)
    generations = 0
    while proposed := search.propose(trials, as_told):
        if generations == stop_after:
            return search
        start = len(search.finished)
        order = list(enumerate(proposed, start))
        random.Random(generations).shuffle(order)  # whoever finishes first
        found = {number: outcome(number, values) for number, values in order}
        search.tell([found[number] for number in sorted(found)])
        generations += 1
    return search


def test_a_killed_search_ends_as_one_that_was_not(tmp_path):
    whole = searched(tmp_path / "a.sqlite", 14)
    assert [trial.number for trial in whole.finished] == list(range(14))
    searched(tmp_path / "b.sqlite", 14, stop_after=1)
    searched(tmp_path / "b.sqlite", 14, stop_after=1)
    again = searched(tmp_path / "b.sqlite", 14)
    assert again.finished == whole.finished
    assert searched(tmp_path / "c.sqlite", 14, seed=1).finished != whole.finished


def test_a_kill_between_two_trials_of_a_generation_tells_neither_twice(tmp_path):
    whole = searched(tmp_path / "a.sqlite", 12)
    search = searched(tmp_path / "b.sqlite", 12, stop_after=1)
    third = [outcome(number, values) for number, values in enumerate(search.propose(12, as_told), 4)]
    ends = [one.user_attrs["generation_ends"] for one in search._study.trials]
    assert ends == [4] * 4

    class Killed(BaseException):
        pass

    add, left = search._study.add_trial, [2]

    def killed(trial):
        if not left[0]:
            raise Killed
        left[0] -= 1
        add(trial)

    search._study.add_trial = killed
    with pytest.raises(Killed):
        search.tell(third)
    assert len(Search(tmp_path / "b.sqlite", "one", SPACE, 0, 4).finished) == 4
    again = searched(tmp_path / "b.sqlite", 12)
    assert again.finished == whole.finished
    assert len(again._study.trials) == 12


def test_more_trials_go_on_from_the_finished_ones(tmp_path):
    few = searched(tmp_path / "a.sqlite", 8).finished
    more = searched(tmp_path / "a.sqlite", 12).finished
    assert more[:8] == few
    assert len(more) == 12
    assert searched(tmp_path / "a.sqlite", 4).propose(4, as_told) == []


def test_trials_asked_for_later_are_those_of_a_search_that_had_them_from_the_start(tmp_path):
    """10 and 14 are no whole generations of 4."""
    whole = searched(tmp_path / "whole.sqlite", 14).finished
    for trials in (5, 10, 14):
        found = searched(tmp_path / "grown.sqlite", trials).finished
        assert found == whole[:trials]


def test_the_bound_is_followed_as_it_is_known_now(tmp_path):
    """What was told inside and is known to be outside now counts as if it had been told so."""

    def second(told, known):
        search = Search(tmp_path / f"{told}.sqlite", "one", SPACE, 0, 8)
        first = list(enumerate(search.propose(16, as_told)))
        search.tell([Trial(n, values, "done", values["lr"], excess=told(values)) for n, values in first])
        return search.propose(16, known)

    def outside(values):
        return 0.5 if values["lr"] < 1e-4 else -0.1

    moved = second(lambda values: -0.1, lambda trial: outside(trial.values))
    assert moved == second(outside, as_told)
    assert moved != second(lambda values: -0.2, as_told)


def test_searches_of_one_file_know_nothing_of_each_other(tmp_path):
    one = searched(tmp_path / "a.sqlite", 8, "one")
    two = searched(tmp_path / "a.sqlite", 8, "two", seed=1)
    assert one.finished != two.finished
    assert searched(tmp_path / "a.sqlite", 8, "one").finished == one.finished


def test_the_first_trial_may_be_given_and_proposals_stay_in_the_space(tmp_path):
    first = {"adapter": "fresh", "lr": 2e-4, "batch": 8, "targets": ["q", "k"], "lora.rank": 8}
    found = searched(tmp_path / "a.sqlite", 24, first=first)
    assert found.finished[0].values == first
    for trial in found.finished:
        assert 1e-6 <= trial.values["lr"] <= 1e-2
        assert trial.values["targets"] in (["q", "k"], "all")
        assert ("lora.rank" in trial.values) == (trial.values["adapter"] == "fresh")
    assert len({trial.values["lr"] for trial in found.finished}) == 24  # no two of a generation are alike


def test_later_generations_are_better_than_the_random_first(tmp_path):
    done = [trial for trial in searched(tmp_path / "a.sqlite", 40).finished if trial.state == "done"]
    early = [trial.value for trial in done if trial.number < 12]
    late = [trial.value for trial in done if trial.number >= 28]
    assert sorted(late)[len(late) // 2] < sorted(early)[len(early) // 2]


def test_importance_names_what_matters(tmp_path):
    assert searched(tmp_path / "few.sqlite", 8).importance(as_told) is None
    search = searched(tmp_path / "a.sqlite", 40)
    found = search.importance(as_told)
    inside = [trial for trial in search.finished if trial.state == "done" and trial.excess <= 0]
    assert (found.best, found.of) == (5, len(inside))
    assert search.importance(lambda trial: 1.0) is None  # none is inside any longer
    shares = found.shares
    assert shares.keys() == {"adapter", "lr", "batch", "targets", "lora.rank"}
    assert sum(shares.values()) == pytest.approx(1)
    assert max(shares, key=shares.get) in ("lr", "adapter")


def test_trials_outside_the_bound_are_not_followed(tmp_path):
    """The same values, but the rates below 1e-4 lie outside: proposals move above it."""

    def late_rates(excess):
        search = Search(tmp_path / f"{excess}.sqlite", "one", SPACE, 0, 4)
        while proposed := search.propose(32, as_told):
            search.tell(
                [
                    Trial(number, values, "done", values["lr"], excess=excess if values["lr"] < 1e-4 else -0.1)
                    for number, values in enumerate(proposed, len(search.finished))
                ]
            )
        return [trial.values["lr"] for trial in search.finished[16:]]

    assert sum(rate > 1e-4 for rate in late_rates(0.5)) > sum(rate > 1e-4 for rate in late_rates(-0.1))


def test_limits_are_medians_once_there_are_enough():
    finished = [Trial(n, {}, "done", 1.0, course={5: loss}) for n, loss in enumerate([1.0, 2.0, 4.0])]
    finished += [Trial(3, {}, "pruned", course={5: 9.0}), Trial(4, {}, "failed")]
    assert limits(finished, [5, 10], 4) == {5: 3.0, 10: None}
    assert limits(finished, [5], 5) == {5: None}


def test_a_storage_that_cannot_be_used_is_told_in_one_line(tmp_path):
    (tmp_path / "text.sqlite").write_text("no database " * 100)
    with pytest.raises(InputError, match=r"text\.sqlite: cannot be used: file is not a database") as caught:
        Search(tmp_path / "text.sqlite", "one", SPACE, 0, 4)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="cannot be used"):
        Search(tmp_path / "nowhere" / "a.sqlite", "one", SPACE, 0, 4)
