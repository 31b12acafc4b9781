"""What a model takes in memory, from its config.json alone: weights by count, activations by dry steps.

A dry step is a real forward and backward pass on tensors without contents (FakeTensorMode), whose bytes are counted
while they live. It is taken with one layer and with two; the difference is what each further layer adds.
"""

from __future__ import annotations

import copy
import json
import weakref
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, PretrainedConfig

from boostershot.core.batch import Layout
from boostershot.core.blocks import decoder_layers
from boostershot.core.losses import losses_at_once, losses_in_pieces, piece
from boostershot.errors import InputError
from boostershot.models import config_of
from boostershot.training.arguments import attach_lora

Precision = Literal["float32", "bfloat16"]
BYTES: dict[Precision, int] = {"float32": 4, "bfloat16": 2}
TRAINED = 4  # bytes of a trainable weight: half precision is refused


def read_config(model_id: str) -> PretrainedConfig:
    """The configuration of a model by Hub id, folder (its config.json is enough) or `smollm2-135m-instruct`.

    Raises:
        InputError: there is none, or it says nothing of layers.
    """
    try:
        config = config_of(model_id)
    except InputError as error:
        raise InputError(f"{error} (a folder with that file alone is enough: --set model.id=FOLDER)") from error
    if not isinstance(getattr(config.get_text_config(), "num_hidden_layers", None), int):
        raise InputError(f"model {model_id!r}: its config.json names no num_hidden_layers")
    return config


@dataclass(frozen=True)
class Weights:
    """How many weights a model has.

    Args:
        frozen, trainable: that training leaves and changes.
        products: in matrices that each token is multiplied with.
        block: of the largest layer.
        root: outside the layers: embeddings, the last norm, the projection to the vocabulary.
    """

    frozen: int
    trainable: int
    products: int
    block: int
    root: int

    @property
    def all(self) -> int:
        """All of them."""
        return self.frozen + self.trainable


class Footprint:
    """A model and what of it is trained.

    Args:
        config: of the model.
        lora: of the adapter that is trained; None trains all weights.
    """

    def __init__(self, config: PretrainedConfig, lora: Mapping[str, Any] | None) -> None:
        self.config = config
        self.text = config.get_text_config()
        self.layers: int = self.text.num_hidden_layers
        self.lora = None if lora is None else dict(lora)
        self._key = (json.dumps(config.to_dict(), sort_keys=True, default=str), json.dumps(self.lora, sort_keys=True))

    @property
    def width(self) -> int:
        """Of the hidden states."""
        return self.text.hidden_size

    @property
    def vocabulary(self) -> int:
        """The number of tokens."""
        return self.text.vocab_size

    @property
    def attention_width(self) -> int:
        """Numbers in the queries of a token, in one layer."""
        heads = self.text.num_attention_heads
        return heads * (getattr(self.text, "head_dim", None) or self.width // heads)

    @property
    def cached_numbers(self) -> int:
        """Numbers in the keys and values of a token, in all layers."""
        heads = self.text.num_attention_heads
        kept = getattr(self.text, "num_key_value_heads", None) or heads
        return 2 * self.layers * kept * self.attention_width // heads

    def weights(self) -> Weights:
        """How many there are."""
        return _counted_weights(self)

    def step(self, rows: int, length: int, checkpointing: bool, precision: Precision) -> tuple[float, float, float]:
        """Bytes of a forward-backward pass at its peak: what all layers keep, what one does, and the rest of it.

        The rest is the projection to the vocabulary, the embeddings and the mask. Gradients are not in it.

        Args:
            rows: in a micro-batch; they share no prefix, which is the worst case.
            length: of each, in tokens, all supervised but the first.
            checkpointing: each layer keeps its input and computes the rest again.
            precision: of frozen weights and, by autocast, of the arithmetic.
        """
        one, two = (_dry_peak(self, n, rows, length, checkpointing, precision) for n in (1, 2))
        layer = max(two - one, 0.0)
        return self.layers * layer, layer, max(one - layer, 0.0)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Footprint) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def skeleton(self, layers: int | None = None) -> nn.Module:
        """The model on the meta device, trainable as it is in training.

        Raises:
            InputError: transformers knows no such causal language model, or the adapter does not fit it.
        """
        config = copy.deepcopy(self.config)
        text = config.get_text_config()
        if layers is not None:
            text.num_hidden_layers = layers
            if getattr(text, "layer_types", None):
                text.layer_types = text.layer_types[:layers]
        try:
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
                whole = {} if layers is None else {"first_layer": 0}  # a dry step's few layers are all trained
                return model if self.lora is None else attach_lora(model, {**self.lora, **whole})
        except (ValueError, KeyError) as error:
            raise InputError(f"a plan of {config.model_type}: {str(error).strip().splitlines()[0]}") from error


