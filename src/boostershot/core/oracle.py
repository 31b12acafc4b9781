"""The only place that runs the model for a gradient and the only one that says `backward`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn

from boostershot.core.batch import Rows
from boostershot.core.losses import lay_out, token_losses
from boostershot.core.vector import Vector, excursion


class NonFiniteError(FloatingPointError):
    """A loss or a gradient is not finite; the message names the rows. Nothing reached the optimiser."""


@dataclass(frozen=True)
class Batch:
    """The rows of one optimiser step, by role.

    `align`: harmful prompt, safe answer. `harmful`: harmful prompt, harmful answer. `paired`: the same prompts with
    both answers. `general`: benign text. A defence takes the roles that it needs.
    """

    align: Rows | None = None
    harmful: Rows | None = None
    paired: Rows | None = None
    general: Rows | None = None

    def need(self, role: str) -> Rows:
        """The rows of a role.

        Raises:
            ValueError: the batch has none.
        """
        rows = getattr(self, role)
        if rows is None:
            raise ValueError(f"this defence needs {role} rows, and the batch has none")
        return rows


class Step:
    """A loss and its gradient. Differentiation is linear, so steps add and scale like the losses they came from.

    Arithmetic gives its operands up: their buffers carry the result. Their `loss` and `metrics` stay readable, their
    `gradient` does not.
    """

    def __init__(self, loss: float, gradient: Vector, metrics: Mapping[str, float] | None = None):
        self.loss = loss
        self.metrics: dict[str, float] = dict(metrics or {})
        self._gradient: Vector | None = gradient

    @property
    def gradient(self) -> Vector:
        """One tensor for each trainable parameter, in the model's order.

        Raises:
            RuntimeError: the gradient was given up to a sum.
        """
        if self._gradient is None:
            raise RuntimeError("this step's gradient went into a sum; read it before")
        return self._gradient

    def _give_up(self) -> Vector:
        gradient, self._gradient = self.gradient, None
        return gradient

    def __add__(self, other: Step) -> Step:
        loss, metrics = self.loss + other.loss, {**self.metrics, **other.metrics}
        return Step(loss, self._give_up().plus(other._give_up()), metrics)

    def __sub__(self, other: Step) -> Step:
        return self + (-1.0) * other

    def __rmul__(self, factor: float) -> Step:
        return Step(factor * self.loss, self._give_up().times(factor), self.metrics)

    def log(self, **metrics: float) -> Step:
        """The same step with these metrics added."""
        return Step(self.loss, self._give_up(), {**self.metrics, **metrics})


@dataclass
class Oracle:
    """Losses and gradients of a model at its present weights, for one optimiser step.

    Args:
        model: a causal language model, unwrapped (no DistributedDataParallel around it).
        micro_batch_size: rows in one forward pass; None takes the whole batch.
        seed, step: all that random choices (dropout) depend on.
        autocast: gives the context in which a forward pass runs.
        state: what a defence keeps between steps, JSON-able, saved in the checkpoint.

    Raises:
        ValueError: a trainable parameter is in half precision, or there is none, or `micro_batch_size` is below 1.
    """

    model: nn.Module
    micro_batch_size: int | None = None
    seed: int = 0
    step: int = 0
    autocast: Callable[[], AbstractContextManager] = nullcontext
    state: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.micro_batch_size is not None and self.micro_batch_size < 1:
            raise ValueError(f"micro_batch_size is {self.micro_batch_size}; expected 1 or more rows, or None")
        named = [(name, param) for name, param in self.model.named_parameters() if param.requires_grad]
        if not named:
            raise ValueError("the model has no trainable parameter")
        for name, param in named:
            if param.dtype not in (torch.float32, torch.float64):
                raise ValueError(
                    f"parameter {name} is trainable in {param.dtype}; a small perturbation vanishes in half "
                    "precision: make the trainable parameters float32 and use bf16 autocast for speed"
                )
        self.names = [name for name, _ in named]
        self.params = [param for _, param in named]
        self.passes = 0  # forward-backward passes over a whole batch
        self.tokens = 0  # tokens that the model read in them

    @property
    def trainable_weights(self) -> int:
        """The number of trainable scalars."""
        return sum(param.numel() for param in self.params)

    def gradient(self, rows: Rows) -> Step:
        """Mean loss over the supervised tokens of all rows, all micro-batches and all processes, and its gradient.

        Raises:
            ValueError: no token is supervised.
            NonFiniteError: the loss or the gradient is not finite; names the rows.
        """
        supervised = self._sum_processes(rows.supervised().sum().double()).item()
        if supervised == 0:
            raise ValueError(f"no supervised token in rows {', '.join(rows.ids)}")
        device = self.params[0].device
        aside = [param.grad for param in self.params]
        for param in self.params:
            param.grad = None
        value, suspects = torch.zeros((), dtype=torch.float64, device=device), list[str]()
        try:
            for i, micro in enumerate(rows.split(self.micro_batch_size)):
                with self._same_dropout(i), self.autocast():
                    layout = lay_out(self.model, micro.to(device))
                    loss = token_losses(self.model, layout).sum() / supervised
                if loss.requires_grad:
                    loss.backward()
                if not torch.isfinite(loss):
                    suspects.extend(micro.ids)
                value += loss.detach()
                self.tokens += layout.tokens
            parts = tuple(torch.zeros_like(param) if param.grad is None else param.grad for param in self.params)
        finally:
            for param, grad in zip(self.params, aside, strict=True):
                param.grad = grad
        for part in parts:
            self._sum_processes(part)
        gradient, loss_value = Vector(parts), self._sum_processes(value).item()
        norm = gradient.norm()  # of the sum, so every process raises or none does
        if not (torch.isfinite(torch.tensor(norm)) and torch.isfinite(torch.tensor(loss_value))):
            named = ", ".join(suspects or rows.ids)
            raise NonFiniteError(f"step {self.step}: loss {loss_value}, gradient norm {norm}, in rows {named}")
        self.passes += 1
        return Step(loss_value, gradient)

    @contextmanager
    def moved(self, direction: Vector, by: float) -> Iterator[None]:
        """Within, the weights are `w + by * direction`; after, they are `w` bit for bit."""
        with excursion(self.params):
            with torch.no_grad():
                torch._foreach_add_(
                    [param.data for param in self.params], list(direction.parts), alpha=by * direction.scale
                )
            yield

    @contextmanager
    def _same_dropout(self, micro_batch: int) -> Iterator[None]:
        """h(w) and h(w') must differ by the weights alone: the mask is a function of seed, step, rank, micro-batch."""
        rank = dist.get_rank() if dist.is_initialized() else 0
        text = f"{self.seed}/{self.step}/{rank}/{micro_batch}"
        device = self.params[0].device
        devices = [] if device.type == "cpu" else [device]
        with torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"):
            torch.manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True))
            yield

    def _sum_processes(self, tensor: Tensor) -> Tensor:
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(tensor)
        return tensor
