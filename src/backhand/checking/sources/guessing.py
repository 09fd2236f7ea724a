"""What draws a layer's inputs: as a course gives them, else the simplest on which the two run."""

import contextlib
import copy
import inspect
import io
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from backhand.checking.mistakes.finding import listed
from backhand.checking.running.arrays import as_arrays
from backhand.checking.sources.courses import (
    MODEL_ROWS,
    ROWS,
    D,
    Held,
    K,
    N,
    Row,
    T,
    Whole,
    drawn_value,
    word,
)
from backhand.checking.sources.held import copied
from backhand.checking.sources.paired import inputs_of
from backhand.checking.sources.shapes import ANY, COLUMN
from backhand.checking.sources.shapes import Search as Shapes


@dataclass(frozen=True)
class Draw:
    """What draws inputs.

    Attributes:
        values: what a row tells of them, by name.
        told: a course has them so, or arrays of one shape do; otherwise several shapes were guessed.
        says: what else is to be said of them.
    """

    values: Mapping[str, Any]
    told: bool
    says: str = ""

    def __call__(self, rng: np.random.Generator) -> dict[str, Any]:
        """Return one set of inputs."""
        return {name: drawn_value(value, rng) for name, value in self.values.items()}

    def note(self) -> str:
        """Return in a line what was guessed, or else what is to be said of them; perhaps nothing."""
        if self.told:
            return self.says
        drawn = self(np.random.default_rng(0))
        each = (
            (n, v)
            for n, held in drawn.items()
            for n, v in (held if isinstance(held, dict) else {n: held}).items()
        )
        shapes = [f"{name} {np.shape(value)}" for name, value in each]
        return f"The inputs were guessed: {listed(shapes)}. An inputs(rng) in the file says what they are."


# What inputs of another shape raise; something else, as a name that is not there, says more.
MISFITS = ValueError, IndexError, TypeError
# How well inputs fit: a backward raises on them, it runs, it gives gradients of their shapes though one has
# not its own, or two have each other's, it gives each its own, and right ones.
RAISES, RUNS, EXCHANGED, FITS, RIGHT = range(5)
# So little moves an input that is taken for a whole number to no other.
NEAR = 1e-3
# What switches a layer to training, as which it is judged.
TRAINING = "(is_)?train(ing|_mode)?"


