"""The recipes that come with the program: YAML files whose first line is a comment that describes them."""

from __future__ import annotations

from importlib.resources import files


def names() -> list[str]:
    """The names that `boostershot run` knows, sorted."""
    found = (entry.name for entry in files(__name__).iterdir())
    return sorted(name.removesuffix(".yaml") for name in found if name.endswith(".yaml"))


def text(name: str) -> str:
    """The YAML text of a shipped recipe; KeyError if there is none of that name."""
    if name not in names():
        raise KeyError(name)
    return files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8")


def description(name: str) -> str:
    """What the recipe is for, in its first line."""
    return text(name).splitlines()[0].removeprefix("#").strip()
