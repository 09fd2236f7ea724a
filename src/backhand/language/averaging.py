"""Averaging weights over the last steps of training (Polyak and Juditsky 1992; Izmailov et al. 2018).

Training goes on from the weights of its last step; the model to use has their average. It is taken every so
many steps, counted back from the last one, so that it is the same however training is cut into calls, and is
part of a checkpoint.
"""

from dataclasses import replace

from .recipes import WordConfig
from .word_models import WordModel

EVERY = 50
"""Steps from one set of weights to the next: successive ones are too much alike to be worth the time."""


def averaged_after(config: WordConfig) -> range:
    """Return after which steps the weights go into the average.

    >>> from backhand import RnnConfig
    >>> list(averaged_after(RnnConfig(steps=1020, average=0.1)))
    [920, 970, 1020]
    """
    steps = config.steps or 0
    tail = round(config.average * steps)
    return range(steps - max(0, tail - 1) // EVERY * EVERY, steps + 1, EVERY) if tail else range(0)


def steps_to_next(config: WordConfig, step: int) -> int:
    """Return how many steps there are until weights go into the average; to the last step if none do."""
    points = averaged_after(config)
    later = points[max(0, -(-(step + 1 - points.start) // EVERY)) :]
    return (later[0] if later else config.steps or 0) - step


def add_to_average(model: WordModel, step: int) -> None:
    """Let the weights after a step into the average, if they belong there; in place."""
    points = averaged_after(model.config)
    if step in points:
        for name, p in model.parameters.items():
            model.average[name].lerp_(p, 1 / (points.index(step) + 1))


def averaged(model: WordModel, step: int) -> WordModel:
    """Return the model to use after a step: of the average, once there is one."""
    points = averaged_after(model.config)
    if not points or step < points.start:
        return model
    return replace(model, parameters=model.average).copy()