def inputs_for(
    forward: Callable[..., Any],
    name: str | None = None,
    *,
    model: bool = False,
    accepts: Callable[[dict[str, Any]], int] = lambda _: FITS,
    call: Callable[[dict[str, Any]], Any] | None = None,
    asked: Sequence[inspect.Parameter] | None = None,
    sizes: tuple[int, ...] = (),
) -> Draw | Exception | None:
    """Return what draws a layer's inputs; what its forward raised if it runs on no row; None if none fits.

    Of the rows on which the forward gives numbers, the first is taken on which the backward gives gradients
    of the inputs' shapes. Where a backward that runs gives others, that is what is wrong with it: the first
    such row is taken, unless one of more axes fits, for a layer of images runs on vectors as well.

    What no course has is given arrays of one shape, or, last, the shapes that the forward asks for itself.

    Args:
        forward: a function, or a method.
        name: what the layer is called; the function's own name by default.
        model: it is a whole model's loss, which takes data and labels.
        accepts: tells how well the backward runs; the first inputs are taken if it does on none.
        call: calls the forward, where its inputs are not arrays as they are drawn.
        asked: what is to be given, if it is not what the forward asks for.
        sizes: of arrays that the forward finds elsewhere.
    """
    call = call or (lambda given: copied(forward)(**given))
    asked = inputs_of(forward) if asked is None else asked
    rows = list(_rows(asked, name or forward.__name__))
    if model:  # a loss alone, with a `grad` beside it, takes predictions, whose kind its name tells
        rows = [row for row in rows if "y" in row.inputs]
        needed = {word(p.name) for p in _without_default(asked)}
        whole = [row for row in MODEL_ROWS if _unknown(needed, row) is not None]
        rows = [*(row for row in rows if row.names), *whole, *rows]
    search = _Search(asked, call, accepts, model, sizes)
    quiet = warnings.catch_warnings(action="ignore")  # of what was guessed wrong, they say nothing
    with contextlib.redirect_stdout(io.StringIO()), np.errstate(all="ignore"), quiet:
        if (found := search.first(rows, told=True)) is not None:
            return found
        if not model and search.ran is None:
            found = search.first(_alike(asked), told=False)
        if found is None:
            found = search.of_any_shapes()
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
        asked: Sequence[inspect.Parameter],
        call: Callable[[dict[str, Any]], Any],
        accepts: Callable[[dict[str, Any]], int],
        model: bool,
        sizes: tuple[int, ...],
    ):
        self.asked, self.call, self.accepts, self.model, self.sizes = asked, call, accepts, model, sizes
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
            draw = _drawing(self.asked, row, self.model, told or _is_of_one_shape(row))
            inputs = draw(np.random.default_rng(0))
            try:
                np.random.seed(0)
                found = self.call(copy.deepcopy(inputs))
            except Exception as error:  # another row may fit
                self._note(error if told else None)
                continue
            if row.sure:
                return draw
            if not _is_finite(found) or self._is_flat(inputs, found):
                continue
            if not told and self._takes_fractions(inputs, found):
                continue
            how = self.accepts(inputs)
            if how == RAISES and (switched := self._switched(draw)) is not None:
                return switched
            axes = max((np.ndim(v) for v in inputs.values()), default=0)
            if how >= FITS and (self.ran is None or axes > self.ran[1] or not told):
                return draw
            if how in (RUNS, EXCHANGED) and self.ran is None and draw.told:
                self.ran = draw, axes
            self.begun = self.begun or (draw if told else None)
        return None

    def _is_flat(self, inputs: Mapping[str, Any], found: Any) -> bool:
        """Tell whether a forward takes numbers for whole ones, as an embedding does: none has a slope.

        Moved a little they are the same to it, moved further they are not.
        """
        floats = {n: v for n, v in inputs.items() if isinstance(v, np.ndarray) and v.dtype.kind == "f"}
        if not floats or found is None or self.model:
            return False
        rng = np.random.default_rng(1)
        try:
            for far in (NEAR, 1.0):
                moved = {n: v + far * rng.uniform(size=v.shape) for n, v in floats.items()}
                np.random.seed(0)
                again = self.call(copy.deepcopy({**inputs, **moved}))
                if np.array_equal(_first(found), _first(again)) is (far != NEAR):
                    return False
        except Exception:  # it may raise or give anything, which is told elsewhere
            return False
        return True

    def _takes_fractions(self, inputs: Mapping[str, Any], found: Any) -> bool:
        """Tell whether what was guessed to be labels are numbers as any others, whose gradient is judged.

        Moved twice as far they move the output twice as far.
        """
        whole = _whole(inputs)
        way = {n: np.random.default_rng(1).uniform(size=v.shape) for n, v in whole.items()}
        far = []
        try:
            for size in (NEAR, 2 * NEAR):
                np.random.seed(0)
                again = self.call(
                    copy.deepcopy({**inputs, **{n: v + size * way[n] for n, v in whole.items()}})
                )
                far.append(float(np.abs(np.asarray(_first(again)) - _first(found)).max()))
        except Exception:  # an index has to be whole
            return False
        return bool(whole) and 1.5 * far[0] < far[1] < 2.5 * far[0]

    def _switched(self, draw: Draw) -> Draw | None:
        """Return the same with options on that are off, as `save_cache=False`, if the backward needs it."""
        switches = {p.name: Held(True) for p in self.asked if p.default is False}
        switched = replace(draw, values={**draw.values, **switches})
        return switched if switches and self.accepts(switched(np.random.default_rng(0))) >= FITS else None

    def of_any_shapes(self) -> Draw | None:
        """Return what draws inputs of the shapes that the forward needs, as it tells itself.

        On what a course has a backward raises where it is wrong; but of columns it may take a single one.
        """
        of_columns = self.begun is not None and (D, N) in self.begun.values.values()
        if self.begun is not None and not of_columns:
            return None
        asked = [p for p in self.asked if p.default is p.empty]
        training = {p.name: Held(True) for p in asked if re.fullmatch(TRAINING, p.name.lower())}
        shapes = Shapes(asked, self.call, self._fits, training, self.sizes)
        found = shapes.found(COLUMN if of_columns else ANY)
        self.raised = self.raised or shapes.lacking
        return None if found is None else Draw(found, told=False)

    def _fits(self, inputs: dict[str, Any]) -> bool | None:
        """Tell whether what was guessed fits; None where it does and the gradients are not right."""
        with contextlib.suppress(Exception):  # it has run, and may ask for more than once
            np.random.seed(0)
            whole = _whole(inputs)
            if whole and self._takes_fractions(inputs, self.call(copy.deepcopy(inputs))):
                return False
        how = self.accepts(inputs)
        return None if how in (EXCHANGED, FITS) else how == RIGHT

    def _note(self, error: Exception | None) -> None:
        if self.raised is None or (isinstance(self.raised, MISFITS) and not isinstance(error, MISFITS)):
            self.raised = error or self.raised


