"""What a file has over NumPy, pairs by their names and losses that return their gradients."""

import contextlib
import copy
import inspect
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

from backhand.checking.mistakes.finding import listed
from backhand.checking.report import Report
from backhand.checking.running.arrays import as_arrays
from backhand.checking.running.differences import along
from backhand.checking.running.endings import what_raised
from backhand.checking.running.program import parameters_of
from backhand.checking.running.tracing import IndependentError
from backhand.checking.sources import roles
from backhand.checking.sources.arguments import with_optional
from backhand.checking.sources.classes import check_class, judge_functions
from backhand.checking.sources.composing import Composed, Parts, drawing, parts_of
from backhand.checking.sources.costs import asked_by, cost_of, ends_of, lacks_cost
from backhand.checking.sources.declaring import BACKWARD
from backhand.checking.sources.globals import held_globally, sizes_of
from backhand.checking.sources.guessing import EXCHANGED, FITS, RAISES, RIGHT, RUNS, Draw, inputs_for
from backhand.checking.sources.held import copied
from backhand.checking.sources.inner import reported
from backhand.checking.sources.layered import Class
from backhand.checking.sources.making import Made, making, why_not_made
from backhand.checking.sources.missing import refuse_what_is_missing
from backhand.checking.sources.numpy_truths import plainly
from backhand.checking.sources.overnumpy import OverNumpy, noting
from backhand.checking.sources.paired import Functions, inputs_of, takes_cache
from backhand.checking.sources.pairs import Pair, pairs_within
from backhand.checking.sources.parts import called_for_its_loss, with_step
from backhand.checking.sources.standins import made_of_layers
from backhand.checking.sources.subjects import Subject
from backhand.checking.sources.watching import Seen, SeenLayer
from backhand.errors import CheckError, in_short

# Processor seconds after which a class is made in no other way.
MOST_SECONDS = 4.0
# What Python calls a size where that is taken for something else.
SIZE = "'int' object"
# How near a right gradient comes to a difference, also where the forward has a kink not far away.
CLOSE = 1e-4
# The call of a function or a class that its author has made, by its name; None where there is none.
Recorded = Callable[[str], Seen | SeenLayer | None]


def layers_of(
    module: ModuleType, *, draws: int = 3, seed: int = 0, recorded: Recorded = lambda _: None
) -> list[Subject]:
    """Return what a module has, in the order of its text.

    Args:
        module: that was imported.
        draws, seed: of the checks.
        recorded: calls from which inputs are taken where the module has no `inputs`.
    """
    checks = _Checks(module, recorded, draws, seed)
    classes = [v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__]
    whole = {v.__name__: v if roles.is_layer(v) or roles.is_model(v) else with_step(v) for v in classes}
    found = [Subject(n, partial(checks.of_class, v)) for n, v in whole.items() if v is not None]
    for name, function in checks.own.items():
        alone = roles.returns_its_gradients(function)
        if alone and (roles.asks_for_labels(function) or not re.search(BACKWARD, name)):
            check = partial(checks.of_functions, Functions.of(function, None))
        elif re.search(BACKWARD, name):
            check = partial(checks.of_backward, function)
        else:
            continue
        found.append(Subject(name, check))
    return found


