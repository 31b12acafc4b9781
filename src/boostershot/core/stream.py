"""Which matrices read a transformer's residual stream, which write to it, and the norms between; found in one pass.

A few tokens go through the model, and hooks see which module was given what another one gave. Whether a module is a
matrix or a norm, and what it does to a direction, is tried on numbers. No class is looked up by its name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import torch
from torch import Tensor, nn

from boostershot.core.blocks import attention_blocks, decoder_layers, mlp_blocks
from boostershot.core.losses import probe_rows
from boostershot.core.temporarily import keeping_modes


@dataclass(frozen=True)
class Norm:
    """A module `x -> (offset + weight) * x / length(x) + bias`, of x less its mean where it `centres`."""

    module: nn.Module
    offset: float
    centres: bool

    def gain(self) -> Tensor | None:
        """What each coordinate is multiplied by; None for a norm without weights."""
        weight = getattr(self.module, "weight", None)
        return None if weight is None else weight.detach() + self.offset

    def passed_on(self, direction: Tensor) -> Tensor:
        """What becomes of a direction of its input, up to length."""
        direction = self._centred(direction)
        gain = self.gain()
        return direction if gain is None else gain * direction

    def seen_through(self, direction: Tensor) -> Tensor:
        """The direction of its input whose coordinate is that of its output along `direction`, up to length."""
        gain = self.gain()
        return self._centred(direction if gain is None else gain * direction)

    def _centred(self, direction: Tensor) -> Tensor:
        return direction - direction.mean() if self.centres else direction


@dataclass(frozen=True)
class Matrix:
    """A linear map `x -> W x + b`; `weight` is [out, in] however its module keeps it, a view to be changed in place.

    `norm` is the one between it and the residual stream: before a matrix that reads, after one that writes.
    """

    name: str
    weight: Tensor
    bias: Tensor | None
    norm: Norm | None

    @torch.no_grad()
    def read_no_more(self, direction: Tensor) -> None:
        """W -= W u u', u the unit direction as the norm passes it on: what it gives no longer depends on that.

        The smallest change of W that does it.
        """
        u = self._unit(direction if self.norm is None else self.norm.passed_on(direction))
        self.weight.sub_(torch.outer(self.weight @ u, u))

    @torch.no_grad()
    def write_no_more(self, direction: Tensor) -> None:
        """W -= u u' W and so b, u the unit direction as seen through the norm: the stream gets nothing along it."""
        u = self._unit(direction if self.norm is None else self.norm.seen_through(direction))
        self.weight.sub_(torch.outer(u, u @ self.weight))
        if self.bias is not None:
            self.bias.sub_(u * (u @ self.bias))
        bias = None if self.norm is None else getattr(self.norm.module, "bias", None)
        if bias is not None:
            unit = self._unit(direction)
            bias.sub_(unit * (unit @ bias))

    def _unit(self, direction: Tensor) -> Tensor:
        return (direction / direction.norm()).to(self.weight)


@dataclass(frozen=True)
class Stream:
    """The matrices that read the residual stream, and those that write to it."""

    reading: tuple[Matrix, ...]
    writing: tuple[Matrix, ...]


def residual_stream(model: nn.Module) -> Stream:
    """What reads a model's residual stream and what writes to it.

    `reading` are the matrices of each attention and feed-forward block that are given the block's own input; `writing`
    the last matrix that each block runs, and the embeddings.

    Raises:
        ValueError: a block has no such matrix, or the decoder has no recognisable layers and blocks.
    """
    blocks = {*attention_blocks(model), *mlp_blocks(model)}
    within = {module for layer in decoder_layers(model) for module in layer.modules()}
    calls = _watched(model, blocks)
    width = next(call.width for call in calls if call.module in blocks)
    norms, matrices = _norms(calls), _matrices(calls, model)

    def norm_before(seen: _Seen) -> Norm | None:
        return next((norms[call.module] for call in calls if call.module in norms and call.gave == seen), None)

    def norm_after(seen: _Seen, of: Collection[nn.Module]) -> Norm | None:
        return next((norms[call.module] for call in calls if call.module in of and call.given[0] == seen), None)

    reading, writing = list[Matrix](), list[Matrix]()
    for block in (call for call in calls if call.module in blocks):
        inside = set(block.module.modules())
        run = [call for call in calls if call.module in inside and call.module in matrices]
        source = next((seen for seen in block.given if seen.tensor.is_floating_point() and seen.width == width), None)
        readers = [call for call in run if call.given[0] == source]
        if not readers or run[-1].width != width:
            lacks = "writes" if readers else "reads"
            name = next(name for name, module in model.named_modules() if module is block.module)
            raise ValueError(
                f"{name} of {type(model).__name__} has no matrix that {lacks} the residual stream; "
                "expected a block of linear maps"
            )
        reading += [replace(matrices[call.module], norm=norm_before(call.given[0])) for call in readers]
        writing.append(replace(matrices[run[-1].module], norm=norm_after(run[-1].gave, norms)))
    # The first layer's own norm takes the embeddings too, but beside the stream and not between.
    writing += [
        replace(_table(call, model), norm=norm_after(call.gave, norms.keys() - within))
        for call in calls
        if _is_table(call) and call.width == width
    ]
    return Stream(tuple(reading), tuple(writing))


def norms_and_readers(model: nn.Module) -> list[tuple[Norm, tuple[Matrix, ...]]]:
    """Every norm with the matrices that are given what it gives; an adapter's first matrix is one of them."""
    calls = _watched(model)
    norms, matrices = _norms(calls), _matrices(calls, model)
    return [
        (norms[one.module], tuple(matrices[c.module] for c in calls if c.module in matrices and c.given[0] == one.gave))
        for one in calls
        if one.module in norms
    ]


