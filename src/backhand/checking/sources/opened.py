"""A custom Function that is written in torch operations, opened: its statements are run one by one, and seen.

Its own forward, run with autograd on, gives the tensors on the way; where that has another gradient than the
reference's, as with a `detach`, the reference's own statements do, or it alone. The backward is called as
autograd calls it, with the node of the graph for its `ctx`. What they make locates a mistake, and is never
judged by itself.
"""

import ast
import copy
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import FunctionType, MethodType
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from backhand.checking.running.arrays import is_object
from backhand.checking.running.complexes import in_dtype
from backhand.checking.running.containers import as_gradient, each_tensor, flatten, is_strided
from backhand.checking.running.graph import Trace
from backhand.checking.running.inlining import inlined
from backhand.checking.running.instrumenting import Run, Watcher, run_function, surroundings
from backhand.checking.running.program import Namespace, Source, plain_function, source_of
from backhand.checking.running.returning import blocks
from backhand.checking.running.sandbox import running
from backhand.checking.running.statements import writes_surely
from backhand.checking.running.straight import straight
from backhand.checking.running.tracing import apart_from, changes_a_leaf, copied, trace
from backhand.checking.running.trials import StatementError, backward_arguments, leaf_like, sets_of
from backhand.checking.running.unseen import Unseen
from backhand.checking.sources.calling import Called, ClosedError, Context, has_context
from backhand.checking.sources.handed import with_upstreams_apart
from backhand.checking.sources.joined import joined
from backhand.checking.sources.kept import Kept, Made, is_equal
from backhand.checking.sources.protocol import ForwardError, Halfway, Pass
from backhand.checking.sources.returned import in_order
from backhand.checking.verdicts.comparing import close

Outputs = Callable[[Any], dict[str, Tensor]]


class _Last(Watcher):
    """Lets a watcher watch, keeps the variables after the last statement, and notes which statements ran."""

    def __init__(self, watcher: Watcher | None):
        self._watcher = watcher or Watcher()
        self.variables: Namespace = {}
        self.statements: set[ast.stmt] = set()

    def ran(self, step: int, statement: Any, variables: Mapping[str, Any]) -> Namespace | None:
        """Take the variables."""
        self.variables = dict(variables)
        self.statements.add(statement)
        return self._watcher.ran(step, statement, variables)

    def added(self, step: int, statement: Any, value: Any) -> Any:
        """Let it see what is added."""
        return self._watcher.added(step, statement, value)


@dataclass(frozen=True)
class Forward:
    """What stands for the forward of an opened Function.

    Attributes:
        function: its own, or the reference.
        source: its statements; None where they cannot be read.
        first: how many of its arguments are no inputs: the `ctx`.
        is_own: whether it is called with what the Function is called with.
    """

    function: Callable[..., Any]
    source: Source | None
    first: int = 0
    is_own: bool = False


