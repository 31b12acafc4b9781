"""TAR against plain autograd, and the attacker that it and Patcher simulate."""

import math

import naive_reference
import pytest
import torch
from torch.func import functional_call
from transformers import GPT2LMHeadModel

import boostershot as bs
from batches import random_batch, relative_difference
from boostershot.core.batch import Rows
from boostershot.core.oracle import Oracle
from boostershot.core.step import Batch
from boostershot.defenses.attacker import Attacker
from tiny import tiny_gpt2, tiny_llama

# GPT-2 computes in float64 throughout; transformers' Llama has its norms and rotations in float32 at any dtype.
MODELS = {"gpt2": (tiny_gpt2, 1e-12), "llama": (tiny_llama, 1e-6)}
ROLES = {role: random_batch(seed=i) for i, role in enumerate(("align", "harmful", "general"), 1)}
LR = 3e-3


def cut(batch, i):
    """The i-th pair of rows."""
    return {key: value[2 * i : 2 * i + 2] for key, value in batch.items()}


def negative_entropy(model, params, batch):
    """Of the next token before each labelled one, over full logits."""
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    logits = functional_call(model, params, (), inputs).logits[:, :-1]
    p = logits.softmax(-1)[batch["labels"][:, 1:] != -100]
    return (p * p.log()).sum(-1).mean()


def states(model, params, batch):
    """Each layer's output before each labelled token: [layers, tokens, width]."""
    layers = model.transformer.h if isinstance(model, GPT2LMHeadModel) else model.model.layers
    found = []

    def keep(_module, _args, out):
        found.append(out if torch.is_tensor(out) else out[0])

    handles = [layer.register_forward_hook(keep) for layer in layers]
    functional_call(model, params, (), {key: batch[key] for key in ("input_ids", "attention_mask")})
    for handle in handles:
        handle.remove()
    return torch.stack([out[:, :-1][batch["labels"][:, 1:] != -100] for out in found])


def adamw(params, gradients, memory, t):
    """One step of AdamW without decay, by its formula."""
    moved = {}
    for (name, p), g in zip(params.items(), gradients, strict=True):
        m, v = memory.get(name, (0.0, 0.0))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        memory[name] = m, v
        moved[name] = (p - LR * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)).detach().requires_grad_()
    return moved


def start_of(model):
    """Other weights than the model's, as those at which the training began."""
    generator = torch.Generator().manual_seed(7)
    return {
        name: p.detach() + 0.01 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
        for name, p in model.named_parameters()
    }


def gradient_of(objective, params):
    return torch.autograd.grad(objective, list(params.values()), allow_unused=True, materialize_grads=True)


def naive(model, start, lam, steps, every, growth, tamper, retain):
    """The objective's gradient: f + lam sum of weighted resistance gradients at attacked weights + retain (b + d)."""
    params = naive_reference.trainable(model)
    total = gradient_of(naive_reference.loss(model, params, ROLES["align"]), params)
    attacked, memory = params, {}
    for t in range(1, steps + 1):
        h = naive_reference.loss(model, attacked, cut(ROLES["harmful"], t - 1))
        attacked = adamw(attacked, gradient_of(h, attacked), memory, t)
        if (steps - t) % every == 0:
            there = gradient_of(tamper(model, attacked, cut(ROLES["harmful"], steps)), attacked)
            total = [a + lam * math.exp(growth * (t - steps)) * b for a, b in zip(total, there, strict=True)]
    general = ROLES["general"]
    distance = (states(model, params, general) - states(model, start, general).detach()).norm(dim=-1).mean()
    kept = gradient_of(naive_reference.loss(model, params, general) + distance, params)
    return [a + retain * b for a, b in zip(total, kept, strict=True)]


def step(defense, model, start, roles=ROLES, micro_batch_size=None):
    tensors = {f"start/{name}": value for name, value in start.items()}
    oracle = Oracle(model, micro_batch_size=micro_batch_size, tensors=tensors)
    rows = {role: Rows.of(batch) for role, batch in roles.items()}
    return defense.step(oracle, Batch(**rows, parts=defense.reads()))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("loss", "every"), [("entropy", 1), ("entropy", 2), ("nll", 2)])
