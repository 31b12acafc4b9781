"""YAML files that come with the program, a folder a kind; the first line of each is a comment that describes it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True)
class Shipped:
    """The files in a package of ours."""

    package: str

    def names(self) -> list[str]:
        """Without their ending, sorted."""
        found = (entry.name for entry in files(self.package).iterdir())
        return sorted(name.removesuffix(".yaml") for name in found if name.endswith(".yaml"))

    def text(self, name: str) -> str:
        """The YAML text; KeyError if there is none of that name."""
        if name not in self.names():
            raise KeyError(name)
        return files(self.package).joinpath(f"{name}.yaml").read_text(encoding="utf-8")

    def description(self, name: str) -> str:
        """What it is for, in its first line."""
        return self.text(name).splitlines()[0].removeprefix("#").strip()
