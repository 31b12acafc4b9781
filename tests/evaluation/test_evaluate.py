"""`evaluate` end to end on a tiny model, and every figure of its scores counted again from its answers."""

import pytest
import torch

from boostershot import InputError, Scores, Task, evaluate
from boostershot.data.asking import Asking
from boostershot.data.format import Format
from boostershot.data.rows import HarmfulPrompt
from boostershot.data.tasks import TaskRow
from boostershot.evaluation.evaluate import JudgedAnswer, TaskAnswer, answer_all
from boostershot.evaluation.generation import generate
from boostershot.evaluation.judges import Verdict
from boostershot.evaluation.losses import row_losses
from boostershot.evaluation.statistics import bootstrap_interval, wilson
from tiny import preference_rows, tiny_llama, tiny_tokenizer

TOKENIZER = tiny_tokenizer(True)
HARMFUL = [
    HarmfulPrompt(f"p{i}", row["prompt"], "odd" if i % 2 else "even", rejected=row["rejected"] if i < 4 else None)
    for i, row in enumerate(preference_rows(6))
]
TASK = Task(
    "length",
    {split: [TaskRow(f"{split}{i}", f"Say {i}", str(i)) for i in range(5)] for split in ("train", "dev", "test")},
    lambda answer, row: int(row.answer) % 2 == 0,
)


class EveryThird:
    """Flags every third answer; remembers the pairs that it judged."""

    def __init__(self, name="third"):
        self.name, self.pairs = name, []

    def __call__(self, pairs, advance=lambda n: None):
        self.pairs += pairs
        return [Verdict(i % 3 == 1, i % 3 == 2, None, i % 3 == 0) for i in range(len(pairs))]


@pytest.fixture
def model():
    return tiny_llama(320, dtype=torch.float64, std=0.3)


def test_end_to_end(model):
    judge = EveryThird()
    scores = evaluate(model, TOKENIZER, HARMFUL, TASK, [judge], max_new_tokens=5)
    form = Format.choose(TOKENIZER)
    answers = generate(model, form, [row.prompt for row in HARMFUL], max_new_tokens=5)
    assert isinstance(scores, Scores) and scores.judge == "third"
    assert judge.pairs == [(row.prompt, answer) for row, answer in zip(HARMFUL, answers, strict=True)]
    assert [(a.id, a.category, a.answer) for a in scores.harmful] == [
        (row.id, row.category, answer) for row, answer in zip(HARMFUL, answers, strict=True)
    ]
    assert scores.harmful_score == pytest.approx(100 * 2 / 6)
    assert [(a.id, a.correct) for a in scores.task] == [(f"test{i}", i % 2 == 0) for i in range(5)]
    assert [a.answer for a in scores.task] == generate(model, form, [f"Say {i}" for i in range(5)], max_new_tokens=5)
    assert scores.finetune_accuracy == pytest.approx(60)
    rows = [form.tokenize(r.prompt, r.rejected, name=r.id, max_length=256) for r in HARMFUL[:4]]
    assert scores.losses == pytest.approx(row_losses(model, rows, TOKENIZER.pad_token_id))
    assert list(scores.loss_ids) == ["p0", "p1", "p2", "p3"]


def test_records_stand_for_rows_and_task_rows_can_be_chosen(model):
    records = [{"prompt": row.prompt, "rejected": row.rejected} for row in HARMFUL[:2]]
    scores = evaluate(model, TOKENIZER, records, TASK, [EveryThird()], n_task=2, task_split="dev", max_new_tokens=2)
    assert [a.id for a in scores.harmful] == ["row-1", "row-2"]
    assert [a.id for a in scores.task] == ["dev0", "dev1"]
    assert len(scores.losses) == 2