@lru_cache(maxsize=64)
def _counted_weights(footprint: Footprint) -> Weights:
    model = footprint.skeleton()
    trainable = sum(param.numel() for param in model.parameters() if param.requires_grad)
    total = sum(param.numel() for param in model.parameters())
    blocks = [sum(param.numel() for param in layer.parameters()) for layer in decoder_layers(model)]
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    products = sum(param.numel() for param in model.parameters() if param.dim() >= 2 and id(param) not in tables)
    head = model.get_output_embeddings()  # type: ignore[operator]
    if head is not None and id(head.weight) in tables:  # tied: read as a table and multiplied with, too
        products += head.weight.numel()
    return Weights(total - trainable, trainable, products, max(blocks), total - sum(blocks))


@lru_cache(maxsize=256)
def _dry_peak(
    footprint: Footprint, layers: int, rows: int, length: int, checkpointing: bool, precision: Precision
) -> float:
    model, mode = footprint.skeleton(layers), FakeTensorMode(allow_non_fake_inputs=True)
    half = precision == "bfloat16"
    with mode:
        emptied(model, torch.bfloat16 if half else torch.float32)
        model.train()
        if checkpointing:
            options = {"use_reentrant": False, "preserve_rng_state": False}  # there are no numbers to draw
            model.gradient_checkpointing_enable(options)  # type: ignore[operator]
        tokens, supervised = rows * length, rows * (length - 1)
        with LiveBytes() as spy:
            layout = _trie_of_strangers(tokens, supervised)
            with torch.autocast("cpu", torch.bfloat16) if half else nullcontext():
                # A trial whether a model may be projected in pieces needs numbers; nearly all may.
                losses = losses_in_pieces if supervised > piece(model) else losses_at_once
                loss = losses(model, layout).sum()
            loss.backward()
    return float(spy.peak_without_survivors())


def emptied(model: nn.Module, frozen: torch.dtype) -> None:
    """Give every parameter a tensor without contents; trainable ones in float32, frozen ones in this precision."""
    made: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}  # id -> the parameter, kept so that its id is not reused
    for module in model.modules():
        for name, param in module._parameters.items():
            if param is None:
                continue
            if id(param) not in made:
                dtype = torch.float32 if param.requires_grad else frozen
                made[id(param)] = (param, nn.Parameter(torch.empty(param.shape, dtype=dtype), param.requires_grad))
            module._parameters[name] = made[id(param)][1]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def _trie_of_strangers(tokens: int, supervised: int) -> Layout:
    """The layout of rows that share no prefix, as `core.batch.trie` would make it."""
    row = torch.zeros(1, tokens, dtype=torch.long)
    inputs = {
        "input_ids": row,
        "position_ids": torch.zeros_like(row),
        "attention_mask": torch.zeros(1, 1, tokens, tokens),
    }
    several = torch.zeros(supervised, dtype=torch.long)
    zeros = torch.zeros_like(several)
    return Layout(inputs, several, zeros, zeros, zeros, tokens)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages that are made within, while they live."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[int, weakref.ref[Any]] = {}
        self._events: list[tuple[int, int]] = []  # (number of a storage, bytes that come or go)
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {storage._cdata for storage in _storages((args, kwargs))}
        out = func(*args, **(kwargs or {}))
        for storage in _storages(out):
            if storage._cdata not in self._known and storage._cdata not in given:
                self._watch(storage)
        return out

    def _watch(self, storage: torch.UntypedStorage) -> None:
        key, size, number = storage._cdata, storage.nbytes(), len(self._events)
        self._events.append((number, size))
        self._alive[number] = size

        def gone(_: object) -> None:
            self._events.append((number, -size))
            del self._known[key], self._alive[number]

        self._known[key] = weakref.ref(storage, gone)

    def peak(self) -> int:
        """The most at any time."""
        return self._most(frozenset())

    def peak_without_survivors(self) -> int:
        """The most at any time of what is gone by now: after a backward pass, all but the gradients."""
        return self._most(frozenset(self._alive))

    def _most(self, left_out: frozenset[int]) -> int:
        live = most = 0
        for number, size in self._events:
            if number not in left_out:
                live += size
                most = max(most, live)
        return most


def _storages(tree: Any) -> Iterator[torch.UntypedStorage]:
    return (leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor))