@dataclass(frozen=True)
class _Checks:
    """The checks of what a module has.

    Attributes:
        module, recorded, draws, seed: see `layers_of`.
    """

    module: ModuleType
    recorded: Recorded
    draws: int
    seed: int

    @property
    def functions(self) -> dict[str, FunctionType]:
        """The functions in the module, those among them that it imports."""
        return {n: f for n, f in vars(self.module).items() if isinstance(f, FunctionType)}

    @property
    def own(self) -> dict[str, FunctionType]:
        """Those of the module itself."""
        return {n: f for n, f in self.functions.items() if f.__module__ == self.module.__name__}

    @property
    def inputs(self) -> Callable[..., Any] | None:
        """The module's own function that draws inputs; a variable of that name is something else."""
        return self.functions.get("inputs")

    def of_class(self, layer: type) -> Report:
        """Check a class, made in one way after the other until one runs."""
        calls, ends = roles.calls_of(layer), ends_of(layer)
        if calls is None and takes_cache(getattr(layer, ends[1])) and cost_of(layer, ends) is None:
            return self._within(layer)
        refuse_what_is_missing(self.module, layer.__name__, *roles.methods_used(layer, ends))
        if self.inputs is None and (seen := self.recorded(layer.__name__)) is not None:
            return seen.check(draws=self.draws, seed=self.seed)
        held = self._held(layer)
        if not held and (made := made_of_layers(layer)) is not None:
            with contextlib.suppress(CheckError):  # it asks more of its layers
                return noting(self._of_layer(made), "made of two layers of the checker's own.")
        first: CheckError | None = None
        until = time.thread_time() + MOST_SECONDS
        for found in (*held, *making(layer, model=calls is not None)):
            try:
                report = self._of_layer(found.layer)
                # a size stands for what is to be called, or has attributes
                if not (found.guessed and report.raised and SIZE in report.raised.error):
                    return _with_sizes(report, found.guessed)
            except (NoInputsError, IndependentError) as error:
                first = first or (_not_made(layer) if found.guessed else error)
                if time.thread_time() > until:
                    break
            except CheckError:
                if found not in held:
                    raise
        raise first or _not_made(layer)

    def _held(self, layer: type) -> list[Made]:
        """Return the instance of a class that the module has, perhaps of other sizes than guessed."""
        return [Made(v, []) for v in vars(self.module).values() if type(v) is layer][:1]

    def _of_layer(self, made_of: Any) -> Report:
        layer, ends = type(made_of), ends_of(type(made_of))
        whole = cost_of(made_of, ends) is not None or lacks_cost(made_of, ends)
        asked = list(asked_by(made_of).values())
        ended: list[Exception] = []
        if whole and not asked:  # its data lie on it
            return check_class(made_of, lambda _: {}, draws=self.draws, seed=self.seed)
        inputs_of_it = partial(
            self._inputs,
            getattr(made_of, ends[0]),
            layer.__name__,
            model=roles.calls_of(layer) is not None or whole,
            accepts=partial(runs, partial(Class.of, made_of), note=ended.append),
            ended=ended,
            call=partial(_called_whole if whole else _called_alone, made_of),
            sizes=sizes_of(made_of),
        )
        optional = with_optional(asked, made_of, getattr(made_of, ends[1]))
        try:
            inputs = inputs_of_it(asked=optional)
        except NoInputsError:
            if optional == asked:
                raise
            inputs = inputs_of_it(asked=asked)
        return _noting(inputs, check_class(made_of, inputs, draws=self.draws, seed=self.seed))

    def _within(self, layer: type) -> Report:
        """Check a class that only holds a pair of functions, which hand a cache from one to the other."""
        made = (found.layer for found in (*self._held(layer), *making(layer)))
        owner: Any = layer if roles.is_static(layer) else next(made, None)
        if owner is None:
            raise CheckError(f"how to make {layer.__name__}{inspect.signature(layer)} is not known.")
        forward, backward = (getattr(owner, name) for name in ends_of(layer))
        return self.of_functions(Functions.of(forward, backward, layer.__name__))

    def of_backward(self, backward: FunctionType) -> Report:
        """Check a backward beside the forward of its name; that of a whole model begins at its cost."""
        name, known = backward.__name__, self.functions
        if (whole := parts_of(backward, known)) is not None:
            found = drawing(whole)
            if isinstance(found, tuple):
                return self._of_model(whole, *found)
            # else it is a loss beside its backward
            if isinstance(found, Exception) or whole.cost is not None:
                raise _without_inputs(whole.forward.__name__, parameters_of(whole.forward), found)
        forward = roles.forward_of(name, self.own) or roles.forward_of(name, known)
        if forward is None:
            wanted = name.replace("backward", "forward").replace("Backward", "Forward")
            raise CheckError(f"{name} has no {wanted}: a backward is checked beside the forward of its name.")
        return self.of_functions(Functions.of(known[forward], backward))

    def _of_model(self, calls: Parts, draw: Callable[..., Any], kept: Mapping[str, Any]) -> Report:
        """Check a model that is written as functions."""
        model = Composed.of(calls, kept, draw(np.random.default_rng(self.seed)), self.seed)
        whole = OverNumpy.of(model, draw, self.seed)
        return reported(whole, pairs_within(model), draws=self.draws, seed=self.seed)

    def of_functions(self, functions: Functions) -> Report:
        """Check a forward with its backward, or a loss that returns its gradients."""
        draws, seed = self.draws, self.seed
        refuse_what_is_missing(self.module, functions.title, functions.forward, functions.backward)
        seen = self.recorded(functions.title) if self.inputs is None else None
        if isinstance(seen, Seen):  # perhaps of the same file, imported once more
            functions = replace(functions, over_torch=seen.functions.over_torch)
            return replace(seen, functions=functions).check(draws=draws, seed=seed)

        layer = held_globally(functions.forward, functions.backward, functions.title)
        ended: list[Exception] = []

        def accepts(given: dict[str, Any]) -> int:
            if layer is not None and (how := runs(partial(Class.of, layer), given)) != RAISES:
                return how
            holding = functions.holding(given)
            return runs(partial(Pair.of, holding), holding.unpacked(given), ended.append)

        inputs = self._inputs(
            functions.forward,
            functions.title,
            call=functions.call,
            accepts=accepts,
            ended=ended,
            sizes=sizes_of(layer),
        )
        return _noting(inputs, judge_functions(functions, inputs, draws=draws, seed=seed, given={}))

    def _inputs(
        self,
        forward: Callable[..., Any],
        name: str,
        *,
        accepts: Callable[[dict[str, Any]], int],
        call: Callable[[dict[str, Any]], Any] | None = None,
        model: bool = False,
        asked: list[inspect.Parameter] | None = None,
        sizes: tuple[int, ...] = (),
        ended: Sequence[Exception] = (),
    ) -> Callable[[np.random.Generator], Any]:
        """Return what draws a forward's inputs: the module's own function, or what the courses say.

        Where there are none, `ended` tells what the backward raised on those that were tried.
        """
        given = self.inputs
        parameters = inputs_of(forward) if asked is None else asked
        names = [p.name for p in parameters]
        if given is not None:
            try:
                drawn: Any = given(np.random.default_rng(0))
            except Exception as error:  # the user's code may raise anything
                raise CheckError(f"inputs raised {in_short(error)}") from error
            needed = [p.name for p in parameters if p.default is p.empty]
            if set(needed) <= set(drawn):
                return lambda rng: {k: v for k, v in given(rng).items() if k in names}
        draw = inputs_for(
            forward, name, model=model, accepts=accepts, call=call, asked=parameters, sizes=sizes
        )
        if draw is None or isinstance(draw, Exception):
            told = name if inspect.ismethod(forward) else forward.__name__  # that of a class is the class's
            raise _without_inputs(told, names, draw, ended)
        return draw


