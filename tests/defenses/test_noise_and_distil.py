"""The student's start and the distillation's gradient, each against an independent computation."""

import math

import naive_reference
import pytest
import torch
from torch.func import functional_call

import boostershot as bs
from batches import batch_of, random_batch, random_rows, relative_difference
from boostershot.core.batch import Rows
from boostershot.core.oracle import FORWARD, Oracle
from boostershot.core.step import Batch
from boostershot.defenses.noise_and_distil import Distil
from tiny import tiny_gpt2, tiny_llama

# GPT-2 computes in float64 throughout; transformers' Llama has its norms and rotations in float32 at any dtype.
MODELS = {"gpt2": (tiny_gpt2, 1e-12), "llama": (tiny_llama, 1e-6)}
ALIGN, GENERAL = random_batch(seed=1), random_batch(seed=2)


def weights_of(model):
    return {name: param.detach().clone() for name, param in model.named_parameters()}


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_the_student_starts_shrunk_with_noise_on_its_matrices(noise):
    model = tiny_gpt2(dtype=torch.float64, std=0.2)
    for name, param in model.named_parameters():
        if name.endswith("bias"):
            param.data.fill_(0.5)  # GPT-2's biases begin at 0, where shrinking could not be seen
    teacher = weights_of(model)
    further = bs.NoiseAndDistil(shrink=0.6, noise=noise, steps=7, lr=1e-4).finish(Oracle(model))
    assert further is not None and (further.steps, further.lr) == (7, 1e-4)
    draws = []
    for name, student in weights_of(model).items():
        fresh = (student - 0.4 * teacher[name]) / 0.6
        if student.dim() == 1 or noise == 0:
            torch.testing.assert_close(fresh, torch.zeros_like(fresh), rtol=0, atol=1e-15)
            continue
        bound = noise * math.sqrt(6 / sum(student.shape))  # Xavier: a variance of 2 / (fan in + fan out)
        assert fresh.abs().max() <= bound * (1 + 1e-9)
        draws.append((fresh / bound).flatten())
    if noise:
        drawn = torch.cat(draws)
        assert drawn.abs().max() > 0.999
        assert drawn.mean().abs() < 5 / math.sqrt(3 * len(drawn))
        assert drawn.square().mean() == pytest.approx(1 / 3, rel=0.02)  # uniform, and not normal
        assert len(drawn.unique()) == len(drawn)  # no two matrices have the same draw


def test_the_noise_is_the_seeds():
    def started(seed):
        torch.rand(3)  # no global random state takes part
        model = tiny_gpt2()
        bs.NoiseAndDistil().finish(Oracle(model, seed=seed))
        return weights_of(model)

    first, second, other = started(1), started(1), started(2)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def divergence(model, teacher, student, batch):
    """Mean over labelled tokens of KL(teacher | student), over full logits of padded rows."""
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    p, q = (
        functional_call(model, params, (), inputs).logits[:, :-1][batch["labels"][:, 1:] != -100].softmax(-1)
        for params in (teacher, student)
    )
    return (p.detach() * (p.detach() / q).log()).sum(-1).mean()


def distil(model, teacher, micro_batch_size=None, align=ALIGN, general=GENERAL):
    oracle = Oracle(model, micro_batch_size=micro_batch_size)
    step = Distil(teacher).step(oracle, Batch(align=Rows.of(align), general=Rows.of(general)))
    assert oracle.passes == pytest.approx(Distil(teacher).passes) == pytest.approx(2 + 2 * FORWARD)
    return step


@pytest.mark.parametrize("name", MODELS)
def test_the_gradient_is_that_of_the_forward_divergence(name):
    build, tolerance = MODELS[name]
    model = build(dtype=torch.float64, std=0.2)
    teacher = {name: param + 0.02 * torch.randn_like(param) for name, param in weights_of(model).items()}
    home = weights_of(model)
    student = naive_reference.trainable(model)
    kinds = [divergence(model, teacher, student, batch) for batch in (ALIGN, GENERAL)]
    expected = torch.autograd.grad((kinds[0] + kinds[1]) / 2, list(student.values()))
    step = distil(model, teacher)
    assert relative_difference(step.gradient.tensors(), expected) < tolerance
    assert step.loss == pytest.approx((kinds[0] + kinds[1]).item() / 2, rel=1e-6)
    assert step.metrics["divergence_align"] == pytest.approx(kinds[0].item(), rel=1e-6)
    backward = divergence(model, student, teacher, ALIGN)  # the other direction is another number here
    assert abs(backward.item() - kinds[0].item()) > 1e-3 * kinds[0].item()
    assert all(torch.equal(param, home[name]) for name, param in model.named_parameters())


def test_micro_batches_give_the_gradient_of_the_whole_batch():
    model = tiny_gpt2(dtype=torch.float64, std=0.2)
    teacher = {name: 1.1 * param for name, param in weights_of(model).items()}
    rows = random_rows(seed=1)
    rows[4] = (rows[4][0], [-100] * len(rows[4][0]))  # a micro-batch of one may have nothing to learn from
    whole, single = (distil(model, teacher, size, batch_of(rows)).gradient.tensors() for size in (None, 1))
    assert relative_difference(single, whole) < 1e-12


def test_a_student_that_is_the_teacher_has_nothing_to_learn():
    model = tiny_gpt2(dtype=torch.float64, std=0.2)
    step = distil(model, weights_of(model))
    assert step.loss == pytest.approx(0, abs=1e-15)
    assert step.gradient.norm() < 1e-14


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"shrink": 1.5}, "shrink is 1.5"),
        ({"shrink": -0.1}, "shrink is -0.1"),
        ({"noise": math.nan}, "noise is nan"),
        ({"lr": -1e-4}, "lr is -0.0001"),
        ({"steps": 0}, "steps is 0"),
    ],
)
def test_values_without_meaning_are_refused(values, message):
    with pytest.raises(ValueError, match=f"noise_and_distil: {message}"):
        bs.NoiseAndDistil(**values)
