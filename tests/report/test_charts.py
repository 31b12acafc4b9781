"""Charts: what a label may not do to another."""

from itertools import pairwise

import pytest

from boostershot.report.charts import STEPS, Series, panel


def laid_out(ends):
    series = [Series(f"d{n}", n, [(0, 1.0, None), (10, end, None)]) for n, end in enumerate(ends)]
    return panel("", "", "", series, top=100, digits=1, base=None).lines


@pytest.mark.parametrize(
    "ends", [(90.0, 91.2, 90.4, 100.0, 99.9, 86.2), (0.0, 1.0, 0.0, 2.5), (50.0, 50.0, 52.0, 10.0)]
)
def test_labels_stand_apart_in_the_order_of_their_values(ends):
    """14 pixels is a line of their text; the picture's top edge, at 0, cuts none of them."""
    lines = sorted(laid_out(ends), key=lambda line: line.end_y)
    assert [float(line.end) for line in lines] == sorted(ends, reverse=True)
    heights = [line.end_y for line in lines]
    assert all(below - above >= 14 for above, below in pairwise(heights))
    assert heights[0] >= 8


def test_a_label_with_room_stands_at_its_value():
    low, high = laid_out((20.0, 80.0))
    assert (low.end_y, high.end_y) == (low.marks[-1].y, high.marks[-1].y)


def test_a_chart_over_something_else_than_steps_keeps_the_order_of_its_points():
    course = [(0.0, 2.0, None), (0.31, 30.0, None), (0.28, 60.0, None)]
    drawn = panel("t", "", "", [Series("a", 0, course)], top=100, digits=1, base=None, x_axis="distance")
    xs = [mark.x for mark in drawn.lines[0].marks]
    assert xs[1] > xs[2] > xs[0] and drawn.lines[0].end == "60.0"
    assert next(text for _, text in drawn.x_ticks) == "0" and float(drawn.x_ticks[-1][1]) >= 0.31
    below = panel(
        "t",
        "",
        "",
        [Series("a", 0, [(-3.0, 1.0, None), (5.0, 2.0, None)])],
        top=None,
        digits=1,
        base=None,
        x_axis="lost",
    )
    assert float(below.x_ticks[0][1].replace("−", "-")) <= -3 and float(below.x_ticks[-1][1]) >= 5
    assert panel("t", "", "", [Series("a", 0, course)], top=100, digits=1, base=None).x_axis == STEPS
