"""The picture of a run tells its learning rate, whatever its course."""

import numpy as np

from backhand import TrainConfig
from backhand.language.history import Curves
from backhand.language.plotting import plot_history, rate_marks


def test_a_rate_that_drops_is_marked_where_it_does() -> None:
    assert rate_marks(np.repeat([0.1, 0.01], [5, 3])) == [0, 5]


def test_a_rate_along_a_curve_is_marked_at_its_ends_however_long_the_run() -> None:
    rates = 1e-3 * (1 + np.cos(np.pi * np.arange(40_000) / 40_000))
    assert rate_marks(rates) == [0, 39_999]
    curves = Curves(np.linspace(3, 2, 40_000), rates, np.array([40_000]), np.array([2.1]))
    assert plot_history(curves, TrainConfig(), None).startswith(
        b"\x89PNG"
    )  # took minutes when each was marked
