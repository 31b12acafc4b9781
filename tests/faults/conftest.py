"""A user's folder, a run of it that nothing disturbed, and the counts of the trials."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import forked

COUNTS: list[str] = []


@dataclass(frozen=True)
class Undisturbed:
    """A run to which nothing happened."""

    recipe: Path
    out: Path
    outcome: dict[str, Any]
    events: int
    """File events of the run, as `forked.counting` counts them."""

    def copied(self, out: Path) -> Path:
        """Its folder again, elsewhere."""
        return Path(shutil.copytree(self.out, out))


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("user")
    recipe = forked.user_folder(folder)
    code, said = forked.finished(recipe, folder / "whole", forked.counting(folder / "events"))
    assert code == 0, said
    return Undisturbed(recipe, folder / "whole", forked.outcome(folder / "whole"), int((folder / "events").read_text()))


@pytest.fixture
def count() -> Callable[[str], None]:
    """Tell the result of trials; all are told together at the end."""
    return COUNTS.append


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if COUNTS:
        terminalreporter.section("fault trials")
        for line in COUNTS:
            terminalreporter.line(line)