@dataclass(frozen=True)
class Opened:
    """Runs an opened Function, as `protocol.Runner`.

    Attributes:
        called: the Function, and with which of the inputs.
        told: gives the outputs of a call by name.
        steps: the statements of the forward.
        source: the statements of the backward, at whose end the gradients are returned by name.
        detached: the inputs that have no gradient on purpose.
        apart: those of them with which the Function refuses to be differentiated.
        places: where among all that the Function returns each output stands; None and integers do, too.
        whole: whether the statements are those of the forward as well.
    """

    called: Called
    told: Outputs
    steps: Forward
    source: Source
    detached: frozenset[str]
    apart: frozenset[str]
    places: Mapping[str, int]
    whole: bool = False
    _kept: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def over_numpy(self) -> bool:
        """Its statements see tensors."""
        return False

    @property
    def fn(self) -> type[Function]:
        """The Function."""
        return self.called.fn

    def named(self, /, **leaves: Any) -> dict[str, Any]:
        """Return the tensors on the way and the outputs, by name."""
        return self.forward(leaves, None)

    def forward(self, leaves: Mapping[str, Any], watcher: Watcher | None) -> dict[str, Any]:
        """Run the forward with autograd on; a statement that raises ends it as ever."""
        held = apart_from(leaves, self.detached)
        values = self.called.with_inputs(held) if self.steps.is_own else list(held.values())
        try:
            return self._forward(leaves, values, watcher)
        except RuntimeError as error:
            if not changes_a_leaf(error):
                raise
        return self._forward(leaves, list(map(copied, values)), watcher)

    def _forward(
        self, leaves: Mapping[str, Any], values: list[Any], watcher: Watcher | None
    ) -> dict[str, Any]:
        context = Context([isinstance(v, Tensor) and v.requires_grad for v in values])
        last = _Last(watcher)
        given = [context][: self.steps.first] + values
        if self.steps.source is None:
            return self.told(self.steps.function(*given))
        run = run_function(self.steps.function, self.steps.source, {}, last, given)
        if run.errors:
            raise run.errors[0][1]
        outputs = self.told(run.result)
        taken = {*leaves, *outputs, *(f"d{n}" for n in (*leaves, *outputs))}
        same = {id(v) for v in (*values, *outputs.values())}
        inner = {n: v for n, v in last.variables.items() if n not in taken and id(v) not in same}
        return {n: v for n, v in inner.items() if isinstance(v, Tensor | list | tuple | float)} | outputs

    def backward(self, given: Mapping[str, Any], watcher: Watcher) -> Run:
        """Run the backward with its statements seen, on the node that the Function's own call makes.

        It is run a hundred times on the same inputs: the call is made once, where a run leaves its node as it
        was, and another one gives the same.
        """
        inputs = given["inputs"]
        promoted = torch.ones((), dtype=torch.float64).float().dtype
        key = (inputs, torch.default_generator.get_state(), torch.get_default_dtype(), promoted)
        made: Made | None = self._kept.get("made")
        if made is None or not (is_equal(made.key[:2], key[:2]) and made.key[2:] == key[2:]):
            made = self._call(key)
        if self.whole:
            self._kept["made"] = made
            return self._run_whole(made, given, watcher)
        if made.node is None:
            raise TypeError(f"the outputs of {self.fn.__name__} are not those of one call")
        torch.default_generator.set_state(made.random)
        if "can be kept" not in self._kept:
            self._kept["can be kept"] = self._gives_the_same_again(made, given)
            made = self._call(key)
        run, context = self._run(made, given, watcher)
        self._kept["made"] = made if self._kept["can be kept"] and context.is_as_before() else None
        vars(context).update(_is_over=True)
        return run

    def backward_with(self, context: Context, given: Mapping[str, Any]) -> Run:
        """Run the backward on another context than its call has made."""
        made = self._call((given["inputs"], torch.default_generator.get_state()))
        return self._seen([context, *made.arriving(given["upstream"])], given["inputs"], Watcher())

    def _call(self, key: tuple[Any, ...]) -> Made:
        inputs, before, *_ = key
        torch.default_generator.set_state(before)
        given = map(copied, self.called.with_inputs(apart_from(inputs, self.apart)))
        try:
            with torch.enable_grad():
                result = self.fn.apply(*given)
        except Exception as error:  # the user's code may raise anything
            raise ForwardError(self.fn.__name__, error) from error
        own = {n: v for n, v in self.told(result).items() if isinstance(v.grad_fn, FunctionCtx)}
        nodes = {value.grad_fn for value in own.values()}
        places = {name: value.output_nr for name, value in own.items()}
        results = result if isinstance(result, tuple) else (result,)
        node = nodes.pop() if len(nodes) == 1 else None
        held = (each_tensor(inputs, leaf_like), *key[1:])
        return Made(held, results, node, places, torch.default_generator.get_state())

    def _run(self, made: Made, given: Mapping[str, Any], watcher: Watcher) -> tuple[Run, Kept]:
        context, arriving = Kept(made.node, made.results), made.arriving(given["upstream"])
        self.called.hold(given["inputs"])
        return self._seen([context, *arriving], given["inputs"], watcher), context

    def _seen(self, arguments: Sequence[Any], inputs: Mapping[str, Any], watcher: Watcher) -> Run:
        """Run the statements; what they add to the `.grad` of held parameters is returned for these too."""
        held = {name: inputs[name] for name in self.called.held}
        for parameter in held.values():
            parameter.grad = None
        run = run_function(self.fn.backward, self.source, {}, watcher, arguments)
        if isinstance(run.result, Mapping):
            run.result = _with_added(run.result, held)
        return run

    def _run_whole(self, made: Made, given: Mapping[str, Any], watcher: Watcher) -> Run:
        torch.default_generator.set_state(made.key[1])  # the forward is run again
        values = list(map(copied, self.called.with_inputs(apart_from(given["inputs"], self.apart))))
        context = Context([isinstance(v, Tensor) and v.requires_grad for v in values])
        arguments = [context, *values, *made.arriving(given["upstream"])]
        return self._seen(arguments, given["inputs"], watcher)

    def _gives_the_same_again(self, made: Made, given: Mapping[str, Any]) -> bool:
        """Tell whether a second run on one node gives what the first one gave."""
        found = []
        for _ in range(2):
            torch.default_generator.set_state(made.random)
            run, context = self._run(made, each_tensor(given, leaf_like), Watcher())
            found.append(run.result)
            if run.errors or not context.is_as_before():
                return False
        return is_equal(*found)

    def arriving(self, outputs: Iterable[str]) -> dict[str, str]:
        """Return what the backward calls the gradient that arrives at each output."""
        definition, of_a_class = self.source.definition, isinstance(self.fn.backward, MethodType)
        before = 1 + of_a_class + (len(self.called.arguments) if self.whole else 0)
        given = definition.args.args[before:] if definition is not None else []
        at = {name: self.places.get(name, len(given)) for name in outputs}
        return {name: given[place].arg for name, place in at.items() if place < len(given)}

    def hold(self, inputs: Mapping[str, Any]) -> None:
        """Let the module whose parameters are among the inputs hold them."""
        self.called.hold(inputs)

    def around(self) -> Namespace:
        """Return what the statements of the backward see besides their own variables."""
        return surroundings(self.fn.backward)

    def halfway(self, error: Exception) -> StatementError | None:
        """Return an exception of the backward with what had been assigned until then, and its line."""
        return StatementError.of(error, plain_function(self.fn.backward)[0].__code__, self.source)


