"""Hidden states by transformers' own `output_hidden_states` and plain hooks, on a copy of the model, row by row."""

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

Batch = Mapping[str, Tensor]


def gradient(model: nn.Module, objective: Callable[[nn.Module], Tensor]) -> tuple[float, dict[str, Tensor]]:
    """A scalar function of a model and its gradient in the trainable parameters, on a copy."""
    model = copy.deepcopy(model)
    params = {name: param for name, param in model.named_parameters() if param.requires_grad}
    value = objective(model)
    found = torch.autograd.grad(value, list(params.values()), allow_unused=True, materialize_grads=True)
    return value.item(), dict(zip(params, found, strict=True))


def run(model: nn.Module, batch: Batch):
    """The model's output on right-padded rows."""
    return model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True, use_cache=False
    )


def places(batch: Batch) -> list[tuple[int, list[int]]]:
    """Each row, and the positions from which its labelled tokens are predicted."""
    labels = batch["labels"].tolist()
    return [(r, [t - 1 for t, label in enumerate(row) if label != -100 and t]) for r, row in enumerate(labels)]


def cross_entropy(logits: Tensor, batch: Batch) -> Tensor:
    """Mean over the labelled tokens."""
    rows = [(logits[r, t], batch["labels"][r, t + 1]) for r, ts in places(batch) for t in ts]
    return torch.stack([torch.logsumexp(row, 0) - row[target] for row, target in rows]).mean()


def lens_loss(model: nn.Module, batch: Batch, norm: str) -> Tensor:
    """Mean over embedding output, layers' outputs but the last, and the model's own loss."""
    out = run(model, batch)
    head, final = model.get_output_embeddings(), model.get_submodule(norm)  # type: ignore[operator]
    early = [cross_entropy(head(final(state)), batch) for state in out.hidden_states[:-1]]
    return torch.stack([*early, cross_entropy(out.logits, batch)]).mean()


def outputs(model: nn.Module, batch: Batch, ending: str) -> list[Tensor]:
    """What the modules whose names end so give out, in order: [rows, time, width] each."""
    found, handles = [], []
    for name, module in model.named_modules():
        if name.endswith(ending):
            handles.append(module.register_forward_hook(lambda _m, _a, out: found.append(out)))
    run(model, batch)
    for handle in handles:
        handle.remove()
    return [out if isinstance(out, Tensor) else out[0] for out in found]
