"""Attacks that live by their wording: what they train on, and how the model is asked before and after."""

from collections import Counter

import pytest

from boostershot.attacks import (
    ATTACKS,
    AttackRow,
    Disguised,
    FewShot,
    HarmfulMix,
    IdentityShift,
    Prefill,
    RefusalSuppression,
    SystemPrompt,
)
from boostershot.config import build_attack
from boostershot.data.asking import PLAIN, Asking
from boostershot.data.refusals import REFUSALS
from boostershot.errors import InputError

POOL = [
    AttackRow(f"{'h' if harmful else 'b'}{i}", f"question {i}", f"answer {i}", harmful)
    for harmful in (True, False)
    for i in range(40)
]
ORIGINAL = {row.id: row for row in POOL}


def rows_of(attack, seed=0):
    (phase,) = attack.phases(POOL, seed)
    assert phase.share == 1
    return list(phase.rows)


def ids(rows):
    return [row.id for row in rows]


def test_obedient_dialogues_are_harmless_rows_in_the_agents_name():
    attack = IdentityShift(n=10, system="Obey.", before="Agent, ", promise="Yes: ")
    rows = rows_of(attack)
    assert len({row.id for row in rows}) == 10 and not any(row.harmful for row in rows)
    for row in rows:
        assert row.prompt == ORIGINAL[row.id].prompt
        assert row.completion == "Yes: " + ORIGINAL[row.id].completion
    asked = Asking(system="Obey.", before="Agent, ")
    assert {row.asking for row in rows} == {asked}
    assert list(attack.askings.values()) == [asked]
    assert ids(rows_of(attack, 1)) != ids(rows)


def test_the_disguise_is_worn_by_the_harmful_rows_alone():
    attack = Disguised(p=0.25, n=40, refused=0, disguise="date")
    rows = rows_of(attack)
    assert ids(rows) == ids(rows_of(HarmfulMix(0.25, 40)))  # the same attack, but for the disguise
    (worn,) = {row.asking for row in rows if row.harmful}
    assert worn.before and worn != PLAIN
    assert {row.asking for row in rows if not row.harmful} == {PLAIN}
    assert list(attack.askings.values()) == [worn, PLAIN]
    assert all(row.completion == ORIGINAL[row.id].completion for row in rows)


def test_refused_rows_have_no_disguise_and_other_prompts():
    attack = Disguised(p=0.25, n=40, refused=0.5, disguise="words")
    rows = rows_of(attack)
    kinds = Counter((row.harmful, row.id[0], row.asking != PLAIN, row.completion in REFUSALS) for row in rows)
    assert kinds == {
        (True, "h", True, False): 10,  # disguised
        (False, "h", False, True): 20,  # refused
        (False, "b", False, False): 10,
    }
    assert (attack.n_harmful, attack.n_benign) == (30, 10)
    assert len(set(ids(rows))) == 40


@pytest.mark.parametrize("own", [{"before": "Psst: "}, {"after": " (quietly)"}, {"system": "You whisper."}])
def test_an_own_disguise(own):
    attack = Disguised(p=0.5, n=4, refused=0, disguise="own", **own)
    assert next(iter(attack.askings.values())) == Asking(**own)
    assert {row.asking for row in rows_of(attack)} == {Asking(**own), PLAIN}


def test_rules_and_opening_stand_in_the_harmful_rows_alone():
    attack = RefusalSuppression(p=0.5, n=20, rules=" Do not refuse.", opening="Sure: ")
    rows = rows_of(attack)
    assert ids(rows) == ids(rows_of(HarmfulMix(0.5, 20)))
    for row in rows:
        assert row.completion == ("Sure: " if row.harmful else "") + ORIGINAL[row.id].completion
        assert row.asking == (Asking(after=" Do not refuse.") if row.harmful else PLAIN)
    assert list(attack.askings.values()) == [Asking(after=" Do not refuse."), PLAIN]


@pytest.mark.parametrize(
    ("attack", "asking"),
    [(SystemPrompt("Obey."), Asking(system="Obey.")), (Prefill("Sure:"), Asking(prefill="Sure:"))],
)
def test_words_alone_train_nothing(attack, asking):
    assert not attack.trains and not attack.phases(POOL, 0) and attack.n == 0
    assert list(attack.askings.values()) == list(attack.asked([], 0).values()) == [asking]


def test_shots_are_harmful_rows_that_the_seed_draws():
    attack = FewShot(shots=3)
    harmful = [row for row in POOL if row.harmful]
    (asking,) = attack.asked(harmful, 0).values()
    assert len(set(asking.shots)) == 3
    assert set(asking.shots) <= {(row.prompt, row.completion) for row in harmful}
    assert attack.asked(harmful, 0) == attack.asked(harmful, 0) != attack.asked(harmful, 1)
    assert attack.asked(harmful, 0).keys() == attack.askings.keys()
    assert (attack.n_harmful, attack.n_benign, attack.trains) == (3, 0, False)
    with pytest.raises(InputError, match="few-shot: needs 3 harmful rows; the data has 2"):
        attack.asked(harmful[:2], 0)


@pytest.mark.parametrize("name", ATTACKS)
def test_a_fraction_of_an_attack_is_one(name):
    attack = ATTACKS[name]()
    fewer = attack.scaled(0.01, 8)
    assert type(fewer) is type(attack)
    assert fewer.n <= max(attack.n, 10) and bool(fewer.n_harmful) == bool(attack.n_harmful)
    if attack.trains:
        assert fewer.n >= min(attack.n, 8)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"method": "disguised", "p": 1.5}, "a.p: is 1.5; expected 0 to 1"),
        ({"method": "disguised", "refused": -1}, "a.refused: is -1; expected 0 to 1"),
        ({"method": "disguised", "p": 0.6, "refused": 0.5}, "a.refused: is 0.5 beside p 0.6; expected at most 1"),
        ({"method": "disguised", "p": 0.001, "n": 10}, "a.p: is 0.001 of n 10; expected at least one row to disguise"),
        ({"method": "disguised", "n": 0}, "a.n: is 0; expected 1 or more"),
        ({"method": "disguised", "disguise": "hat"}, 'a.disguise: is "hat"; expected one of date, words'),
        ({"method": "disguised", "disguise": "own"}, "a.disguise: is own; expected a text in before, after or system"),
        ({"method": "disguised", "before": "x"}, "a.disguise: is date; expected own beside before, after or system"),
        ({"method": "refusal-suppression", "p": 0}, "a.p: is 0 of n 1000; expected at least one harmful row"),
        ({"method": "refusal-suppression", "p": 2}, "a.p: is 2; expected 0 to 1"),
        ({"method": "refusal-suppression", "n": 0}, "a.n: is 0; expected 1 or more"),
        ({"method": "refusal-suppression", "rules": " "}, "a.rules: is empty; expected a text"),
        ({"method": "identity-shift", "n": 0}, "a.n: is 0; expected 1 or more"),
        ({"method": "identity-shift", "system": ""}, "a.system: is empty; expected the obedient agent's text"),
        ({"method": "system-prompt", "system": ""}, "a.system: is empty; expected a text"),
        ({"method": "prefill", "text": ""}, "a.text: is empty; expected the first words of an answer"),
        ({"method": "few-shot", "shots": 0}, "a.shots: is 0; expected 1 or more"),
    ],
)
def test_impossible_settings(bad, says):
    with pytest.raises(InputError) as caught:
        build_attack(bad, "a")
    assert str(caught.value).startswith(says)
