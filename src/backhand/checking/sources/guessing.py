"""What draws a layer's inputs: as a course gives them, else the simplest on which the two run."""

import contextlib
import copy
import io
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from backhand.checking.mistakes.finding import listed
from backhand.checking.running.arrays import as_arrays
from backhand.checking.sources.courses import (
    IMAGES,
    IMAGES_LAST,
    MODEL_ROWS,
    ROWS,
    D,
    H,
    K,
    N,
    OneHot,
    Row,
    T,
    V,
    Whole,
    drawn_value,
    word,
)
from backhand.checking.sources.paired import inputs_of


@dataclass(frozen=True)
class Draw:
    """What draws inputs.

    Attributes:
        values: what a row tells of them, by name.
        told: a course has them so, or arrays of one shape do; otherwise several shapes were guessed.
    """

    values: Mapping[str, Any]
    told: bool

    def __call__(self, rng: np.random.Generator) -> dict[str, Any]:
        """Return one set of inputs."""
        return {name: drawn_value(value, rng) for name, value in self.values.items()}

    def note(self) -> str:
        """Return in a line what was guessed."""
        shapes = [f"{name} {np.shape(value)}" for name, value in self(np.random.default_rng(0)).items()]
        return f"The inputs were guessed: {listed(shapes)}. An inputs(rng) in the file says what they are."


# What inputs of another shape raise; something else, as a name that is not there, says more.
MISFITS = ValueError, IndexError, TypeError
# How well inputs fit: a backward raises on them, it runs, and it gives gradients of their shapes.
RAISES, RUNS, FITS = range(3)
# Combinations of shapes that are tried where no course has such parameters; a forward of such sizes takes
# less than a millisecond.
MOST_COMBINED = 300


def inputs_for(
    forward: Callable[..., Any],
    name: str | None = None,
    *,
    model: bool = False,
    accepts: Callable[[dict[str, Any]], int] = lambda _: FITS,
    call: Callable[[dict[str, Any]], Any] | None = None,
) -> Draw | Exception | None:
    """Return what draws a layer's inputs; what its forward raised if it runs on no row; None if none fits.

    Of the rows on which the forward gives numbers, the first is taken on which the backward gives gradients
    of the inputs' shapes. Where a backward that runs gives others, that is what is wrong with it: the first
    such row is taken, unless one of more axes fits, for a layer of images runs on vectors as well.

    Args:
        forward: a function, or a method.
        name: what the layer is called; the function's own name by default.
        model: it is a whole model's loss, which takes data and labels.
        accepts: tells how well the backward runs; the first inputs are taken if it does on none.
        call: calls the forward, where its inputs are not arrays as they are drawn.
    """
    call = call or (lambda given: copy.deepcopy(forward)(**given))
    rows = list(MODEL_ROWS if model else _rows(forward, name or forward.__name__))
    search = _Search(forward, call, accepts, model)
    with contextlib.redirect_stdout(io.StringIO()), np.errstate(all="ignore"):
        if (found := search.first(rows, told=True)) is not None:
            return found
        if not model and search.ran is None:
            found = search.first(_alike(forward), told=False)
        if not model and found is None and search.begun is None:
            found = search.first(_combined(forward), told=False)
    return found or (search.ran[0] if search.ran is not None else search.begun or search.raised)


class _Search:
    """The rows tried so far.

    Attributes:
        ran: what draws the first inputs on which the backward ran, and how many axes these have.
        begun: what draws the first that a course has on which the forward ran.
        raised: what it raised on one that a course has.
    """

    def __init__(
        self,
        forward: Callable[..., Any],
        call: Callable[[dict[str, Any]], Any],
        accepts: Callable[[dict[str, Any]], int],
        model: bool,
    ):
        self.forward, self.call, self.accepts, self.model = forward, call, accepts, model
        self.ran: tuple[Draw, int] | None = None
        self.begun: Draw | None = None
        self.raised: Exception | None = None

    def first(self, rows: Iterable[Row], *, told: bool) -> Draw | None:
        """Return what draws the first inputs that fit.

        Args:
            rows: to be tried.
            told: a course has them; what is only guessed has to fit, but for arrays of one shape.
        """
        for row in rows:
            draw = _drawing(self.forward, row, self.model, told or _is_of_one_shape(row))
            inputs = draw(np.random.default_rng(0))
            try:
                np.random.seed(0)
                found = self.call(copy.deepcopy(inputs))
            except Exception as error:  # another row may fit
                self._note(error if told else None)
                continue
            if row.sure:
                return draw
            if not _is_finite(found):
                continue
            how = self.accepts(inputs)
            axes = max((np.ndim(v) for v in inputs.values()), default=0)
            if how == FITS and (self.ran is None or axes > self.ran[1] or not told):
                return draw
            if how == RUNS and self.ran is None and draw.told:
                self.ran = draw, axes
            self.begun = self.begun or (draw if told else None)
        return None

    def _note(self, error: Exception | None) -> None:
        if self.raised is None or (isinstance(self.raised, MISFITS) and not isinstance(error, MISFITS)):
            self.raised = error or self.raised


