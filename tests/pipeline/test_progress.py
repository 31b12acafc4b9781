"""What a person sees while several things are done at once."""

import io

from rich.console import Console

from boostershot.pipeline.progress import Reporter


def test_bars_of_several_things_stand_together_and_each_ends_by_itself():
    said = io.StringIO()
    reporter = Reporter(Console(file=said, force_terminal=True, width=100))
    first, second = reporter.bar("first", 2), reporter.bar("second", 3)
    one, two = first.__enter__(), second.__enter__()
    one(2)
    first.__exit__(None, None, None)
    two(3)
    assert reporter._bars is not None
    assert [task.completed for task in reporter._bars.tasks] == [3]
    second.__exit__(None, None, None)
    assert reporter._bars is None
    assert said.getvalue().index("first: 0 s") < said.getvalue().index("second: 0 s")


def test_without_a_terminal_there_are_lines_alone_and_quiet_is_quiet():
    said = io.StringIO()
    for quiet in (False, True):
        with Reporter(Console(file=said, width=100), quiet).bar("thing", 2) as advance:
            advance(2)
    assert said.getvalue() == "thing: 0 s\n"
