"""The report: reads a run's result files, trains nothing and imports no torch."""

from boostershot.report.html import write_report
from boostershot.report.reading import recipe_hash
from boostershot.report.scorecard import write_scorecard
from boostershot.report.sweep import sweep_table
from boostershot.report.terminal import results_table

__all__ = ["recipe_hash", "results_table", "sweep_table", "write_report", "write_scorecard"]
