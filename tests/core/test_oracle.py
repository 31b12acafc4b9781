"""The oracle's guards: non-finite values, nothing to learn from, `.grad`, frozen parts, and `moved`."""

import pytest
import torch

import boostershot as bs
from batches import batch_of, random_batch, relative_difference
from boostershot.core.batch import Rows
from boostershot.core.oracle import NonFiniteError, Oracle
from tiny import tiny_gpt2, tiny_llama

ROWS = Rows.of(random_batch()).named("align")


def with_grads(model):
    """The model with recognisable gradients already in place."""
    for i, param in enumerate(model.parameters()):
        param.grad = torch.full_like(param, float(i))
    return model, [param.grad for param in model.parameters()]


def assert_grads_untouched(model, before) -> None:
    for i, (param, grad) in enumerate(zip(model.parameters(), before, strict=True)):
        assert param.grad is grad
        assert torch.equal(grad, torch.full_like(param, float(i)))


def test_a_non_finite_loss_names_the_rows_of_its_micro_batch_and_leaves_grad_alone():
    model, before = with_grads(tiny_gpt2())
    batch = random_batch(vocab=100)
    batch["input_ids"][5, 1] = 101  # in no other row
    with torch.no_grad():
        model.transformer.wte.weight[101] = float("inf")
    # Tied embeddings would spoil every row's logits: another projection.
    model.set_output_embeddings(torch.nn.Linear(32, 128, bias=False))
    before.append(None)
    oracle = Oracle(model, micro_batch_size=2, step=7)
    with pytest.raises(NonFiniteError, match="step 7: loss nan") as caught:
        oracle.gradient(Rows.of(batch).named("harmful"))
    named = str(caught.value).split("in rows ")[1]
    assert named == "harmful row 4, harmful row 5"
    assert oracle.passes == 0
    for param, grad in zip(model.parameters(), before, strict=True):
        assert param.grad is grad


def test_a_non_finite_gradient_of_a_finite_loss_names_every_row():
    model, before = with_grads(tiny_gpt2())
    model.transformer.h[0].mlp.c_fc.weight.register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(NonFiniteError, match=r"gradient norm (inf|nan)") as caught:
        Oracle(model, micro_batch_size=3).gradient(ROWS)
    assert all(name in str(caught.value) for name in ROWS.ids)
    assert_grads_untouched(model, before)


def test_booster_stops_with_the_weights_restored_when_the_moved_loss_is_not_finite():
    model = tiny_gpt2(std=0.2)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(bs.NonFiniteError, match="harmful row 0"):
        bs.defense_gradient(
            model, bs.Booster(lam=1, alpha=1e38), align=random_batch(seed=1), harmful=random_batch(seed=2)
        )
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_no_supervised_token_is_an_error_that_names_the_rows_and_runs_nothing():
    model, before = with_grads(tiny_gpt2())
    model.register_forward_pre_hook(lambda *_: pytest.fail("ran the model"))
    batch = random_batch(3)
    rows = Rows.of({**batch, "labels": torch.full_like(batch["labels"], -100)}).named("align")
    with pytest.raises(ValueError, match="no supervised token in rows align row 0, align row 1, align row 2"):
        Oracle(model).gradient(rows)
    assert_grads_untouched(model, before)


def test_a_label_on_the_first_token_alone_supervises_nothing():
    with pytest.raises(ValueError, match="no supervised token"):
        Oracle(tiny_gpt2()).gradient(Rows.of(batch_of([([5, 6, 7], [5, -100, -100])])))


def test_earlier_gradients_are_neither_added_nor_lost():
    model = tiny_gpt2()
    expected = Oracle(model).gradient(ROWS).gradient.tensors()
    model, before = with_grads(model)
    actual = Oracle(model, micro_batch_size=3).gradient(ROWS).gradient.tensors()
    assert relative_difference(actual, expected) < 1e-5
    assert_grads_untouched(model, before)


def test_a_trainable_parameter_that_the_loss_does_not_reach_has_a_zero_gradient():
    model = tiny_llama()
    model.register_parameter("unused", torch.nn.Parameter(torch.ones(3)))
    oracle = Oracle(model)
    gradient = dict(zip(oracle.names, oracle.gradient(ROWS).gradient.tensors(), strict=True))
    assert torch.equal(gradient["unused"], torch.zeros(3))


def test_frozen_parameters_get_no_gradient_and_may_be_half_precision():
    model = tiny_llama(dtype=torch.bfloat16).requires_grad_(False)
    model.model.norm.float().requires_grad_(True)
    oracle = Oracle(model, autocast=lambda: torch.autocast("cpu", torch.bfloat16))
    step = oracle.gradient(ROWS)
    assert oracle.names == ["model.norm.weight"]
    assert [part.dtype for part in step.gradient.tensors()] == [torch.float32]
    assert oracle.trainable_weights == 32


def test_moved_goes_along_the_direction_and_comes_back():
    model = tiny_gpt2(dtype=torch.float64)
    oracle = Oracle(model)
    before = [param.detach().clone() for param in oracle.params]
    direction = oracle.gradient(ROWS).gradient.unit()
    with oracle.moved(direction, by=-0.25):
        step = [param.detach() - home for param, home in zip(oracle.params, before, strict=True)]
        norm = torch.sqrt(sum((part**2).sum() for part in step))  # type: ignore[arg-type]
        assert norm.item() == pytest.approx(0.25, rel=1e-12)
        expected = [-0.25 * part for part in direction.tensors()]
        assert relative_difference(step, expected) < 1e-12
    assert all(torch.equal(param, home) for param, home in zip(oracle.params, before, strict=True))


def test_the_loss_is_a_mean_over_tokens_not_over_rows():
    model = tiny_gpt2(dtype=torch.float64, std=0.2)
    parts = ROWS.split(1)
    counts = [int(part.supervised().sum()) for part in parts]
    losses = [Oracle(model).gradient(part).loss for part in parts]
    expected = sum(n * loss for n, loss in zip(counts, losses, strict=True)) / sum(counts)
    assert Oracle(model).gradient(ROWS).loss == pytest.approx(expected, rel=1e-12)
    assert abs(sum(losses) / len(losses) - expected) > 1e-3  # the other mean is another number here


def test_a_budget_of_tokens_bounds_what_each_pass_reads(monkeypatch):
    model, read = tiny_llama(), []
    forward = model.forward
    monkeypatch.setattr(
        model, "forward", lambda **inputs: (read.append(inputs["input_ids"].numel()), forward(**inputs))[1]
    )
    whole = Oracle(model).gradient(ROWS)
    longest = ROWS.longest()
    del read[:]
    found = Oracle(model, tokens_per_micro_batch=2 * longest).gradient(ROWS)
    assert len(read) > 1 and max(read) <= 2 * longest
    assert found.loss == pytest.approx(whole.loss, rel=1e-5)


def test_rows_are_padded_where_that_is_asked_for():
    model = tiny_llama(dtype=torch.float64, std=0.2)
    tries, rows = Oracle(model), Oracle(model, padded=True)
    one, other = tries.gradient(ROWS), rows.gradient(ROWS)
    assert rows.tokens == ROWS.input_ids.numel() > tries.tokens
    assert other.loss == pytest.approx(one.loss, rel=1e-6)
    for a, b in zip(one.gradient.parts, other.gradient.parts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
