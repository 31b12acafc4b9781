"""Tokenised rows, and the layouts in which a model reads them.

A micro-batch is laid out as a *token trie*: one sequence in which every distinct prefix of its rows occurs once, so
that padding, the chat preamble and repeated prompts cost nothing. Models that cannot read it (a sliding window
shorter than the rows, an attention without arbitrary masks) get padded rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

IGNORED = -100  # the label of an unsupervised position, as in torch.nn.functional.cross_entropy


@dataclass(frozen=True)
class Rows:
    """Tokenised rows: three integer tensors of shape [rows, time], and a name for each row.

    `labels[r, t]` is the token to be predicted at position t - 1 of row r, or -100. Padding may be on either side.
    `share` is the part of a batch that these rows are, and their pass of a pass.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    ids: tuple[str, ...]
    share: float = 1.0

    @classmethod
    def of(cls, batch: Mapping[str, Tensor], ids: Sequence[str] | None = None) -> Rows:
        """Rows from a `dict(input_ids, attention_mask, labels)`.

        Raises:
            ValueError: a key is missing, a shape differs, or the batch is empty.
        """
        for key in ("input_ids", "attention_mask", "labels"):
            if key not in batch:
                raise ValueError(f"a batch has no {key!r}; expected input_ids, attention_mask and labels")
        input_ids, attention_mask, labels = (batch[k] for k in ("input_ids", "attention_mask", "labels"))
        if input_ids.dim() != 2 or input_ids.shape != attention_mask.shape or input_ids.shape != labels.shape:
            raise ValueError(
                "input_ids, attention_mask and labels must have one shape [rows, time]; got "
                f"{tuple(input_ids.shape)}, {tuple(attention_mask.shape)} and {tuple(labels.shape)}"
            )
        if input_ids.shape[0] == 0:
            raise ValueError("a batch has no rows")
        names = tuple(ids) if ids is not None else tuple(f"row {i}" for i in range(input_ids.shape[0]))
        return cls(input_ids, attention_mask.bool(), labels, names)

    def __len__(self) -> int:
        return self.input_ids.shape[0]

    def named(self, role: str) -> Rows:
        """The same rows, called "<role> row 0" and so on."""
        return replace(self, ids=tuple(f"{role} row {i}" for i in range(len(self))))

    def supervised(self) -> Tensor:
        """Boolean [rows, time]: is position t predicted from an attended position t - 1, with a label?"""
        mask = torch.zeros_like(self.attention_mask, dtype=torch.bool)
        mask[:, 1:] = (self.labels[:, 1:] != IGNORED) & self.attention_mask[:, 1:] & self.attention_mask[:, :-1]
        return mask

    def split(self, size: int | None) -> list[Rows]:
        """Micro-batches of at most `size` rows, in order; all rows in one when `size` is None."""
        size = size or len(self)
        return [self._slice(i, i + size) for i in range(0, len(self), size)]

    def packed(self, size: int | None, tokens: int, shared: bool, in_order: bool) -> list[Rows]:
        """Micro-batches of at most `size` rows that read at most `tokens` tokens each; a longer row has one to itself.

        Args:
            size: None for any number.
            tokens: at least 1.
            shared: is a prefix that several rows of a micro-batch have read once (a trie), or are rows padded?
            in_order: keep the rows' order; otherwise those with long common prefixes (or, padded, of like length) come
                together, and fewer tokens are read in all.
        """
        sequences = [ids[mask].tolist() for ids, mask in zip(self.input_ids, self.attention_mask, strict=True)]
        order = list(range(len(self)))
        if not in_order:
            order.sort(key=lambda r: sequences[r] if shared else len(sequences[r]))
        parts: list[list[int]] = []
        reading = _Reading(shared)
        for r in order:
            full = reading.rows == size or reading.with_row(sequences[r]) > tokens
            if not parts or full:
                parts.append([])
                reading = _Reading(shared)
            parts[-1].append(r)
            reading.add(sequences[r])
        return [self._take(part) for part in parts]

    def _take(self, rows: list[int]) -> Rows:
        ids = tuple(self.ids[r] for r in rows)
        return Rows(self.input_ids[rows], self.attention_mask[rows], self.labels[rows], ids)

    def _slice(self, start: int, end: int) -> Rows:
        return Rows(
            self.input_ids[start:end], self.attention_mask[start:end], self.labels[start:end], self.ids[start:end]
        )

    def cut(self, parts: int) -> list[Rows]:
        """`parts` batches in order, whose sizes differ by at most one row."""
        ends = [len(self) * i // parts for i in range(parts + 1)]
        return [self._slice(start, end) for start, end in pairwise(ends)]

    def first(self, share: float) -> Rows:
        """The first rows of this batch: so large a share of them, rounded up to whole rows."""
        end = math.ceil(round(share * len(self), 6))  # 0.07 of 100 rows is 7.000000000000001
        return replace(self._slice(0, end), share=end / len(self))

    def predicting(self, token: int) -> Rows:
        """The same rows, supervised at the same positions, where each is to predict `token`."""
        return replace(self, labels=torch.where(self.supervised(), token, IGNORED))

    def unsupervised(self) -> Rows:
        """The same rows, supervised nowhere."""
        return replace(self, labels=torch.full_like(self.labels, IGNORED))

    def beside(self, other: Rows) -> Rows:
        """These rows and then the other's, padded at the right to one width."""
        width = max(self.input_ids.shape[1], other.input_ids.shape[1])

        def joined(name: str, filler: int) -> Tensor:
            parts = [getattr(rows, name) for rows in (self, other)]
            return torch.cat([nn.functional.pad(part, (0, width - part.shape[1]), value=filler) for part in parts])

        ids, mask, labels = joined("input_ids", 0), joined("attention_mask", False), joined("labels", IGNORED)
        return Rows(ids, mask, labels, (*self.ids, *other.ids))

    def prompts(self) -> list[list[int] | None]:
        """Each row's tokens before the first supervised one; None for a row without one."""
        found: list[list[int] | None] = []
        for tokens, attended, supervised in zip(self.input_ids, self.attention_mask, self.supervised(), strict=True):
            start = int(supervised.int().argmax())
            found.append(tokens[:start][attended[:start]].tolist() if supervised.any() else None)
        return found

    def longest(self) -> int:
        """The number of tokens of the longest row."""
        return int(self.attention_mask.sum(1).max())

    def to(self, device: torch.device) -> Rows:
        """The same rows on `device`."""
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            attention_mask=self.attention_mask.to(device),
            labels=self.labels.to(device),
        )