def is_custom(fn: Any) -> TypeGuard[type[Function]]:
    """Tell whether something is a custom Function."""
    return isinstance(fn, type) and issubclass(fn, Function)


def opened(
    chosen: Pass,
    called: Called,
    reference: Callable[..., Any],
    told: Callable[..., dict[str, Tensor]],
    seed: int,
    apart: frozenset[str],
    *,
    helpers: bool = True,
    whole: bool = False,
) -> Pass:
    """Return the pass of a Function with its statements.

    Args:
        chosen: the pass as it is judged.
        called: the Function, and which inputs it is called with.
        reference: what gives the truth.
        told: gives the outputs of a call by name, from the names of its inputs and what it returned.
        seed: of the run on which the statements are held to what the Function itself gives.
        apart: the inputs with which it refuses to be differentiated.
        helpers: whether the functions that it calls are written out.
        whole: whether those of its forward are among those of the backward, for what they make for it alone.

    Raises:
        ClosedError: they cannot be had, or do otherwise.
    """
    inputs, fn = next(sets_of(chosen.inputs, dict, 1, seed)), called.fn
    source = source_of(fn.backward) if _is_plain(fn.backward) else None
    if source is None:
        raise ClosedError("the source of its backward cannot be read")
    if whole and (source := joined(fn, source, len(called.arguments))) is None:
        raise ClosedError("its forward makes nothing for its backward alone")
    gradients = [f"d{name}" for name in called.names]
    around = surroundings(fn.backward)

    def prepared(sources: Iterable[Source]) -> list[Source]:
        found = (in_order(with_upstreams_apart(s, around), gradients) for s in sources)
        return [s for s in found if s is not None]

    written = [inlined(source, around)] if helpers else []
    sources = prepared((*written, source))
    if not sources:
        raise ClosedError("what its backward returns is not one gradient after another")
    # what the forward makes is not yet multiplied with what arrives
    chosen = replace(chosen, arrives_as_ones=whole)
    try:
        truth = trace(chosen, inputs, torch.float64, seed)
    except Exception as error:  # the reference knows its own dtype only
        raise ClosedError("its reference does not run in float64") from error
    naming = partial(told, inputs)
    places = _places(called, naming, apart_from(backward_arguments(chosen, truth)["inputs"], apart), seed)
    detached = chosen.no_gradient | frozenset(truth.unreached)  # its reference may say it by a `detach`

    def tried(sources: Iterable[Source]) -> tuple[Pass, Mapping[str, Any]] | None:
        """Return the pass of the first of these sources that holds, and what its variables held."""
        for own, steps in itertools.product(sources, _forwards(fn, reference)):
            runner = Opened(called, naming, steps, own, detached, apart, places, whole)
            found = _opened_with(chosen, runner, truth)
            last = _Last(unseen := Unseen())
            if _is_true(found, inputs, truth, seed) and _does_the_same(found, inputs, seed, unseen, last):
                plain = straight(own, last.statements, last.variables)
                as_it_ran = _opened_with(chosen, replace(runner, source=plain, _kept={}), truth)
                is_alike = plain is not own and _does_the_same(as_it_ran, inputs, seed, unseen, last)
                return (as_it_ran if is_alike else found), last.variables
        return None

    found = tried(sources)
    if found is None:
        raise ClosedError("its statements, run one by one, do not give what it gives")
    if helpers:  # the methods of what it has kept are known now that it has run
        deeper = inlined(written[0], around, _objects(written[0], found[1]))
        if len(deeper.simple) > len(written[0].simple):
            found = tried(prepared([deeper])) or found
    return found[0]