def test_three_steps_of_adamw_agree_with_plain_autograd(name, loss, every):
    build, tolerance = MODELS[name]
    model = build(dtype=torch.float64, std=0.2)
    start = start_of(model)
    weights = {"lam": 0.7, "steps": 3, "every": every, "growth": 0.3, "retain": 1.3}
    tar = bs.TAR(loss=loss, bound=None, lr=LR, **weights)
    tamper = negative_entropy if loss == "entropy" else lambda *given: -naive_reference.loss(*given)
    expected = naive(model, start, tamper=tamper, **weights)
    actual = step(tar, model, start).gradient.tensors()
    assert relative_difference(actual, expected) < tolerance
    for change in ({"lam": 0.0}, {"retain": 0.0}, {"growth": 0.0}):  # each weighs enough for its absence to be seen
        assert relative_difference(actual, naive(model, start, tamper=tamper, **(weights | change))) > 1e-3


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("bound", [None, 0.1])
def test_one_normalised_step_with_nll_and_no_retention_is_the_look_ahead(name, bound):
    model = MODELS[name][0](std=0.2)
    same = {"alpha": 0.3, "lam": 0.7, "bound": bound}
    tar = bs.TAR(steps=1, every=1, loss="nll", optimizer="normalized_sgd", inner="same", retain=0, **same)
    lookahead = bs.Lookahead(**same)
    assert tar.passes == lookahead.passes
    actual, expected = (bs.defense_gradient(model, each, **ROLES) for each in (tar, lookahead))
    assert all(torch.equal(actual.gradient[name], expected.gradient[name]) for name in expected.gradient)
    assert actual.loss == expected.loss


@pytest.mark.parametrize("size", [None, 3])
@pytest.mark.parametrize("build", [tiny_gpt2, tiny_llama])
def test_at_the_start_the_distance_is_zero_and_so_is_its_gradient(build, size):
    # The norm has no derivative at zero: rounding noise there would be a gradient of full length.
    model = build(std=0.2)
    roles = {**ROLES, "align": ROLES["general"]}
    retained = step(bs.TAR(lam=0, lr=LR, retain=1), model, dict(model.named_parameters()), roles, size)
    plain = bs.defense_gradient(model, bs.SFT(), align=ROLES["general"], micro_batch_size=size)
    assert relative_difference(retained.gradient.tensors(), [2 * part for part in plain.gradient.values()]) < 1e-6
    assert retained.metrics["retain_loss"] == pytest.approx(plain.loss, rel=1e-6)


def test_no_weight_is_sft_and_needs_neither_harmful_nor_general_rows():
    model = tiny_gpt2(std=0.2)
    nothing = bs.TAR(lam=0, retain=0, lr=LR)
    assert nothing.reads() == {"align": 1}
    actual, expected = (bs.defense_gradient(model, each, align=ROLES["align"]) for each in (nothing, bs.SFT()))
    assert all(torch.equal(actual.gradient[name], expected.gradient[name]) for name in expected.gradient)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "normalized_sgd"])
def test_the_attacker_moves_the_weights_and_brings_back_weights_and_grads(optimizer):
    model = tiny_gpt2(std=0.2)
    for param in model.parameters():
        param.grad = torch.ones_like(param)
    home = {name: param.detach().clone() for name, param in model.named_parameters()}
    grads = [param.grad for param in model.parameters()]
    names = frozenset(name for name in home if "mlp" in name)
    rows = Rows.of(ROLES["harmful"])
    with (
        pytest.raises(KeyError),
        Attacker(optimizer, 0.1, names).walk(Oracle(model), [rows] * 3) as steps,
    ):
        losses = list(steps)
        assert losses[2] < losses[0]
        moved = {name for name, param in model.named_parameters() if not torch.equal(param, home[name])}
        assert moved == names
        raise KeyError
    assert all(torch.equal(param, home[name]) for name, param in model.named_parameters())
    assert all(param.grad is grad for param, grad in zip(model.parameters(), grads, strict=True))
    assert all(torch.equal(grad, torch.ones_like(grad)) for grad in grads)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "lr is missing; adamw needs one"),
        ({"lr": 1e-3, "alpha": 0.1}, "are for normalized_sgd; adamw takes lr"),
        ({"optimizer": "normalized_sgd", "lr": 1e-3}, "lr is given"),
        ({"optimizer": "normalized_sgd"}, "exactly one of alpha"),
        ({"lr": -1.0}, "lr is -1.0"),
        ({"lr": 1e-3, "lam": math.inf}, "lam is inf"),
        ({"lr": 1e-3, "retain": -1.0}, "retain is -1.0"),
        ({"lr": 1e-3, "growth": math.nan}, "growth is nan"),
        ({"lr": 1e-3, "steps": 0}, "steps is 0"),
        ({"lr": 1e-3, "every": 0}, "every is 0"),
    ],
)
def test_values_without_meaning_are_refused(values, message):
    with pytest.raises(ValueError, match=f"tar.*{message}"):
        bs.TAR(**values)
