"""Text from a file, made safe to show: what would steer a terminal is written out."""

from __future__ import annotations

import unicodedata

from rich.cells import cell_len, set_cell_size

SPELT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
UNSEEN = ("C", "Zl", "Zp")  # control and format characters (escape sequences, direction marks), line separators


def visible(text: str) -> str:
    """The text on one line, control characters as `\\n`, `\\x1b` or `\\u202e`."""
    return "".join(_spelt(c) if unicodedata.category(c).startswith(UNSEEN) else c for c in text)


def cut(text: str, width: int) -> str:
    """The text, if it has no more than `width` columns of a terminal, else its start and an ellipsis."""
    return text if cell_len(text) <= width else set_cell_size(text, max(0, width - 1)).rstrip() + "…"


def _spelt(c: str) -> str:
    code = ord(c)
    return SPELT.get(c) or (
        f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    )