def _is_finite(found: Any) -> bool:
    """Tell whether a forward gives numbers: one that takes a root or a logarithm is not given just any."""
    first = found[0] if isinstance(found, tuple) and found else found
    if first is None:  # it is not written yet, which is told elsewhere
        return True
    try:
        return bool(np.isfinite(np.asarray(as_arrays(first), dtype=np.float64)).all())
    except (TypeError, ValueError):  # it gives something else than arrays, which is told elsewhere too
        return True


def _rows(forward: Callable[..., Any], name: str) -> Iterator[Row]:
    needed = {word(p.name) for p in inputs_of(forward) if p.default is p.empty}
    for row in ROWS:
        if re.search(row.names, name.lower()) and needed and _unknown(needed, row) is not None:
            yield row


def _unknown(needed: set[str], row: Row) -> str | None:
    """Return the one parameter that a row calls `x`, whatever it is called; None if it has not all others."""
    left = needed - row.inputs.keys()
    if len(left) == 1 and "x" in row.inputs and "x" not in needed:
        return left.pop()
    return None if left else "x"


def _alike(forward: Callable[..., Any]) -> Iterator[Row]:
    """Yield what a function may be given whatever it is called: arrays of one shape, scores and labels."""
    names = _names(forward)
    for shape in ((N, D), (N, T, D)) if names else ():
        yield Row("", dict.fromkeys(names, shape))
    if len(names) == 2:
        for shape in ((N, K), (N, T, K)):
            yield from (Row("", {a: shape, b: Whole(shape[:-1], K)}) for a, b in (names, names[::-1]))
    if names:
        yield Row("", dict.fromkeys(names, Whole((N, T), T)))


def _combined(forward: Callable[..., Any]) -> Iterator[Row]:
    """Yield arrays of several shapes, one for each parameter."""
    names = _names(forward)
    for shapes in itertools.islice(itertools.product(*map(_possible, names)), MOST_COMBINED if names else 0):
        yield Row("", dict(zip(names, shapes, strict=True)))


def _names(forward: Callable[..., Any]) -> list[str]:
    return [word(p.name) for p in inputs_of(forward) if p.default is p.empty]


def _possible(name: str) -> tuple[Any, ...]:
    """Return what one parameter may be, by its name if that says something."""
    if name == "y":
        return Whole((N,), 3), OneHot((N, K)), OneHot((N, H)), OneHot((N, V)), Whole((N, T), 3)
    if re.search("idx|index|indices|ids?$|tokens|mask", name):
        return Whole((N,), 2), Whole((N, T), 2)
    if re.match(r"[hc](s?$|\d|_)|state|prev|hidden", name):
        return (N, H), (N, T, H), (H,)
    return (N, D), (N, T, D), (N, T, H), (N, H), IMAGES, IMAGES_LAST, (D,), (N, 2, V), Whole((N, T), V)


def _is_of_one_shape(row: Row) -> bool:
    return len({str(value) for value in row.inputs.values()}) == 1


def _drawing(forward: Callable[..., Any], row: Row, model: bool, told: bool) -> Draw:
    parameters = inputs_of(forward)
    # options that have a default keep it, but for the dictionaries and the bias
    wanted = [p.name for p in parameters if model or p.default is p.empty or p.name.endswith("_param")]
    unknown = _unknown({word(p.name) for p in parameters if p.default is p.empty}, row)
    called = {name: "x" if word(name) == unknown else word(name) for name in wanted}
    return Draw({n: row.inputs[w] for n, w in called.items() if w in row.inputs}, told)