def _with_sizes(report: Report, guessed: list[str]) -> Report:
    note = f"made with sizes that are guessed, of {listed(guessed)}."
    return replace(report, notes=(*report.notes, note)) if guessed else report


def _not_made(layer: type) -> CheckError:
    why = why_not_made(layer)
    tried = f", and with likely ones it {why}" if why else ""
    return CheckError(
        f"how to make {layer.__name__}{inspect.signature(layer)} is not known{tried}: "
        f"let the file hold one, or call backhand.check_class."
    )


def _called_alone(layer: Any, inputs: dict[str, Any]) -> Any:
    on, back = ends_of(type(layer))
    forward = getattr(copied(layer), on)
    return called_for_its_loss(forward, inputs, plainly) if on == back else forward(**inputs)


def _called_whole(layer: Any, inputs: dict[str, Any]) -> Any:
    found, rng = Class.of(layer, inputs, 0), np.random.default_rng(0)
    given = inputs | {n: found.drawn_parameter(n, rng) for n in found.parameters}
    return found.forward(copy.deepcopy(given)).outputs


def _noting(inputs: Callable[..., Any], report: Report) -> Report:
    """Return a report that says which inputs were guessed."""
    note = inputs.note() if isinstance(inputs, Draw) else ""
    return replace(report, notes=(*report.notes, note)) if note else report


