"""Run statements, one of them edited, on the variables of that moment: which slip, mended, makes it right.

The inverse of a slip of the pen: a sign, a name, an axis, a transpose, a constant, a factor. An edit counts
only if the edited statements give the right gradient on every bench. The user's own statements are never
touched: edits are made in a copy.
"""

import ast
import contextlib
import copy
import math
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backhand.checking.mistakes.dialects import NUMPY, TORCH
from backhand.checking.mistakes.edits import Edit, Place, Rule, Scope, holds_tensor, is_whole, sums_to_one
from backhand.checking.mistakes.finding import Finding
from backhand.checking.mistakes.neighbourhood import Derived
from backhand.checking.running.arrays import as_arrays, as_tensors, is_object, on_objects
from backhand.checking.running.complexes import is_differentiable
from backhand.checking.running.containers import as_gradient, each, flatten, place_of
from backhand.checking.running.inlining import FRAME
from backhand.checking.running.instrumenting import Watcher, run_statements
from backhand.checking.running.names import root
from backhand.checking.running.precision import OF_SUMMANDS, RELATIVE, unit
from backhand.checking.running.program import Namespace, Source, definition_of
from backhand.checking.running.statements import (
    assigned,
    begins_anew,
    made_of,
    may_be_wrong,
    may_change_in_place,
    reads,
    simple_statements,
    writes,
    writes_surely,
)
from backhand.checking.running.trials import leaf_like
from backhand.checking.sources.held import copied
from backhand.checking.sources.kept import Kept
from backhand.checking.verdicts.comparing import TINY, close, coarser, fits, largest_of, root_mean_square

# More statements than any backward runs that is worth an edit.
MOST_STEPS = 10_000
# So many elements tell of most tensors that they are not those that a place needs.
SOME = 32


@dataclass(frozen=True)
class Bench:
    """The variables before some statements (on one draw, at one turn), and what belongs where they write.

    Attributes:
        namespace: the variables.
        expected: the right value.
        summands: the size of the terms that are added up to it.
        known: what autograd knows of this step, if it is asked.
        rounding: by how much what is mended may be off in the root mean square, for the code's own precision.
        is_summed: whether autograd sums what is made to the right shape.
        prepare: lets what the statements read besides, as of a module, be what it was.
    """

    namespace: Namespace
    expected: Tensor
    summands: float = 0.0
    known: Callable[[], Sequence[Derived]] = tuple
    rounding: float = 0.0
    is_summed: bool = False
    prepare: Callable[[], None] = lambda: None

    @cached_property
    def most(self) -> float:
        """What no element of a right value is off by more than, however that is measured."""
        size = max(largest_of(self.expected), self.summands)
        part = self.rounding / max(root_mean_square(self.expected), TINY)
        dtype = coarser(self.expected.dtype, self.expected.dtype)
        most = (RELATIVE[dtype] + OF_SUMMANDS[dtype] + 2 * part) * size
        return most if self.expected.numel() and most < math.inf else math.inf

    def is_right(self, value: Tensor) -> bool:
        """Tell whether a value of the right dtype is right."""
        if value.shape != self.expected.shape:
            return False
        value = value.to(self.expected.device)
        # a single number tells of most values, which are off by much
        if self.most < math.inf and not float(torch.dist(value, self.expected, math.inf)) <= self.most:
            return False
        return close(value, self.expected, self.summands) or (
            self.rounding > 0 and close(value, self.expected, self.summands, self.rounding)
        )

    def as_judged(self, value: Tensor | None) -> Tensor | None:
        """Return what becomes of a value that the statements make."""
        if value is None or not self.is_summed or not fits(self.expected, value):
            return value
        return value.sum_to_size(self.expected.shape)