def _whole(inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the arrays of whole numbers that are not called labels."""
    arrays = {n: v for n, v in inputs.items() if isinstance(v, np.ndarray)}
    return {n: v for n, v in arrays.items() if v.dtype.kind == "i" and word(n) != "y"}


def _first(found: Any) -> Any:
    return found[0] if isinstance(found, tuple) and found else found


def _is_finite(found: Any) -> bool:
    """Tell whether a forward gives numbers, and some; one that takes a root is not given just any."""
    first = _first(found)
    if first is None:  # it is not written yet, which is told elsewhere
        return True
    try:
        values = np.asarray(as_arrays(first), dtype=np.float64)
        return bool(values.size and np.isfinite(values).all())
    except (TypeError, ValueError):  # it gives something else than arrays, which is told elsewhere too
        return True


Asked = Sequence[inspect.Parameter]


def _rows(asked: Asked, name: str) -> Iterator[Row]:
    needed = {word(p.name) for p in _without_default(asked)}
    for row in ROWS:
        if re.search(row.names, name.lower()) and needed and _unknown(needed, row) is not None:
            yield row


def _unknown(needed: set[str], row: Row) -> str | None:
    """Return the one parameter that a row calls `x`, whatever it is called; None if it has not all others."""
    left = needed - row.inputs.keys()
    if len(left) == 1 and "x" in row.inputs and "x" not in needed:
        return left.pop()
    return None if left else "x"


def _alike(asked: Asked) -> Iterator[Row]:
    """Yield what a function may be given whatever it is called: arrays of one shape, scores and labels."""
    names = _names(asked)
    for shape in ((N, D), (N, T, D)) if names else ():
        yield Row("", dict.fromkeys(names, shape))
    if len(names) == 2:
        for shape in ((N, K), (N, T, K)):
            yield from (Row("", {a: shape, b: Whole(shape[:-1], K)}) for a, b in (names, names[::-1]))
    if names:
        yield Row("", dict.fromkeys(names, Whole((N, T), T)))


def _names(asked: Asked) -> list[str]:
    return [word(p.name) for p in _without_default(asked)]


def _without_default(asked: Asked) -> list[inspect.Parameter]:
    """Return what has to be given, but for the switch of training."""
    return [p for p in asked if p.default is p.empty and not re.fullmatch(TRAINING, p.name.lower())]


def _is_of_one_shape(row: Row) -> bool:
    return len({str(value) for value in row.inputs.values()}) == 1


def _drawing(asked: Asked, row: Row, model: bool, told: bool) -> Draw:
    # options that have a default keep it, but for dictionaries, the bias, labels and the switch of training
    given = f".*_param|{TRAINING}"
    needed = {p.name for p in asked if model or p.default is p.empty or word(p.name) == "y"}
    needed |= {p.name for p in asked if isinstance(p.default, float) and not p.default}  # as `reg=0.0`: off
    wanted = [p.name for p in asked if p.name in needed or re.fullmatch(given, p.name.lower())]
    unknown = _unknown({word(p.name) for p in _without_default(asked)}, row)
    training = {n: Held(True) for n in wanted if re.fullmatch(TRAINING, n.lower())}
    called = {name: "x" if word(name) == unknown else word(name) for name in wanted}
    values = {n: row.inputs[w] for n, w in called.items() if w in row.inputs}
    return Draw(values | training, told, row.says)