class _Reading:
    """How many tokens a model reads of the rows that were added."""

    def __init__(self, shared: bool):
        self.shared, self.rows, self.longest = shared, 0, 0
        self.nodes: dict[tuple[int, int], int] = {}  # (parent, token) -> node, as in a trie

    def with_row(self, tokens: Sequence[int]) -> int:
        """Their number with this row, too."""
        if not self.shared:
            return (self.rows + 1) * max(self.longest, len(tokens))
        node = -1
        for depth, token in enumerate(tokens):
            if (node, token) not in self.nodes:
                return len(self.nodes) + len(tokens) - depth
            node = self.nodes[node, token]
        return len(self.nodes)

    def add(self, tokens: Sequence[int]) -> None:
        """A row."""
        self.rows, self.longest, node = self.rows + 1, max(self.longest, len(tokens)), -1
        for token in tokens:
            node = self.nodes.setdefault((node, token), len(self.nodes))


@dataclass(frozen=True)
class Layout:
    """What the model reads, and where its predictions are supervised.

    `inputs` are the keyword arguments of the model's forward; `positions` [n] index the flattened hidden states that
    predict `targets` [n]; `rows` [n] says to which row each prediction belongs. `places` [tokens] says where each
    token that the model reads stands in the flattened rows: one of a shared prefix, in the first row that has it.
    """

    inputs: dict[str, Tensor]
    positions: Tensor
    targets: Tensor
    rows: Tensor
    places: Tensor
    tokens: int


def padded(rows: Rows) -> Layout:
    """The rows side by side, padding masked, position ids counted from each row's first token."""
    row, time = torch.nonzero(rows.supervised(), as_tuple=True)
    position_ids = (rows.attention_mask.long().cumsum(1) - 1).clamp_min(0)
    inputs = {
        "input_ids": rows.input_ids,
        "attention_mask": rows.attention_mask.long(),
        "position_ids": position_ids,
    }
    positions = row * rows.input_ids.shape[1] + time - 1
    places = torch.arange(rows.input_ids.numel(), device=rows.input_ids.device)
    return Layout(inputs, positions, rows.labels[row, time], row, places, rows.input_ids.numel())


def trie(rows: Rows, dtype: torch.dtype) -> Layout:
    """The rows as one sequence of their distinct prefixes: a node attends to its ancestors only.

    The mask is additive and of the model's dtype: a boolean 4-D mask is silently wrong under eager attention.
    """
    device = rows.input_ids.device
    nodes: dict[tuple[int, int], int] = {}  # (parent, token) -> node; the root's parent is -1
    parents: list[int] = []
    tokens: list[int] = []
    depths: list[int] = []
    positions: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    places: list[int] = []
    supervised = rows.supervised().tolist()
    labels, attended = rows.labels.tolist(), rows.attention_mask.tolist()
    for r, row in enumerate(rows.input_ids.tolist()):
        node, depth = -1, 0
        for t, token in enumerate(row):
            if not attended[r][t]:
                continue
            if supervised[r][t]:
                positions.append(node)
                targets.append(labels[r][t])
                owners.append(r)
            key = (node, token)
            if key not in nodes:
                nodes[key] = len(parents)
                parents.append(node)
                tokens.append(token)
                depths.append(depth)
                places.append(r * len(row) + t)
            node, depth = nodes[key], depth + 1

    ancestors = torch.zeros(len(parents), len(parents), dtype=torch.bool)
    for node, parent in enumerate(parents):  # a parent precedes its children
        if parent >= 0:
            ancestors[node] = ancestors[parent]
        ancestors[node, node] = True
    mask = torch.zeros(ancestors.shape, dtype=dtype).masked_fill_(~ancestors, torch.finfo(dtype).min)
    inputs = {
        "input_ids": torch.tensor([tokens], device=device),
        "position_ids": torch.tensor([depths], device=device),
        "attention_mask": mask[None, None].to(device),
    }
    return Layout(
        inputs,
        torch.tensor(positions, dtype=torch.long, device=device),
        torch.tensor(targets, dtype=torch.long, device=device),
        torch.tensor(owners, dtype=torch.long, device=device),
        torch.tensor(places, dtype=torch.long, device=device),
        len(tokens),
    )