@dataclass(frozen=True, eq=False)
class Program:
    """Statements that make a value, in a copy in which one can be edited, with the benches to run them on.

    Attributes:
        block: the statements.
        path: where the value lies, as an expression over their variables.
        benches: at least one.
        gradients: variable to tensor name, of the variables that hold gradients.
        numbers: constants of the forward, which a line may lack.
        originals: each statement of the copy to the user's own.
        innocent: statements of the copy that make right gradients as well: they are looked at last.
        likely: those that are likely to be at fault, by what is known of their values: they come first.
        unknown: those of whose values nothing is known; None where that is not looked at.
        goes_on: whether the value may be made of what its variable held before.
        over_numpy: whether the statements are over NumPy's arrays, which are run for the benches' tensors.
        beside: what else the user's backward consists of, whose indices a part of a tensor may have here too.
        forward: the statements of the forward, whose indices it may have as well.
        filled: what on objects the statement puts its value into, where it stands for another one.
        in_vain: the rules that were tried on a statement, and whether knowing what autograd does, and mended
            nothing; another hypothesis need not try them again.
    """

    block: ast.Module
    path: str
    benches: tuple[Bench, ...]
    gradients: Mapping[str, str]
    numbers: Sequence[float] = ()
    originals: Mapping[ast.stmt, ast.stmt] = field(default_factory=dict)
    innocent: frozenset[ast.stmt] = frozenset()
    likely: frozenset[ast.stmt] = frozenset()
    unknown: frozenset[ast.stmt] | None = None
    goes_on: bool = False
    over_numpy: bool = False
    beside: tuple[ast.stmt, ...] = ()
    forward: tuple[ast.stmt, ...] = ()
    filled: tuple[str, ...] = ()
    in_vain: set[tuple[ast.stmt, Rule, bool]] = field(default_factory=set)

    @staticmethod
    def of(
        statements: Sequence[ast.stmt],
        path: str,
        benches: Sequence[Bench],
        gradients: Mapping[str, str],
        numbers: Iterable[float] = (),
    ) -> "Program":
        """Return the program of some of the user's statements."""
        copies: dict[int, Any] = {}
        block = copy.deepcopy(ast.Module(list(statements), []), copies)
        nodes = (n for s in statements for n in ast.walk(s) if isinstance(n, ast.stmt))
        originals = {copies[id(n)]: n for n in nodes if id(n) in copies}
        return Program(block, path, tuple(benches), gradients, sorted(numbers), originals)

    def suspecting(
        self,
        likely: Container[ast.stmt],
        innocent: Container[ast.stmt],
        unknown: Container[ast.stmt] | None,
    ) -> "Program":
        """Return it with some of the user's own statements likely to be at fault, innocent, or unknown."""
        of = self.originals.items()
        return replace(
            self,
            likely=frozenset(copied for copied, own in of if own in likely),
            innocent=frozenset(copied for copied, own in of if own in innocent),
            unknown=None if unknown is None else frozenset(copied for copied, own in of if own in unknown),
        )

    @property
    def variable(self) -> str:
        """The variable in which the value lies."""
        return root(self.path)

    @cached_property
    def simple(self) -> list[ast.stmt]:
        """The statements that hold no other statement, in order."""
        return simple_statements(self.block.body)

    @cached_property
    def own(self) -> list[ast.stmt]:
        """Those that write the value, the last one first."""
        return [s for s in reversed(self.simple) if self.variable in _given_by(s)]

    @cached_property
    def temporary(self) -> list[ast.stmt]:
        """Those that make its temporaries; other gradients have a verdict of their own."""
        others = {root(path) for path in self.gradients} - {self.variable}
        rest = [s for s in reversed(self.simple) if s not in self.own]
        return [s for s in rest if others.isdisjoint(_given_by(s))]

    @cached_property
    def indexed(self) -> list[ast.Subscript]:
        """The parts of variables at an index which is computed, each once."""
        nodes = (n for s in (self.block, *self.beside, *self.forward) for n in ast.walk(s))
        found = [n for n in nodes if isinstance(n, ast.Subscript) and _is_computed(n)]
        return list({ast.dump(node): node for node in found}.values())

    @cached_property
    def parts(self) -> dict[str, Tensor]:
        """The parts of tensors, and the items of lists, at the indices that the statements read.

        Where `z[:, t]` stands, `r[:, t]` may belong there, or beside it.
        """
        namespace = self.benches[0].namespace
        # within the brackets, where a tuple has no parentheses: `:, t` could not stand in any
        texts = ((ast.unparse(read), ast.unparse(read.value)) for read in self.indexed)
        subscripts = [(name, text[len(name) + 1 : -1]) for text, name in texts]
        at = _indices((index for _, index in subscripts), namespace)
        shapes: dict[str, set[torch.Size]] = {}  # of what is read, by the index
        for name, text in subscripts:
            part = _at(namespace.get(name), at[text]) if text in at else None
            if part is not None:
                shapes.setdefault(text, set()).add(part.shape)
        own = {n: v for n, v in namespace.items() if not n.startswith("__")}
        held = {n: v for n, v in own.items() if isinstance(v, Tensor | list | tuple)}
        found: dict[str, Tensor | None] = {}
        # of a list with an item a turn that of this one; of whole numbers too, such as tokens
        slices = (node for read in self.indexed for node in ast.walk(read.slice))
        within = {node.id for node in slices if isinstance(node, ast.Name)}
        for counter in sorted(n for n in within if is_whole(own.get(n))):
            lists = {n: v for n, v in held.items() if not isinstance(v, Tensor)}
            found |= {f"{n}[{counter}]": _at(v, own[counter]) for n, v in lists.items()}
        for text, fitting in shapes.items():
            parts = {f"{n}[{text}]": _at(v, at[text]) for n, v in held.items()}
            found |= {n: part for n, part in parts.items() if part is not None and part.shape in fitting}
        return {n: part for n, part in found.items() if part is not None}

    @cached_property
    def held(self) -> dict[str, Any]:
        """What lies on objects; or what a softmax gave where only its logarithm has a name."""
        namespace = self.benches[0].namespace
        return (
            on_objects(namespace) if self.over_numpy else _probabilities(namespace) | _on_contexts(namespace)
        )

    @cached_property
    def known(self) -> tuple[Sequence[Derived], ...]:
        """What autograd knows of this step on each bench."""
        return tuple(bench.known() for bench in self.benches)

    @cached_property
    def given(self) -> tuple[Namespace, ...]:
        """What the statements find on each bench; over NumPy arrays, which share its tensors' memory."""
        return tuple(self._as_run(bench.namespace) for bench in self.benches)

    @cached_property
    def given_with_known(self) -> tuple[Namespace, ...]:
        """The same with what autograd knows."""
        known = ({variable(i): one.value for i, one in enumerate(its)} for its in self.known)
        return tuple(given | self._as_run(its) for given, its in zip(self.given, known, strict=True))

    def _as_run(self, namespace: Namespace) -> Namespace:
        return {n: as_arrays(v) for n, v in namespace.items()} if self.over_numpy else namespace

    @cached_property
    def bounded(self) -> bool:
        """Whether an edit may make a loop of it endless."""
        return any(isinstance(node, ast.While) for node in ast.walk(self.block))

    @cached_property
    def is_right(self) -> bool:
        """Whether the statements are right as they are: what raised is not among them."""
        return Focus.on(self, None).is_right()

    def gives(self, value: Tensor | None) -> bool:
        """Tell whether the statements, as they are, give a value on the first bench."""
        made = Focus.on(self, None).value(0)
        if made is None or value is None:
            return made is value
        return made.dtype == value.dtype and close(made, value)


