"""The two courses as data, over torch and over NumPy: each exercise is made from one pass of the textbook."""

import importlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from types import ModuleType

from backhand.checking.running.names import nearest
from backhand.errors import LearnError


@dataclass(frozen=True)
class Exercise:
    """One exercise.

    Attributes:
        number: its place in the course, counted from 1.
        name: the module in `backhand.passes` that holds its solution.
        title: a few words.
        story: what it is about, without the answer.
        questions: the first hint for a gradient, where what its tensor goes into does not ask it by itself.
        trains: the finished backward has to train the language model as well.
        numpy: it is over NumPy, with a cache, and asks for what the backward returns.
    """

    number: int
    name: str
    title: str
    story: str
    questions: Mapping[str, str] = field(default_factory=dict, hash=False)
    trains: bool = False
    numpy: bool = False

    @property
    def file_name(self) -> str:
        """The name of the learner's file, such as `01_product.py`."""
        return f"{self.number:02}_{self.name}.py"

    @property
    def solution(self) -> ModuleType:
        """The pass that solves it."""
        return importlib.import_module(f"backhand.passes.{'arrays.' if self.numpy else ''}{self.name}")

    @property
    def solution_text(self) -> str:
        """The source of the pass that solves it."""
        return Path(self.solution.__file__ or "").read_text(encoding="utf-8")


@cache
def course(*, numpy: bool = False) -> tuple[Exercise, ...]:
    """Return all exercises of the course over torch, or of that over NumPy, in order.

    >>> course()[0].file_name
    '01_product.py'
    """
    file = "course_numpy.toml" if numpy else "course.toml"
    text = (resources.files("backhand.learning") / file).read_text(encoding="utf-8")
    entries = tomllib.loads(text)["exercise"]
    return tuple(Exercise(number=i, numpy=numpy, **entry) for i, entry in enumerate(entries, start=1))


def find(name: str, *, numpy: bool = False) -> Exercise:
    """Return the exercise with a name, a number or a file name.

    Raises:
        LearnError: there is no such exercise.

    >>> find("1").name, find("01_product.py").name
    ('product', 'product')
    """
    wanted = Path(name).name
    for exercise in course(numpy=numpy):
        if wanted in (exercise.name, str(exercise.number), exercise.file_name, exercise.file_name[:-3]):
            return exercise
    names = [exercise.name for exercise in course(numpy=numpy)]
    suggestion = nearest(name, names) or f"; there are {', '.join(names)}."
    raise LearnError(f"there is no exercise {name!r}{suggestion}")