@dataclass(frozen=True)
class _Seen:
    """A tensor as it was when it was seen: a storage, and how often it had been written to."""

    tensor: Tensor = field(compare=False)  # kept, so that its storage is not used again
    storage: int
    version: int

    @classmethod
    def of(cls, tensor: Tensor) -> _Seen:
        return cls(tensor, tensor.untyped_storage().data_ptr(), tensor._version)

    @property
    def width(self) -> int:
        """The length of its last dimension."""
        return self.tensor.shape[-1] if self.tensor.dim() else 0


@dataclass(frozen=True)
class _Call:
    """One run of a module: the tensors that it was given, and the (first) one that it gave."""

    module: nn.Module
    given: tuple[_Seen, ...]
    gave: _Seen

    @property
    def width(self) -> int:
        """Of what it gave."""
        return self.gave.width


@torch.no_grad()
def _watched(model: nn.Module, blocks: Iterable[nn.Module] = ()) -> list[_Call]:
    """The runs of these blocks and of all modules without parts, over a few tokens, in the order in which they end."""
    modules = [*(module for module in model.modules() if not list(module.children())), *blocks]
    calls: list[_Call] = []
    given: dict[nn.Module, tuple[_Seen, ...]] = {}

    def starts(module: nn.Module, args: tuple, kwargs: dict) -> None:
        given[module] = tuple(_Seen.of(value) for value in (*args, *kwargs.values()) if isinstance(value, Tensor))

    def ends(module: nn.Module, _args: tuple, out: object) -> None:
        first = out[0] if isinstance(out, tuple) and out else out
        if given[module] and isinstance(first, Tensor):
            calls.append(_Call(module, given[module], _Seen.of(first)))

    handles = [
        handle
        for module in modules
        for handle in (module.register_forward_pre_hook(starts, with_kwargs=True), module.register_forward_hook(ends))
    ]
    try:
        with keeping_modes(model):
            model.eval()
            model(input_ids=probe_rows(model).input_ids[:1], use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _norms(calls: Sequence[_Call]) -> Mapping[nn.Module, Norm]:
    return {call.module: norm for call in calls if (norm := _norm(call)) is not None}


def _matrices(calls: Sequence[_Call], model: nn.Module) -> Mapping[nn.Module, Matrix]:
    names = {module: name for name, module in model.named_modules()}
    return {call.module: matrix for call in calls if (matrix := _matrix(call, names[call.module])) is not None}


def _table(call: _Call, model: nn.Module) -> Matrix:
    name = next(name for name, module in model.named_modules() if module is call.module)
    return Matrix(name, call.module.get_parameter("weight").detach().T, None, None)


@torch.no_grad()
def _norm(call: _Call) -> Norm | None:
    """The module as a norm, if it treats a random vector as one does."""
    own = dict(call.module.named_parameters(recurse=False))
    x = _trial(call)
    if list(call.module.children()) or not own.keys() <= {"weight", "bias"} or x is None:
        return None
    weight, bias = own.get("weight", torch.ones_like(x)), own.get("bias", torch.zeros_like(x))
    if weight.shape != x.shape or bias.shape != x.shape or call.width != len(x):
        return None
    x = 100 * (x + 1)  # far above any epsilon, and not centred
    actual = _tried(call.module, x)
    for offset, centres in product((0.0, 1.0), (False, True)):
        centred = x - x.mean() if centres else x
        if alike(actual, (weight + offset) * centred / centred.square().mean().sqrt() + bias):
            return Norm(call.module, offset, centres)
    return None


@torch.no_grad()
def _matrix(call: _Call, name: str) -> Matrix | None:
    """The module as a linear map, if it treats a random vector as one does."""
    own = dict(call.module.named_parameters(recurse=False))
    x = _trial(call)
    if list(call.module.children()) or not {"weight"} <= own.keys() <= {"weight", "bias"} or x is None:
        return None
    weight, bias = own["weight"].detach(), own["bias"].detach() if "bias" in own else None
    if weight.dim() != 2:
        return None
    actual = _tried(call.module, x)
    for view in (weight, weight.T):
        if view.shape == (call.width, len(x)) and alike(actual, view @ x + (0 if bias is None else bias)):
            return Matrix(name, view, bias, None)
    return None


def _trial(call: _Call) -> Tensor | None:
    """A random vector of the kind that the module was given; None where that was no vectors."""
    given = call.given[0].tensor
    if not given.is_floating_point() or given.dim() == 0:
        return None
    drawn = torch.randn(given.shape[-1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return drawn.to(given)


def _tried(module: nn.Module, x: Tensor) -> Tensor | None:
    """What the module makes of one vector, if that is one tensor."""
    out = module(x[None, None])
    return out[0, 0] if isinstance(out, Tensor) else None


def alike(actual: Tensor | None, expected: Tensor) -> bool:
    """Are they one but for rounding? Many norms compute in float32 at any dtype."""
    if actual is None or actual.shape != expected.shape:
        return False
    epsilon = max(torch.finfo(actual.dtype).eps, torch.finfo(torch.float32).eps)
    return bool((actual - expected).norm() <= epsilon**0.5 * expected.norm())


def _is_table(call: _Call) -> bool:
    """Is the module an embedding: whole numbers in, rows of its one matrix out?"""
    weight = getattr(call.module, "weight", None)
    given = call.given[0].tensor
    return (
        isinstance(weight, Tensor)
        and weight.dim() == 2
        and not given.is_floating_point()
        and call.width == weight.shape[1]
    )