def filled_by(statement: ast.stmt) -> Iterator[str]:
    """Yield what a statement puts something into, as what reads it: it is none of what belongs there.

    Of `self.grads[i]`, of whichever turn, all of `self.grads`.
    """
    for target in ast.walk(statement):
        if not isinstance(getattr(target, "ctx", None), ast.Store):
            continue
        while isinstance(target, ast.Subscript) and not isinstance(
            getattr(target.slice, "value", None), int | str
        ):
            target = target.value
        if isinstance(target, ast.Subscript | ast.Attribute):
            yield ast.unparse(target).replace("'", '"')


@dataclass(frozen=True, eq=False)
class Focus:
    """A program at one of its statements: what stands above it has been run, and is not run again.

    Attributes:
        first: that of the top-level statements from which on they are run.
        before: the variables there on each bench; None where something above raised.
        knowing: whether they hold what autograd knows as well.
        statement: the one of them; None where several are to be edited.
    """

    program: Program
    first: int
    before: tuple[Namespace | None, ...]
    missing: frozenset[str]
    careful: bool
    knowing: bool = False
    statement: ast.stmt | None = None

    @staticmethod
    def on(program: Program, statement: ast.stmt | None, *, knowing: bool = False) -> "Focus":
        """Prepare for edits of one statement, or of none."""
        body = program.block.body
        tops = [i for i, top in enumerate(body) if any(n is statement for n in ast.walk(top))]
        first = tops[0] if tops else 0
        above = body[:first]
        anew = {n for n in assigned(statement) if begins_anew(statement, n)} if statement else set()
        anew -= {program.variable} if program.goes_on else set()
        later = {n for s in body[first + 1 :] for n in assigned(s)} if statement else set()
        missing = frozenset(anew | later) - {n for s in above for n in writes_surely(s)}  # not there yet
        careful = any(map(may_change_in_place, body))
        before: list[Namespace | None] = []
        found = program.given_with_known if knowing else program.given
        for bench, given in zip(program.benches, found, strict=True):
            namespace = dict(given)
            if not program.goes_on:  # what it was before is no part of what it should be
                namespace.pop(program.variable, None)
            held = dict(namespace)
            bench.prepare()
            ran = not above or _run(above, namespace, careful=careful, bounded=program.bounded)
            if ran and careful and _is_for_one_run(above, namespace, program.variable):
                namespace, first = held, 0
            before.append(namespace if ran else None)
        return Focus(program, first, tuple(before), missing, careful, knowing, statement)

    @property
    def below(self) -> list[ast.stmt]:
        """The statements that are run, as they are now."""
        return self.program.block.body[self.first :]

    @cached_property
    def cost(self) -> int:
        """How many statements are compiled and run in one try."""
        return len(simple_statements(self.below))

    @cached_property
    def scope(self) -> Scope:
        """What the variables hold, and which of them are gradients."""
        bench = self.program.benches[0]
        names = [n for n in bench.namespace if not n.startswith("__") and n not in self.missing]
        frame = getattr(self.statement, FRAME, names)  # those of a helper that is written out know no others
        names = [n for n in names if n in frame]
        known = self.program.known[0] if self.knowing else ()
        called = {n for n in names if n.startswith("d") and holds_tensor(bench.namespace.get(n[1:]))}
        # what gives several variables a value may give forward tensors beside gradients
        simple = [s for s in (*self.program.beside, *self.program.simple) if len(writes(s)) == 1]
        own = filled_by(self.statement) if self.statement is not None else ()
        filled = (*self.program.filled, *own)
        return Scope(
            namespace=bench.namespace,
            gradients=made_of(simple, called.union(filter(str.isidentifier, self.program.gradients))),
            names=names,
            numbers=self.program.numbers,
            shape=tuple(bench.expected.shape),
            parts={
                text: part
                for text, part in (self.program.parts | self.program.held).items()
                if (text in self.program.held or root(text) in names) and not text.startswith(filled)
            },
            known=[(variable(i), each.words, each.branch) for i, each in enumerate(known)],
            dialect=NUMPY if self.program.over_numpy else TORCH,
        )

    def is_right(self, **more: Any) -> bool:
        """Tell whether the statements, as they are now, give the right value on every bench."""
        for i, bench in enumerate(self.program.benches):
            value = self.value(i, **more)
            # of a lower dtype more would pass, and that is a mistake of its own
            if value is None or value.dtype != bench.expected.dtype:
                return False
            if not bench.is_right(value):
                return False
        return True

    def value(self, bench: int, **more: Any) -> Tensor | None:
        """Run the statements on a bench and return the value, or None if they raise."""
        before = self.before[bench]
        if before is None:
            return None
        more = {k: as_arrays(v) for k, v in more.items()} if self.program.over_numpy else more
        namespace, name = {**before, **more}, self.program.variable
        self.program.benches[bench].prepare()
        ran = _run(self.below, namespace, careful=self.careful, bounded=self.program.bounded)
        if not ran or name not in namespace:
            return None
        made = as_tensors(namespace[name]) if self.program.over_numpy else namespace[name]
        if self.program.path != name:
            made = flatten({name: made}).get(self.program.path)
        return self.program.benches[bench].as_judged(as_gradient(made))

    @cached_property
    def matters(self) -> bool:
        """Whether the value is made of what the statement gives, and that may be wrong: else none helps."""
        statement = self.statement
        if not may_be_wrong(statement):
            return False
        if not isinstance(statement, ast.Assign | ast.AugAssign) or writes(statement) - assigned(statement):
            return True  # what it changes in place on its way may matter
        given = statement.value
        # what stays the same is about -1.65, which nothing gives; of 1.5 and 0.5 it would be a sign's -1
        other = ast.BinOp(ast.BinOp(given, ast.Mult(), ast.Constant(1.37)), ast.Add(), ast.Constant(0.61))
        before = self.value(0)
        with Edit(Place(statement, "value", None, given), other, Finding("")).made():
            after = self.value(0)
        if before is None or after is None or before.shape != after.shape or not before.numel():
            return True
        return not torch.equal(before, after)

    @cached_property
    def fitting(self) -> dict[str, Tensor]:
        """The tensors that can be broadcast to the value's shape."""
        expected = self.program.benches[0].expected
        names = [n for n in self.scope.tensors if not self.scope.is_one(n)]
        held = {n: v for n in names if isinstance(v := self.scope.held(n), Tensor) and fits(v, expected)}
        held = {
            n: v for n, v in held.items() if torch.promote_types(v.dtype, expected.dtype) == expected.dtype
        }
        return {n: v.to(expected.dtype) for n, v in held.items() if unit(v.dtype) == unit(expected.dtype)}

    @cached_property
    def at(self) -> tuple[Tensor, ...]:
        """The index of some elements of the value, evenly spread."""
        expected = self.program.benches[0].expected
        count = min(SOME, expected.numel())
        numbers = np.arange(count) * expected.numel() // max(count, 1)
        at = np.unravel_index(numbers, expected.shape) if expected.dim() else ()
        return tuple(torch.from_numpy(i).to(expected.device) for i in at)  # torch's own loads SymPy first

    @cached_property
    def some(self) -> dict[str, Tensor]:
        """These elements of each tensor that can be broadcast."""
        expected = self.program.benches[0].expected
        return {n: v.expand_as(expected)[self.at].flatten() for n, v in self.fitting.items()}

    @cached_property
    def staying(self) -> dict[str, Tensor]:
        """The tensors of the first bench that are the same whenever a statement that is run reads them."""
        run = (*self.below, *simple_statements(self.below))
        before, changed = self.before[0] or {}, {n for s in run for n in writes(s)}
        names = [n for n in self.scope.names if n in before and n not in changed]
        now = {n: as_tensors(before[n]) if self.program.over_numpy else before[n] for n in names}
        held = {n: v for n in names if isinstance(v := self.scope.namespace[n], Tensor)}
        return {n: v for n, v in held.items() if now[n] is v or _is_equal(now[n], v)}