def _objects(source: Source, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the variables of a source that hold functions, objects with methods or words, all the time."""
    assigned = [name for s in source.simple for name in writes_surely(s)]
    held = {n: v for n, v in variables.items() if n in source.local_names and assigned.count(n) <= 1}
    return {n: v for n, v in held.items() if is_object(v) or callable(v) or isinstance(v, str)}


def _places(called: Called, told: Outputs, inputs: Mapping[str, Any], seed: int) -> dict[str, int]:
    """Return where among all that a Function returns each of its outputs stands; nothing where it raises."""
    try:
        with running(torch.float64, seed, promote=True), torch.enable_grad():
            outputs = told(called.fn.apply(*map(copied, called.with_inputs(inputs))))
    except Exception:  # the user's code may raise anything
        return {}
    return {n: v.output_nr for n, v in outputs.items() if isinstance(v.grad_fn, FunctionCtx)}


def _forwards(fn: type[Function], reference: Callable[..., Any]) -> list[Forward]:
    candidates = [(fn.forward, int(has_context(fn)), True), (reference, 0, False)]
    found: list[Forward] = []
    for function, first, is_own in candidates:
        if (source := source_of(function) if _is_plain(function) else None) is not None:
            sources = (source, _followed(source) if is_own else None)
            found += [Forward(function, s, first, is_own) for s in sources if s is not None]
    return [*found, Forward(reference, None)]


def _followed(source: Source) -> Source | None:
    """Return a source whose statements autograd follows also where the user keeps it off by a `with`.

    A checkpoint and a reversible block compute under `torch.no_grad()` what they will compute again. None
    where nothing does.
    """
    changed = copy.deepcopy(source.definition)
    off = [(b, s) for b in blocks(changed.body) for s in b if _keeps_off(s)] if changed is not None else []
    for block, s in reversed(off):  # the inner ones first
        at = block.index(s)
        block[at : at + 1] = s.body
    return replace(source, statements=tuple(changed.body), definition=changed) if changed and off else None


def _keeps_off(statement: ast.stmt) -> bool:
    """Tell whether a statement is `with torch.no_grad():`."""
    items = statement.items if isinstance(statement, ast.With) else []
    called = [i.context_expr.func for i in items if isinstance(i.context_expr, ast.Call)]
    names = {f.attr if isinstance(f, ast.Attribute) else getattr(f, "id", "") for f in called}
    return len(called) == len(items) and bool(names) and names <= {"no_grad", "inference_mode"}


def _is_plain(function: Any) -> bool:
    return isinstance(getattr(function, "__func__", function), FunctionType)


def _opened_with(chosen: Pass, runner: Opened, truth: Trace) -> Pass:
    def backward(*given: Any, **named: Any) -> Any:
        try:
            return chosen.backward(*given, **named)
        except Exception as error:  # the user's code may raise anything
            raise runner.halfway(error) or error from error

    return replace(
        chosen,
        forward=runner.named,
        backward=backward,
        out=tuple(truth.outputs),
        names=runner.arriving(truth.outputs),
        forward_source=runner.steps.source,
        backward_source=runner.source,
        promotes=True,  # a line is told by its formula, whatever precision it asks for
        runner=runner,
    )


def _is_true(found: Pass, inputs: Mapping[str, Any], truth: Trace, seed: int) -> bool:
    """Tell whether a forward has the reference's outputs and gradients."""
    try:
        own = trace(found, inputs, torch.float64, seed, promote=True, upstream=truth.upstream)
    except Exception:  # the user's code may raise anything
        return False
    if not all(is_strided(v) for v in flatten(own.values).values() if isinstance(v, Tensor)):
        return False  # there is no way through its graph
    gradients = {n: own.gradients.get(n) for n in truth.wanted}
    return all(_is_one(own.outputs[n], t) for n, t in truth.outputs.items()) and all(
        _is_one(gradient, truth.gradients.get(n)) for n, gradient in gradients.items()
    )


def _is_one(own: Tensor | None, other: Tensor | None) -> bool:
    """Tell whether two tensors are the same but for constants of eight digits, which are no other formula."""
    if own is None or other is None:
        return own is other
    single = in_dtype(other, torch.float32)
    return close(own.detach().to(single), other.detach().to(single))


def _does_the_same(
    found: Pass, inputs: Mapping[str, Any], seed: int, unseen: Unseen, watcher: Watcher
) -> bool:
    """Tell whether the backward's statements give what the Function gives: its decorators may do more.

    Args:
        found: the pass.
        inputs, seed: of the run.
        unseen: what it notes of the run.
        watcher: lets it see that.

    Raises:
        ClosedError: a compiled kernel fills its gradients.
    """
    runner = found.runner
    assert runner is not None
    try:
        traced = trace(found, inputs, torch.float64, seed, promote=True)
        again = running(torch.float64, found.seed_of_backward(seed), promote=True)
        with again, torch.no_grad():
            run = runner.backward(backward_arguments(found, traced), watcher)
        again = running(torch.float64, found.seed_of_backward(seed), promote=True)
        with again, torch.no_grad():  # which draws the same numbers
            expected = _given(found, backward_arguments(found, traced))
    except StatementError:  # it raises there as well
        return True
    except Exception:  # the user's code may raise anything
        return False
    if unseen.sees_sparse_tensors:
        raise ClosedError("its backward works on sparse tensors")
    if (statement := unseen.first(flatten(run.result or {}).values())) is not None:
        line = ast.unparse(statement).splitlines()[0]
        raise ClosedError(f"`{line}` fills tensors other than by PyTorch's operations")
    given = {n: as_gradient(value) for n, value in flatten(run.result or {}).items()}
    wanted = {f"d{n}": as_gradient(expected.get(f"d{n}")) for n in traced.wanted}
    return all(_alike(given.get(n), value) for n, value in wanted.items())


def _with_added(returned: Mapping[str, Any], held: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return gradients with those that lie in the `.grad` of held parameters, which is taken from these."""
    found = dict(returned)
    for name, parameter in held.items():
        added, parameter.grad = parameter.grad, None
        there = found.get(f"d{name}")
        if added is not None:
            found[f"d{name}"] = added if there is None else there + added
    return found


def _given(found: Pass, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the gradients that a Function gives, also those that autograd refuses for their shape."""
    try:
        return flatten(found.backward(**arguments))
    except Halfway as refused:
        return flatten(refused.gradients)


def _alike(own: Tensor | None, given: Tensor | None) -> bool:
    """Tell whether two gradients are the same, as far as autograd leaves them as they are returned."""
    if own is None or given is None:
        return own is None or not bool(own.any())
    fits = own.shape == given.shape
    return not fits or close(own.nan_to_num(), given.nan_to_num())
