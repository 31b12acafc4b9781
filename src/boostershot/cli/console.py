"""Where text for people goes."""

from __future__ import annotations

import os
import sys

from rich.console import Console


def console(quiet: bool = False, stderr: bool = True) -> Console:
    """For people; plain text where it is no terminal or NO_COLOR is set. Brackets are no markup."""
    wrap = not (sys.stderr if stderr else sys.stdout).isatty()  # a file's reader breaks lines himself
    return Console(
        stderr=stderr,
        quiet=quiet,
        color_system=None if os.environ.get("NO_COLOR") else "auto",
        markup=False,
        emoji=False,
        highlight=False,
        soft_wrap=wrap,
    )