def _is_equal(value: Any, tensor: Tensor) -> bool:
    return isinstance(value, Tensor) and value.dtype == tensor.dtype and torch.equal(value, tensor)


def variable(number: int) -> str:
    """Return the variable that holds one of the tensors that autograd knows."""
    return f"__derived_{number}__"


def _probabilities(namespace: Namespace) -> dict[str, Tensor]:
    """Return what a softmax gave where the variables hold its logarithm: `logprobs.exp()`."""
    held = {n: v for n, v in namespace.items() if isinstance(v, Tensor) and v.is_floating_point()}
    small = {n: v.exp() for n, v in held.items() if v.dim() and v.numel() and not bool((v > 0).any())}
    return {f"{n}.exp()": v for n, v in small.items() if sums_to_one(v)}


def _on_contexts(namespace: Namespace) -> dict[str, Any]:
    """Return the numbers that a Function has kept for its backward, as `ctx.scale`."""
    contexts = {n: value.numbers() for n, value in namespace.items() if isinstance(value, Kept)}
    return {f"{n}.{name}": number for n, its in contexts.items() for name, number in its.items()}


def _is_computed(node: ast.Subscript) -> bool:
    """Tell whether a part of a variable stands at an index of variables, or with a new axis, but no call."""
    within = list(ast.walk(node.slice))
    of_a_name = isinstance(node.value, ast.Name)
    calls = any(isinstance(n, ast.Call) for n in within)
    adds_axis = any(isinstance(n, ast.Constant) and n.value is None for n in within)
    return of_a_name and not calls and (adds_axis or any(isinstance(n, ast.Name) for n in within))


