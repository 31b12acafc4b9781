"""Benign tasks: what an honest user fine-tunes for, with each task's own rule of what is right."""

from boostershot.data.tasks.load import KINDS, load_task
from boostershot.data.tasks.own import OwnTask
from boostershot.data.tasks.task import VARIANTS, Task, TaskRow

__all__ = ["KINDS", "VARIANTS", "OwnTask", "Task", "TaskRow", "load_task"]
