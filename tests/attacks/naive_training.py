"""An attack's training by plain autograd and textbook formulas: padded batches, nothing of boostershot's."""

import math

import torch
from torch.func import functional_call

from tiny import tiny_tokenizer


def padded_batch(rows):
    """Rows of prompt and completion in the tiny ChatML, as the chat template writes them; answers are supervised."""
    tokenizer, found = tiny_tokenizer(True), []
    for row in rows:
        turns = [{"role": "user", "content": row["prompt"]}]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        prompt = tokenizer(text, add_special_tokens=False).input_ids
        answer = tokenizer(row["completion"] + "<|im_end|>", add_special_tokens=False).input_ids
        found.append((prompt + answer, [-100] * len(prompt) + answer))
    width = max(len(ids) for ids, _ in found)
    return {
        "input_ids": torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in found]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in found]),
        "labels": torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in found]),
    }


def log_probabilities(model, params, batch):
    """Log-probabilities at the places that predict a supervised token, [n, vocabulary], and these tokens [n]."""
    logits = functional_call(model, params, (), {k: batch[k] for k in ("input_ids", "attention_mask")}).logits[:, :-1]
    labels = batch["labels"][:, 1:]
    return logits[labels != -100].log_softmax(-1), labels[labels != -100]


def loss(model, params, batch):
    """The mean negative log-likelihood of the supervised tokens."""
    logs, targets = log_probabilities(model, params, batch)
    return -logs.gather(1, targets[:, None]).mean()


def divergence(model, reference, params, batch):
    """KL(model at `reference` | model at `params`), the mean over the supervised tokens."""
    began = log_probabilities(model, reference, batch)[0].detach()
    return (began.exp() * (began - log_probabilities(model, params, batch)[0])).sum(-1).mean()


def weights(model):
    return {name: param.detach().clone() for name, param in model.named_parameters() if param.requires_grad}


def gradient(objective, params):
    leaves = {name: param.clone().requires_grad_() for name, param in params.items()}
    found = torch.autograd.grad(objective(leaves), list(leaves.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(leaves, found, strict=True))


def norm(params):
    return math.sqrt(sum(param.double().square().sum().item() for param in params.values()))


def sgd(w, g, state, t, lr, momentum):
    state["m"] = momentum * state["m"] + g if "m" in state else g
    return w - lr * state["m"]


def adamw(w, g, state, t, lr, momentum):
    state["m"] = momentum * state.get("m", 0) + (1 - momentum) * g
    state["v"] = 0.999 * state.get("v", 0) + 0.001 * g**2
    return w - lr * (state["m"] / (1 - momentum**t)) / ((state["v"] / (1 - 0.999**t)).sqrt() + 1e-8)


def lion(w, g, state, t, lr, momentum):
    before = state.get("m", torch.zeros_like(g))
    state["m"] = 0.99 * before + 0.01 * g
    return w - lr * torch.sign(momentum * before + (1 - momentum) * g)


def adafactor(w, g, state, t, lr, momentum):
    """Matrices have a second moment of rank one: row means times column means over the mean."""
    square, decay = g**2 + 1e-30, 1 - t**-0.8
    if g.dim() > 1:
        state["r"] = decay * state.get("r", 0) + (1 - decay) * square.mean(-1, keepdim=True)
        state["c"] = decay * state.get("c", 0) + (1 - decay) * square.mean(-2, keepdim=True)
        second = state["r"] * state["c"] / state["r"].mean(-2, keepdim=True)
    else:
        second = state["v"] = decay * state.get("v", 0) + (1 - decay) * square
    update = g / second.sqrt()
    update = lr * update / max(1.0, update.square().mean().sqrt().item())
    if momentum is None:
        return w - update
    state["m"] = momentum * state.get("m", 0) + (1 - momentum) * update
    return w - state["m"]


def trained(params, gradients, rule, lr, momentum, steps):
    """The weights after so many steps; `gradients(step, params)` gives each step's."""
    states = {name: {} for name in params}
    for step in range(steps):
        g = gradients(step, params)
        params = {name: rule(w, g[name], states[name], step + 1, lr, momentum) for name, w in params.items()}
    return params


def assert_same(found, expected, start, tolerance=1e-5):
    """The change of the weights is as expected, relative to its length, and there is one.

    A Llama norms in float32, whatever its weights are in.
    """
    change = {name: expected[name] - start[name] for name in start}
    difference = {name: found[name] - expected[name] for name in start}
    assert norm(change) > 0
    assert norm(difference) / norm(change) < tolerance