class _Itself:
    """Gives back the index at which it is read."""

    def __getitem__(self, index: Any) -> Any:
        return index


def _indices(texts: Iterable[str], namespace: Namespace) -> dict[str, Any]:
    """Return what indices are, slices too, by their text; those that can be told."""
    found: dict[str, Any] = {}
    for text in texts:
        with contextlib.suppress(Exception):  # a variable may not be there yet
            found[text] = eval(f"__itself__[{text}]", {**namespace, "__itself__": _Itself()})
    return found


def _at(value: Any, index: Any) -> Tensor | None:
    """Return the floating-point tensor at an index; None where there is none."""
    try:
        part = value[index]
    except Exception:  # the index may lie outside
        return None
    return part if is_differentiable(part) else None


def _is_for_one_run(above: Sequence[ast.stmt], namespace: Namespace, variable: str) -> bool:
    """Tell whether what some statements have made cannot be used twice: an iterator, or views of the value.

    Copies would be views no more.
    """
    made = {n: namespace[n] for s in above for n in writes_surely(s) if n in namespace}
    whole = made.pop(variable, None)
    parts = flatten(made).values()
    if any(isinstance(part, Iterator) for part in parts):
        return True
    own = place_of(whole)
    return own is not None and any(place_of(part) == own for part in parts)


