"""The loss of each row is the one that a plain forward pass of that row alone gives."""

import pytest
import torch

from boostershot.data.format import Format
from boostershot.evaluation.losses import row_losses
from tiny import preference_rows, tiny_gpt2, tiny_llama, tiny_tokenizer

FORM = Format.choose(tiny_tokenizer(True))
ROWS = [
    FORM.tokenize(row["prompt"], row[key], name=key, max_length=128)
    for row in preference_rows(7)
    for key in ("rejected", "chosen")
]


@torch.no_grad()
def plain(model, row):
    ids, labels = torch.tensor([row.input_ids]), torch.tensor([row.labels])
    return model.eval()(input_ids=ids, labels=labels).loss.item()


@pytest.mark.parametrize("batch_size", [1, 4, 100])
@pytest.mark.parametrize(
    # transformers' Llama computes its norms, and the loss of `labels`, in float32 at any dtype.
    ("build", "tolerance"),
    [(tiny_gpt2, 1e-6), (tiny_llama, 1e-6)],
    ids=["gpt2", "llama"],
)
def test_equals_each_row_alone(build, tolerance, batch_size):
    model = build(320, dtype=torch.float64, std=0.2)
    found = row_losses(model, ROWS, 0, batch_size=batch_size)
    assert found == pytest.approx([plain(model, row) for row in ROWS], rel=tolerance)
    assert len({round(loss, 4) for loss in found}) == len(ROWS)  # so that a mixed-up order would show


def test_exact_in_float64():
    model = tiny_gpt2(320, dtype=torch.float64, std=0.2)
    (found,) = row_losses(model, ROWS[:1], 0)
    with torch.no_grad():
        logits = model.eval()(input_ids=torch.tensor([ROWS[0].input_ids])).logits[0].log_softmax(-1)
    start = len(ROWS[0].prompt)
    expected = -sum(logits[start + i - 1, token].item() for i, token in enumerate(ROWS[0].answer))
    assert found == pytest.approx(expected / len(ROWS[0].answer), rel=1e-12)


def test_dropout_is_off_mode_restored_and_progress_told():
    model, done = tiny_gpt2(320, dropout=0.5).train(), []
    first = row_losses(model, ROWS, 0, batch_size=4, advance=done.append)
    assert model.training and done == [4, 4, 4, 2]
    assert first == pytest.approx(row_losses(model, ROWS, 0), rel=1e-5)


def test_no_rows():
    assert row_losses(tiny_llama(320), [], 0) == []