def runs(
    subject_of: Callable[..., Pair | Class],
    inputs: dict[str, Any],
    note: Callable[[Exception], object] = lambda error: None,
) -> int:
    """Tell how well a backward runs on inputs of a forward; `note` is told what it raises."""
    try:
        subject = subject_of(inputs, 0)
        rng = np.random.default_rng(0)
        own = subject.parameters if isinstance(subject, Class) else ()
        given = inputs | {n: subject.drawn_parameter(n, rng) for n in own if isinstance(subject, Class)}
        called = subject.forward(copy.deepcopy(given))
        upstream = {f"d{n}": o for n, o in zip(subject.outputs, called.outputs, strict=True)}
        backward, arguments = subject.backward(called, upstream)
        with subject.within(called):
            try:
                returned = plainly(backward, arguments)
            except Exception as error:
                note(error)
                raise
        found = subject.gradients(returned, called)
    except Exception:  # the user's code may raise anything
        return RAISES
    if not all(np.size(as_arrays(out)) for out in called.outputs):  # a window larger than the image
        return RAISES
    pairs: list[tuple[Any, Any]] = [(found.get(g), given.get(n)) for g, n in subject.named.items()]
    made, asked = [np.shape(g) for g, _ in pairs], [np.shape(v) for _, v in pairs]
    if made != asked:
        is_one = len(made) > 2 and sum(a != b for a, b in zip(made, asked, strict=True)) == 1
        return EXCHANGED if is_one or sorted(made) == sorted(asked) else RUNS
    of_inputs = [as_arrays(found[g]) for g, n in subject.named.items() if n in inputs]
    if of_inputs and not any(map(np.any, of_inputs)):  # as of a norm over a single element
        return RUNS
    return RIGHT if _is_right(subject, given, found, called.outputs) else FITS


def _is_right(
    subject: Pair | Class, given: Mapping[str, Any], found: Mapping[str, Any], outputs: Sequence[Any]
) -> bool:
    """Tell in one direction whether gradients are right, whose upstream gradients were the outputs."""
    rng = np.random.default_rng(1)
    ways = {n: rng.normal(size=np.shape(given[n])) for n in subject.named.values()}

    def scalar(moved: Mapping[str, Any]) -> float:
        np.random.seed(0)
        ends = subject.forward(copy.deepcopy(dict(moved))).outputs
        return float(sum(np.sum(o * e) for o, e in zip(outputs, ends, strict=True)))

    try:
        slope = sum(float(np.sum(found[g] * ways[n])) for g, n in subject.named.items())
        slope *= float(outputs[0]) if subject.outputs == ("loss",) else 1.0  # which asks for no upstream one
        real = along(scalar, given, ways)
    except Exception:  # the user's code may raise anything
        return False
    return abs(real - slope) <= CLOSE * max(abs(real), abs(slope))


class NoInputsError(CheckError):
    """Nothing is known on which a forward runs."""


def _without_inputs(
    told: str, names: Iterable[str], raised: Exception | None, ended: Sequence[Exception] = ()
) -> CheckError:
    """Return what is said where no inputs are known; what no module has is missing whatever they are."""
    if isinstance(raised, CheckError):  # which says itself what is lacking
        return NoInputsError(str(raised))
    if isinstance(raised, NameError) or (isinstance(raised, AttributeError) and "module '" in str(raised)):
        return CheckError(f"{told} {what_raised(raised)}.")
    why = "are not known:"
    if ended:
        why = f"are not known, and on those tried the backward {what_raised(ended[0])}. Mend that, or"
    elif raised is not None:  # the forward may be wrong, or want others
        why = f"are not known, and on the usual ones it {what_raised(raised)}. Mend that, or"
    return NoInputsError(
        f"inputs of {told}({', '.join(names)}) {why} write a function inputs(rng) that returns them by "
        "name, drawn from a numpy.random.Generator."
    )