def _given_by(statement: ast.stmt) -> frozenset[str]:
    """Return the variables to which a statement gives a value: those of a function's body are its own."""
    is_function = isinstance(statement, ast.FunctionDef)
    return frozenset({statement.name}) if is_function else writes_surely(statement)


def with_helpers(statements: Sequence[ast.stmt], source: Source, namespace: Namespace) -> list[ast.stmt]:
    """Return statements with the definitions of the functions of the same file that they call."""
    called = {n: namespace.get(n) for s in statements for n in reads(s)}
    helpers = (definition_of(f, source) for _, f in sorted(called.items()) if isinstance(f, FunctionType))
    return [*filter(None, helpers), *statements]


def _run(statements: list[ast.stmt], namespace: Namespace, *, careful: bool, bounded: bool) -> bool:
    """Run statements; on copies of what they use if they, or an edit of them, may change it in place.

    With a bound where a loop may become endless.
    """
    try:
        code = compile(ast.Module(statements, []), "<edited>", "exec")
        for name in code.co_names if careful else ():
            if name in namespace:
                namespace[name] = each(namespace[name], _fresh)
        with torch.no_grad(), np.errstate(all="ignore"):
            if bounded:
                run_statements(Source(tuple(statements), ()), namespace, _Bounded())
            else:
                exec(code, namespace)
    except Exception:  # an edit may well make nonsense
        return False
    return True


class _Bounded(Watcher):
    """Ends a loop that an edit has made endless."""

    def ran(self, step: int, statement: ast.stmt, variables: Mapping[str, Any]) -> None:
        """Leave it."""
        if step > MOST_STEPS:
            raise RuntimeError("the loop does not end")

    def raised(self, step: int, statement: ast.stmt, error: Exception) -> None:
        """Let it be raised."""
        raise error


def _fresh(value: Any) -> Any:
    """Return a copy of a tensor or an array, or of an object that holds some; anything else as it is."""
    if isinstance(value, Tensor):  # statements may ask whether it needs a gradient
        return leaf_like(value) if value.requires_grad else value.clone()
    if isinstance(value, np.ndarray):
        return value.copy()
    if not is_object(value) or isinstance(value, Kept):  # a context is only read
        return value
    with contextlib.suppress(Exception):  # it may hold what cannot be copied
        return copied(value)
    return value
