"""What a model's lower, untrained layers give for the rows of a training: computed once, kept on disk while it lasts.

A file holds the states of some rows; its sealed record, written last, says what they are of. One that is not as it was
written, or of another model or other rows, is computed again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from boostershot.checksums import checksum, difference, sealed, unsealed
from boostershot.core.losses import probe_rows
from boostershot.core.lower import Lower, Tokens, check_starts_at, states_below
from boostershot.data.format import TokenizedRow, collate
from boostershot.errors import InputError

_ROWS = 64  # of one file


def kept_below(
    model: nn.Module,
    depth: int,
    rows: Iterable[TokenizedRow],
    folder: Path,
    micro_batch_size: int | None,
    autocast: Callable[[], AbstractContextManager],
) -> Lower:
    """The `depth` lowest layers, with what they give for these rows in `folder`.

    Args:
        model: on its device, with what is trained.
        depth: how many layers.
        rows: all that the training may read.
        folder: of the files.
        micro_batch_size: rows in one forward pass; None takes a file's.
        autocast: the context of a forward pass.

    Raises:
        InputError: the model cannot be started there, or not exactly.
    """
    try:
        check_starts_at(model, depth)
    except ValueError as error:
        raise InputError(f"cached_layers {error}") from None
    with autocast():
        probe = states_below(model, depth, probe_rows(model))
    identity = hashlib.sha256(b"".join(state.float().cpu().numpy().tobytes() for state in probe)).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    distinct = list(dict.fromkeys(tuple(row.input_ids) for row in rows))
    places: dict[Tokens, tuple[Path, str]] = {}
    for start in range(0, len(distinct), _ROWS):
        some, path = distinct[start : start + _ROWS], folder / f"{start // _ROWS:05}.safetensors"
        of = {"model": identity, "layers": depth, "rows": hashlib.sha256(json.dumps(some).encode()).hexdigest()}
        if not _is_whole(path, of):
            with autocast():
                _write(path, of, _computed(model, depth, some, micro_batch_size or _ROWS))
        places.update({tokens: (path, str(i)) for i, tokens in enumerate(some)})
    opened = {path: safe_open(path, "pt") for path in {path for path, _ in places.values()}}  # mapped, not read

    def states(tokens: Tokens) -> Tensor:
        path, name = places[tokens]
        return opened[path].get_tensor(name)

    return Lower(model, depth, states)


def _computed(model: nn.Module, depth: int, tokens: Sequence[Tokens], micro_batch_size: int) -> list[Tensor]:
    """The states of each row, on the CPU; without dropout, of which there is none below."""
    device, found = next(model.parameters()).device, list[Tensor]()
    for start in range(0, len(tokens), micro_batch_size):
        some = [TokenizedRow("", (), row) for row in tokens[start : start + micro_batch_size]]
        found += [state.cpu() for state in states_below(model, depth, collate(some, pad_id=0).to(device))]
    return found


def _write(path: Path, of: Mapping[str, object], states: Sequence[Tensor]) -> None:
    record, partial = path.with_suffix(".json"), path.with_suffix(".partial")
    record.unlink(missing_ok=True)  # first: a stop in between leaves no record of another file
    save_file({str(i): state.contiguous() for i, state in enumerate(states)}, partial)
    os.replace(partial, path)
    files = {path.name: {"size": path.stat().st_size, "sha256": checksum(path)}}
    partial.write_text(json.dumps(sealed({"of": dict(of), "files": files})), encoding="utf-8")
    os.replace(partial, record)


def _is_whole(path: Path, of: Mapping[str, object]) -> bool:
    try:
        record = unsealed(json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return False
    return record["of"] == of and difference(path.parent, record["files"]) is None
