"""The only place that runs the model for a gradient and the only one that says `backward`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from boostershot.core import sharded
from boostershot.core.batch import Layout, Rows, padded
from boostershot.core.losses import lay_out, losses_at_once, reads_tries, shares_prefixes, text_config, token_losses
from boostershot.core.lower import Lower
from boostershot.core.sharded import like, local
from boostershot.core.step import Batch, Step
from boostershot.core.vector import Vector, excursion

TokenLoss = Callable[[nn.Module, Layout], Tensor]  # one value for each supervised position, shape [n]
Reading = Callable[[nn.Module, Layout], Tensor]  # hidden states at each supervised position, shape [n, ...]
START = "start/"  # in `tensors`, before the names of the parameters as they were when the training began
FORWARD = 1 / 3  # of a forward-backward pass: the backward costs two forwards
_NO_SECOND_DERIVATIVE = ("derivative", "differentiate", "does not require grad", "not implemented", "checkpoint")


class NonFiniteError(FloatingPointError):
    """A loss or a gradient is not finite; the message names the rows. Nothing reached the optimiser."""


@dataclass
class Oracle:
    """Losses and gradients of a model at its present weights, for one optimiser step.

    Args:
        model: a causal language model, unwrapped (no DistributedDataParallel around it); `fully_shard` may have been
            applied to it, and then every process must ask for the same things in the same order.
        micro_batch_size: rows in one forward pass; None takes the whole batch.
        tokens_per_micro_batch: tokens that a forward pass reads at most, where that is more than one row; None for any
            number. What reads no order of the rows packs those with long common prefixes together.
        padded: lay rows side by side in every pass, and never as a trie.
        seed, step: all that random choices depend on.
        autocast: gives the context in which a forward pass runs.
        state: numbers that a defence keeps between steps, JSON-able, saved in the checkpoint.
        tensors: the same for tensors, by name; what follows the last slash of it may be a parameter's.
        lower: layers that are passed over in all passes of the step, if any; none may read their hidden states then.

    Raises:
        ValueError: a trainable parameter is in half precision, or there is none, or `micro_batch_size` is below 1, or
            parameters are sharded in another way than by `fully_shard` over all processes; `tokens_per_micro_batch` as
            `micro_batch_size`.
    """

    model: nn.Module
    micro_batch_size: int | None = None
    tokens_per_micro_batch: int | None = None
    padded: bool = False
    seed: int = 0
    step: int = 0
    autocast: Callable[[], AbstractContextManager] = nullcontext
    state: dict = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    lower: Lower | None = None

    def __post_init__(self) -> None:
        for name, what in (("micro_batch_size", "rows"), ("tokens_per_micro_batch", "tokens")):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} is {value}; expected 1 or more {what}, or None")
        self._shards = sharded.modules(self.model)
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
        sharded.check(self.params)
        for key, tensor in self.tensors.items():  # as a checkpoint has them, whole
            if (name := key.rpartition("/")[2]) in self.names:
                self.tensors[key] = like(tensor, self.params[self.names.index(name)])
        self.passes = 0.0  # forward-backward passes over a whole batch
        self.tokens = 0  # tokens that the model read in them
        self.untouched: frozenset[str] = frozenset()  # trainable parameters that this step leaves out
        self._micro_batch = 0
        self._homes: list[list[Tensor]] = []  # of each excursion within another, the weights it began with
        self._uses: dict[str, int] | None = None
        self._kept: dict[str, Step] = {}

    @property
    def trainable_weights(self) -> int:
        """The number of trainable scalars."""
        return sum(param.numel() for param in self.params)

    # --- losses and gradients ---------------------------------------------------------------------------------

    def gradient(self, rows: Rows, loss: TokenLoss | None = None, *, in_rows: bool = False) -> Step:
        """Mean loss over the supervised tokens of all rows, all micro-batches and all processes, and its gradient.

        Args:
            rows: what the model reads.
            loss: of each supervised token; its negative log-likelihood if not given.
            in_rows: lay the rows side by side, so that each has activations of its own, and not as a trie.

        Raises:
            ValueError: no token is supervised.
            NonFiniteError: the loss or the gradient is not finite; names the rows.
        """
        supervised, value, suspects = self._supervised(rows), 0.0, list[str]()
        micros = self._micro_batches(rows, in_rows, in_order=loss is not None)
        loss = loss or token_losses
        with self._collecting() as collected:
            for i, micro in enumerate(micros):
                with self._forward(i):
                    part = loss(self.model, self._lay_out(micro, in_rows)).sum() / supervised
                if part.requires_grad:
                    self._backward(part, last=i == len(micros) - 1)
                if not torch.isfinite(part):
                    suspects.extend(micro.ids)
                value += part.item()
            gradient = collected()
        return self._finite(Step(self._summed(value), self._reduced(gradient)), suspects or rows.ids, rows.share)

    def loss(self, rows: Rows, loss: TokenLoss | None = None) -> float:
        """The mean loss alone, as in `gradient`, and with its errors."""
        supervised, value = self._supervised(rows), 0.0
        micros = self._micro_batches(rows, in_order=loss is not None)
        loss = loss or token_losses
        with torch.no_grad():
            for i, micro in enumerate(micros):
                with self._forward(i):
                    value += (loss(self.model, self._lay_out(micro)).sum() / supervised).item()
        return self._finite(Step(self._summed(value), Vector(())), rows.ids, passes=FORWARD * rows.share).loss

    def hessian_times(self, rows: Rows, direction: Vector) -> Vector:
        """The Hessian of the mean loss at these weights times a vector, by double backward.

        Attention runs on plain matrix products, which alone have a second derivative, and compiled layers run eagerly.
        Costs about two passes.

        Raises:
            ValueError: an operation of the model has no second derivative, or parameters are sharded.
        """
        if self._shards:
            raise ValueError(
                "the exact order needs whole parameters in each process, and these are sharded (FSDP); use "
                "DistributedDataParallel, or the first-order method"
            )
        attention = getattr(text_config(self.model), "_attn_implementation", None)
        if attention not in (None, "eager", "sdpa"):  # kernels of their own may leave terms out without a word
            raise _no_second_derivative(self.model, f"{attention} attention")
        supervised = self._supervised(rows)
        eagerly = torch.compiler.set_stance("force_eager")
        with self._collecting() as collected, sdpa_kernel(SDPBackend.MATH), eagerly:
            for i, micro in enumerate(self._micro_batches(rows, in_order=False)):
                with self._forward(i):
                    loss = losses_at_once(self.model, self._lay_out(micro)).sum() / supervised
                if not loss.requires_grad:  # no token of these rows is supervised
                    continue
                try:
                    first = torch.autograd.grad(
                        loss, self.params, create_graph=True, allow_unused=True, materialize_grads=True
                    )
                    products = (torch.sum(a * b) for a, b in zip(first, direction.parts, strict=True))
                    (direction.scale * sum(products, torch.zeros((), device=loss.device))).backward()
                except RuntimeError as error:
                    if any(words in str(error) for words in _NO_SECOND_DERIVATIVE):
                        raise _no_second_derivative(self.model, str(error).splitlines()[0]) from None
                    raise
            product = self._reduced(collected())
        self.passes += 2 * rows.share
        return self._finite(Step(0.0, product), rows.ids, passes=0).gradient

    # --- gradients that several parts of a composition read ---------------------------------------------------

    @contextmanager
    def sharing(self, uses: Mapping[str, int]) -> Iterator[None]:
        """Within, `shared_gradient` computes each role's gradient once for so many uses; the outermost call counts."""
        if self._uses is not None:
            yield
            return
        self._uses = dict(uses)
        try:
            yield
        finally:
            self._uses, self._kept = None, {}

    @contextmanager
    def sharing_nothing(self) -> Iterator[None]:
        """Within, `shared_gradient` is `gradient`: for a part whose uses no `sharing` counts."""
        uses, self._uses = self._uses, None
        try:
            yield
        finally:
            self._uses = uses

    def shared_gradient(self, batch: Batch, role: str) -> Step:
        """`gradient` of a role's rows; at the home weights it is computed once and kept while others will ask."""
        rows = batch.need(role)
        if self._homes or not self._uses or self._uses.get(role, 0) < 1:
            return self.gradient(rows)
        self._uses[role] -= 1
        step = self._kept.pop(role, None) or self.gradient(rows)
        if self._uses[role]:
            self._kept[role] = step.copy()
        return step

    # --- other weights ----------------------------------------------------------------------------------------

    @contextmanager
    def away(self) -> Iterator[None]:
        """Within, the weights may be changed at will; after, they are what they were, bit for bit."""
        with excursion(self.params) as home:
            self._homes.append(home)
            try:
                yield
            finally:
                self._homes.pop()
        sharded.modules(self.model)  # nobody finds the other weights, whole, from a pass there

    def shift(self, direction: Vector, by: float) -> None:
        """w += by * direction, in place; only `away`."""
        if not self._homes:
            raise RuntimeError("the weights are shifted outside an excursion; they would not come back")
        direction.add_to([param.data for param in self.params], by)

    @contextmanager
    def moved(self, direction: Vector, by: float) -> Iterator[None]:
        """Within, the weights are `w + by * direction`; after, they are `w` bit for bit."""
        with self.away():
            self.shift(direction, by)
            yield

    @contextmanager
    def at_start(self) -> Iterator[None]:
        """Within, the weights are those at which this training began: the reference model."""
        self.remember_start()
        with self.at({name: self.tensors[START + name] for name in self.names}):
            yield

    @contextmanager
    def at(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """Within, the weights are these, by parameter name; after, they are what they were, bit for bit."""
        with self.away():
            with torch.no_grad():
                for name, param in zip(self.names, self.params, strict=True):
                    local(param.data).copy_(local(weights[name]))
            yield

    def remember_start(self) -> None:
        """Keep the weights as the start, unless there is one; those at home, wherever this is called."""
        home = self._homes[0] if self._homes else self.params
        for name, weights in zip(self.names, home, strict=True):
            if START + name not in self.tensors:
                self.tensors[START + name] = weights.detach().clone()

    @contextmanager
    def leaving_out(self, names: frozenset[str]) -> Iterator[None]:
        """Within, these parameters get no gradient (zeros); the optimiser will leave them as they are."""
        chosen = [param for name, param in zip(self.names, self.params, strict=True) if name in names]
        for param in chosen:
            param.requires_grad_(False)
        try:
            yield
        finally:
            for param in chosen:
                param.requires_grad_(True)
        self.untouched = names

    # --- activations ------------------------------------------------------------------------------------------

    def output_gradient(self, rows: Rows, modules: Sequence[nn.Module]) -> Step:
        """The mean loss, and its gradient in each module's output, for each micro-batch: [rows, time, width] each.

        The rows lie side by side, and each has outputs of its own. The gradient is this process's.
        """
        supervised, value, parts = self._supervised(rows), 0.0, list[Tensor]()
        for i, micro in enumerate(self._micro_batches(rows, in_rows=True)):
            outputs: dict[int, Tensor] = {}
            with self._forward(i), rewriting(modules, lambda k, out, found=outputs: found.setdefault(k, _leaf(out))):
                loss = token_losses(self.model, self._lay_out(micro, in_rows=True)).sum() / supervised
            if len(outputs) < len(modules):
                raise ValueError(f"{type(self.model).__name__} did not run all of its {len(modules)} blocks")
            parts.extend(torch.autograd.grad(loss, [outputs[k] for k in range(len(modules))]))
            value += loss.item()
        found = Step(self._summed(value), Vector(tuple(parts)))
        return self._finite(found, rows.ids, rows.share, norm=self.total_norm(found.gradient))

    @contextmanager
    def nudged(self, modules: Sequence[nn.Module], direction: Vector, by: float) -> Iterator[None]:
        """Within, `by * direction` is added to the modules' outputs; `direction` as `output_gradient` gives it."""

        def add(k: int, out: Tensor) -> Tensor:
            part = direction.parts[self._micro_batch * len(modules) + k]
            return out + (by * direction.scale) * part.to(out.dtype)

        with rewriting(modules, add):
            yield

    def features(self, rows: Rows, read: Reading, batches: int = 1) -> Tensor:
        """What `read` finds at all supervised positions of this process's rows, without a gradient: [n, ...].

        Args:
            rows: what the model reads.
            read: gives what it finds at the supervised positions of a layout, in their order.
            batches: how many batches the rows are, for the count of passes.
        """
        found = []
        with torch.no_grad():
            for i, micro in enumerate(self._micro_batches(rows)):
                with self._forward(i):
                    found.append(read(self.model, self._lay_out(micro)))
        self.passes += batches * FORWARD
        return torch.cat(found)

    def gradient_of_features(
        self, rows: Rows, read: Reading, objective: Callable[[Tensor], Tensor], batches: int = 1
    ) -> Step:
        """A loss of the whole batch's features that is no sum over rows, and its gradient.

        Over several micro-batches the features are computed first, then pulled back with the objective's gradient in
        them, so that the result does not depend on the micro-batch size. Every process computes the objective of all
        processes' features, and pulls its own back.

        Args:
            rows, read, batches: as for `features`.
            objective: of all rows' features, in the order of the processes and then of the rows (that of `gathered`);
                computed once, in full precision.

        Raises:
            ValueError: no token is supervised.
        """
        self._supervised(rows)
        micros = self._micro_batches(rows)
        with self._collecting() as collected:
            if len(micros) == 1:
                with self._forward(0):
                    features = read(self.model, self._lay_out(rows))
                value, pull = self._pulled(features.detach(), objective)
                self._backward(torch.sum(features * pull), last=True)
            else:
                value, pull = self._pulled(self.features(rows, read, batches), objective)
                start = 0
                for i, micro in enumerate(micros):
                    with self._forward(i):
                        part = read(self.model, self._lay_out(micro))
                    here = torch.sum(part * pull[start : start + len(part)])
                    self._backward(here, last=i == len(micros) - 1)
                    start += len(part)
                self.passes -= batches * FORWARD
            gradient = self._reduced(collected())
        return self._finite(Step(value, gradient), rows.ids, passes=batches)

    def _pulled(self, features: Tensor, objective: Callable[[Tensor], Tensor]) -> tuple[float, Tensor]:
        """The objective of all processes' features, and its gradient in this one's."""
        everyone = self.gathered(features).requires_grad_()
        value = objective(everyone)
        (pull,) = torch.autograd.grad(value, everyone)
        before = self.gathered(torch.tensor([len(features)], device=features.device))[: self._rank()]
        start = int(before.sum())
        return value.item(), pull[start : start + len(features)]

    # --- randomness and processes -----------------------------------------------------------------------------

    def generator(self, purpose: str) -> torch.Generator:
        """Random numbers that depend on seed, step and purpose only; the same in every process."""
        return torch.Generator().manual_seed(_number(f"{self.seed}/{self.step}/{purpose}"))

    def gathered(self, values: Tensor) -> Tensor:
        """All processes' values [n, ...], those of the first process first; n may differ from process to process."""
        if not _several():
            return values
        own = torch.tensor([len(values)], device=values.device)
        counts = [torch.zeros_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(counts, own)
        most = int(torch.cat(counts).max())
        padding = values.new_zeros(most - len(values), *values.shape[1:])
        found = [torch.empty_like(torch.cat([values, padding])) for _ in counts]
        dist.all_gather(found, torch.cat([values, padding]))
        return torch.cat([part[:n] for part, n in zip(found, torch.cat(counts).tolist(), strict=True)])

    def of_first_process(self, rows: Rows) -> Rows:
        """The same rows in the first process; in others, nothing in them is supervised."""
        return rows if self._rank() == 0 else rows.unsupervised()

    def total_norm(self, vector: Vector) -> float:
        """The L2 norm of a vector of which each process holds its own rows' part."""
        return self._summed(vector.norm() ** 2) ** 0.5

    @contextmanager
    def _forward(self, micro_batch: int) -> Iterator[None]:
        """h(w) and h(w') must differ by the weights alone: the mask is a function of seed, step, rank, micro-batch."""
        self._micro_batch = micro_batch
        torch.clear_autocast_cache()  # a caller's own autocast would reuse casts of other weights
        device = self.params[0].device
        devices = [] if device.type == "cpu" else [device]
        with torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"), self.autocast():
            torch.manual_seed(_number(f"{self.seed}/{self.step}/{self._rank()}/{micro_batch}"))
            yield

    def _rank(self) -> int:
        return dist.get_rank() if dist.is_initialized() else 0

    def _micro_batches(self, rows: Rows, in_rows: bool = False, in_order: bool = True) -> list[Rows]:
        """The micro-batches of a pass over these rows, laid out side by side or not, in their order or in any.

        Activations that are nudged row by row (`in_rows`) are kept by place: there the order is the rows'.

        Where parameters are sharded, each forward gathers them from all processes: there are as many in each process,
        the last of them without supervision where rows have run out.
        """
        if self._shards:
            reads_tries(self.model)  # a trial runs the model, which all must do at the same time
        if self.tokens_per_micro_batch is None:
            micros = rows.split(self.micro_batch_size)
        else:
            shared = not (in_rows or self.padded) and shares_prefixes(self.model, rows)
            budget = self.tokens_per_micro_batch
            micros = rows.packed(self.micro_batch_size, budget, shared, in_order=in_order or in_rows)
        if not self._shards:
            return micros
        sharded.modules(self.model)
        count = torch.tensor(len(micros), device=self.params[0].device)
        dist.all_reduce(count, dist.ReduceOp.MAX)
        return micros + [micros[-1].unsupervised()] * (int(count) - len(micros))

    def _backward(self, loss: Tensor, last: bool) -> None:
        """Backward; sharded gradients are reduced once, with the last of the micro-batches."""
        for module in self._shards:
            module.set_requires_gradient_sync(last, recurse=False)
        loss.backward()

    def _lay_out(self, rows: Rows, in_rows: bool = False) -> Layout:
        rows = rows.to(self.params[0].device)
        layout = padded(rows) if in_rows or self.padded else lay_out(self.model, rows)
        self.tokens += layout.tokens
        if self.lower is not None:
            self.lower.enter(rows, layout)
        return layout

    @contextmanager
    def _collecting(self) -> Iterator[Callable[[], Vector]]:
        """Within, gradients accumulate from nothing, and the call takes them; the parameters' own come back after."""
        aside = [param.grad for param in self.params]
        for param in self.params:
            param.grad = None
        try:
            yield lambda: Vector(
                tuple(torch.zeros_like(param) if param.grad is None else param.grad for param in self.params)
            )
        finally:
            for module in self._shards:
                module.set_requires_gradient_sync(True, recurse=False)
            for param, grad in zip(self.params, aside, strict=True):
                param.grad = grad

    def _supervised(self, rows: Rows) -> float:
        count = self._summed(float(rows.supervised().sum()))
        if count == 0:
            raise ValueError(f"no supervised token in rows {', '.join(rows.ids)}")
        return count

    def _finite(self, step: Step, suspects: Sequence[str], passes: float = 1, norm: float | None = None) -> Step:
        """The step, counted; the norm is of the sum, so every process raises or none does."""
        norm = step.gradient.norm() if norm is None else norm
        if not (torch.isfinite(torch.tensor(norm)) and torch.isfinite(torch.tensor(step.loss))):
            raise NonFiniteError(
                f"step {self.step}: loss {step.loss}, gradient norm {norm}, in rows {', '.join(suspects)}"
            )
        self.passes += passes
        return step

    def _reduced(self, gradient: Vector) -> Vector:
        """The sum over processes; of what is sharded, `fully_shard` has taken the mean."""
        if _several():
            for part in gradient.parts:
                if sharded.is_sharded([part]):
                    local(part).mul_(dist.get_world_size())
                else:
                    dist.all_reduce(part)
        return gradient

    def _summed(self, value: float) -> float:
        """A number's sum over processes."""
        if not _several():
            return value
        total = torch.tensor(value, dtype=torch.float64, device=self.params[0].device)
        dist.all_reduce(total)
        return total.item()


@contextmanager
def rewriting(modules: Sequence[nn.Module], rewrite: Callable[[int, Tensor], Tensor]) -> Iterator[None]:
    """Within, module k's output (or the first of its outputs) is `rewrite(k, output)`."""

    def hook(k: int) -> Callable:
        def rewritten(_module: nn.Module, _args: tuple, out: Tensor | tuple) -> Tensor | tuple:
            return rewrite(k, out) if isinstance(out, Tensor) else (rewrite(k, out[0]), *out[1:])

        return rewritten

    handles = [module.register_forward_hook(hook(k)) for k, module in enumerate(modules)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _several() -> bool:
    """Are there several processes?"""
    return dist.is_initialized() and dist.get_world_size() > 1


def _leaf(out: Tensor) -> Tensor:
    """The output itself, or a leaf in its place where no trainable weight comes before it."""
    return out if out.requires_grad else out.detach().requires_grad_()


def _no_second_derivative(model: nn.Module, culprit: str) -> ValueError:
    return ValueError(
        f"{type(model).__name__} has an operation without a second derivative ({culprit}); load it with "
        "attn_implementation='eager' and without activation checkpointing, or use the first-order method"
    )


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)
