"""What a person sees of a run: a line for each thing done, a bar with rate and time left while it lasts."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

Advance = Callable[[int], None]


class RateColumn(ProgressColumn):
    """Units a second."""

    def render(self, task: Task) -> Text:
        """Such as 1.3/s."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each")


class Reporter:
    """Tells a run's progress on the standard error; bars only on a terminal, several at once if need be."""

    def __init__(self, console: Console | None = None, quiet: bool = False):
        self.console = console or Console(stderr=True)
        self.quiet = quiet
        self._bars: Progress | None = None

    def line(self, text: str) -> None:
        """One line, not interpreted as markup."""
        if not self.quiet:
            self.console.print(text, markup=False, highlight=False)

    @contextmanager
    def bar(self, what: str, total: int) -> Iterator[Advance]:
        """A bar while the body runs, and a line with the time that it took."""
        started = time.monotonic()
        with self.moving(what, total) as advance:
            yield advance
        self.line(f"{what}: {duration(time.monotonic() - started)}")

    @contextmanager
    def moving(self, what: str, total: int) -> Iterator[Advance]:
        """A bar while the body runs."""
        if self.quiet or not self.console.is_terminal:
            yield lambda n: None
            return
        if self._bars is None:
            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                RateColumn(),
                TimeRemainingColumn(compact=True),
                console=self.console,
                transient=True,
                expand=True,
            )
            self._bars.start()
        bars, task = self._bars, self._bars.add_task(what, total=total)
        try:
            yield lambda n: bars.advance(task, n)
        finally:
            bars.remove_task(task)
            if not bars.tasks:
                bars.stop()
                self._bars = None


class StepsBar(TrainerCallback):
    """Advances a bar with each optimiser step."""

    def __init__(self, advance: Advance):
        self.advance = advance

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Steps of an earlier run count as done."""
        self.advance(state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """One more."""
        self.advance(1)


def duration(seconds: float) -> str:
    """Such as 42 s, 3 min 05 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def quiet_libraries() -> None:
    """One progress bar at a time: ours. Warnings about libraries' own deprecations tell a user nothing."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