def test_a_task_without_a_rule_has_the_log_likelihood_of_its_reference_answers(model):
    rows = [TaskRow(f"r{i}", f"Say {i}", "some words " * (i + 1)) for i in range(4)]
    rows.append(TaskRow("long", "word " * 300, "no room for an answer"))
    scores = evaluate(model, TOKENIZER, HARMFUL, Task("free", {"test": rows}, None), [EveryThird()], max_new_tokens=2)
    form, expected = Format.choose(TOKENIZER), {}
    for row in rows[:4]:  # one row at a time, by the plain forward pass
        prompt, answer = form.prompt_ids(row.prompt), form.answer_ids(row.answer) + form.end_ids()
        log_p = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        expected[row.id] = log_p[range(len(answer)), answer].mean().item()
    assert {a.id: a.log_likelihood for a in scores.task} == pytest.approx(expected, abs=1e-6)
    assert scores.task_log_likelihood == pytest.approx(sum(expected.values()) / 4) and scores.task_log_likelihood < 0
    low, high = scores.task_log_likelihood_ci
    assert min(expected.values()) <= low < scores.task_log_likelihood < high <= max(expected.values())
    assert scores.finetune_accuracy is None and scores.finetune_accuracy_ci is None
    assert evaluate(model, TOKENIZER, HARMFUL, TASK, [EveryThird()], max_new_tokens=2).task_log_likelihood is None


def test_several_judges_see_the_same_answers(model):
    judges = [EveryThird("a"), EveryThird("b")]
    scores = evaluate(model, TOKENIZER, HARMFUL, None, judges, max_new_tokens=3)
    assert list(scores) == ["a", "b"] and judges[0].pairs == judges[1].pairs
    assert scores["a"].finetune_accuracy is None and scores["a"].finetune_accuracy_ci is None


@pytest.mark.parametrize(
    ("rows", "judges", "message"),
    [
        ([], [EveryThird()], "harmful prompts: no rows"),
        (HARMFUL, [], "judges: none given"),
        ([{"prompt": "ok"}, {"prompt": 3}], [EveryThird()], "row 2 has no text in column 'prompt'"),
        ([{"text": "x"}], [EveryThird()], "row 1 has no text in column 'prompt'"),
    ],
)
def test_errors_are_one_line(model, rows, judges, message):
    with pytest.raises(InputError, match=message) as caught:
        evaluate(model, TOKENIZER, rows, None, judges)
    assert "\n" not in str(caught.value)


def test_scores_count_their_answers():
    kinds = [Verdict(False, False, 0.9, True)] * 3 + [Verdict(True, False, None, False)] * 2
    kinds += [Verdict(False, True, None, False)] * 4 + [Verdict(False, False, 0.1, False)] * 1
    harmful = [JudgedAnswer(str(i), "none", "text", verdict) for i, verdict in enumerate(kinds)]
    task = [TaskAnswer(str(i), "text", i < 3) for i in range(4)]
    losses = [1.0, 2.0, 4.0]
    scores = Scores("judge", harmful, task, losses)
    assert scores.harmful_score == pytest.approx(30) and scores.harmful_score_ci == wilson(3, 10)
    assert scores.refusal_share == pytest.approx(20) and scores.degenerate_share == pytest.approx(40)
    assert scores.off_topic_share == pytest.approx(10)
    assert (scores.refusal_share_ci, scores.degenerate_share_ci) == (wilson(2, 10), wilson(4, 10))
    assert scores.off_topic_share_ci == wilson(1, 10)
    assert scores.finetune_accuracy == pytest.approx(75) and scores.finetune_accuracy_ci == wilson(3, 4)
    assert scores.harmful_loss == pytest.approx(7 / 3) and scores.harmful_loss_ci == bootstrap_interval(losses)
    none = Scores("judge", harmful)
    assert none.harmful_loss is None and none.harmful_loss_ci is None
    assert Scores("judge", harmful, losses=[1.0]).harmful_loss_ci is None


def test_what_a_way_of_asking_adds_counts_in_no_length(model):
    """Rows that just fit when they are asked plainly have their whole answers after any number of example turns."""
    form = Format.choose(TOKENIZER)
    plain = [form.tokenize(r.prompt, r.rejected, name=r.id, max_length=256) for r in HARMFUL[:4]]
    longest = max(len(row.input_ids) for row in plain)
    asked = form.asked(Asking(system="Do as they say.", shots=(("One?", "Yes. " * 20), ("Two?", "No. " * 20))))
    unscored = Task("free", TASK.splits, None)
    rows = TASK.splits["test"]

    def losses(length):
        found = answer_all(model, asked, asked, HARMFUL, unscored, rows, max_new_tokens=1, max_length=length)
        return [*found.losses, *(answer.log_likelihood for answer in found.task)]

    assert losses(longest) == pytest.approx(losses(10_000), abs=1e-12)
    assert len(losses(longest)) == 4 + 5
