"""The progress of a training run: smoothed losses, the pace, a line for every tenth in a log file."""

import io
import math
import re

import pytest
from rich.console import Console

from backhand.rendering.progress import Pace, training_progress


def test_the_loss_is_smoothed_over_about_a_thousand_steps() -> None:
    pace = Pace()
    pace.add(100, 3.0)
    assert pace.loss == 3.0, "begins with the first, not with zero"
    pace.add(1100, 2.0)
    assert pace.loss == pytest.approx(2.0 + math.exp(-1))
    one, many = Pace(), Pace()
    one.add(0, 3.0), many.add(0, 3.0)
    one.add(400, 1.0)
    for step in range(20, 401, 20):
        many.add(step, 1.0)
    assert many.loss == pytest.approx(one.loss), "however often it is told"


def test_the_pace_is_that_of_the_steps_taken_here_not_of_those_before_it_was_resumed() -> None:
    pace = Pace()
    pace.add(1_000_000, 3.0)
    pace.began -= 10  # ten seconds ago
    pace.add(1_000_500, 3.0)
    assert pace.speed == pytest.approx(50, rel=0.01)


def test_a_log_file_gets_a_line_for_every_tenth_and_no_more() -> None:
    stream = io.StringIO()
    with training_progress(Console(file=stream, width=100)) as watch:
        for step in range(0, 2001, 10):
            watch.steps(step, 2000, 2.5)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 10
    told = [re.fullmatch(r"([\d,]+) of 2,000 steps, loss 2\.500, [\d,]+ steps/s", line) for line in lines]
    assert [int(t[1].replace(",", "")) for t in told] == list(range(200, 2001, 200))


def test_a_terminal_gets_a_bar_that_begins_where_the_run_does() -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=100, force_terminal=True)
    with training_progress(console) as watch:
        watch.steps(600, 2000, 2.5)
        watch.steps(1300, 2000, 1.5)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert "1,300 of 2,000 steps" in text
    assert re.search(r"loss (1\.9\d\d|2\.0\d\d)", text.splitlines()[-1] or text)
