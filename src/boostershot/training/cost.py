"""What training costs: seconds and peak memory, measured by the trainer's own events."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import fmean

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

CLEAR_REFS = Path("/proc/self/clear_refs")  # writing 5 resets the peak that /proc/self/status reports
STATUS = Path("/proc/self/status")


class Cost(TrainerCallback):
    """Mean seconds of a step and the peak memory, over all trainings that it is a callback of.

    A mean, for some methods do their dearest work in few of the steps, the first among them. What was done before a
    resume is not in it. Memory is the peak allocated on the GPU, or the peak resident size of the process on Linux,
    else None.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.peak_memory_bytes: int | None = None
        self._started = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Forget the peak of what came before."""
        reset_peak_memory()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Stop it."""
        self.seconds.append(time.perf_counter() - self._started)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Read the peak."""
        peak = peak_memory()
        if peak is not None:
            self.peak_memory_bytes = max(peak, self.peak_memory_bytes or 0)

    @property
    def seconds_per_step(self) -> float | None:
        """The mean step, or None if no step ran."""
        return fmean(self.seconds) if self.seconds else None


def reset_peak_memory() -> None:
    """Start a new peak."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif CLEAR_REFS.exists():
        try:
            CLEAR_REFS.write_text("5")
        except OSError:  # not ours to reset: the peak then covers the whole process
            return


def peak_memory() -> int | None:
    """Bytes at the peak since the last reset."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if not STATUS.exists():
        return None
    lines = [line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:")]
    return int(lines[0].split()[1]) * 1024 if lines else None
