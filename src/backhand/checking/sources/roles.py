"""What a module has over NumPy: which values are layers or models, which function is whose forward."""

import ast
import contextlib
import dis
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from types import FunctionType
from typing import Any

from backhand.checking.running.program import parameters_of, source_of
from backhand.checking.running.returning import returns
from backhand.checking.sources.courses import word
from backhand.checking.sources.returned import keys_put, tensor_named

# The method of a class that trains in one, without its step; see `steps`.
STEP = "__step__"
_judging: ContextVar[bool] = ContextVar("what is called is called by the checker", default=False)


@contextlib.contextmanager
def judging() -> Iterator[None]:
    """Tell those who watch for the user's calls that what is called meanwhile is none of them."""
    token = _judging.set(True)
    try:
        yield
    finally:
        _judging.reset(token)


def is_judging() -> bool:
    """Tell whether what is called is called by the checker, not by the user."""
    return _judging.get()


# What a backward's name has, and what its forward's has there.
_PARTS = (("backward", "forward"), ("bprop", "fprop"), ("bwd", "fwd"), ("back", "forward"))
# The same where the two are not called alike, as `feedforward` and `backprop`.
_ON = "feed_?forward|forward(_?(prop(agat(e|ion))?|pass|feed))?|f_?prop"
_BACK = "back_?prop(agat(e|ion))?|backward(_?(prop(agat(e|ion))?|pass))?|b_?prop"


def methods_among(names: Iterable[str]) -> tuple[str, str] | None:
    """Return which of some names are those of a forward and its backward, the plainest of several.

    >>> methods_among(["backward_pass", "name", "forward_pass"]), methods_among(["__call__", "gradient"])
    (('forward_pass', 'backward_pass'), ('__call__', 'gradient'))
    """
    names = {n for n in names if not n.startswith("test")}
    pairs = [(n.replace(back, on, 1), n) for n in names for back, on in _PARTS if back in n]
    pairs += [("__call__", "gradient")]  # an activation, and its derivative
    found = [pair for pair in pairs if names.issuperset(pair)]
    if not [pair for pair in found if pair[0] != "__call__"]:
        on, back = (sorted(n for n in names if re.fullmatch(what, n.lower())) for what in (_ON, _BACK))
        found = [(f, b) for f in on for b in back] or found
    return min(found, key=lambda pair: (pair[0] == "__call__", len(pair[0]), pair)) if found else None


def methods_of(layer: type) -> tuple[str, str] | None:
    """Return what a class's forward and backward are called, if it has both.

    A `__call__` that leaves something on its object beside what the forward does is how that is meant to be
    called.
    """
    functions = {n: f for n in dir(layer) if isinstance(f := getattr(layer, n, None), FunctionType)}
    found = methods_among(functions)
    called = functions.get("__call__")
    if found is None or called is None or found[0] not in called.__code__.co_names:
        return found
    kinds, others = ([p.kind for p in parameters_of(f).values()] for f in (called, functions[found[0]]))
    if kinds != others:
        return found  # what its `*args` are, the forward says
    stores = any(i.opname == "STORE_ATTR" for i in dis.get_instructions(called))
    return ("__call__", found[1]) if stores else found


def methods_used(layer: type, names: Iterable[str]) -> list[FunctionType]:
    """Return some methods of a class, with those that they mention."""
    found: dict[str, FunctionType] = {}
    left = [*names]
    while left:
        name = left.pop()
        method = getattr(layer, name, None)
        if name not in found and isinstance(method, FunctionType):
            found[name] = method
            left += method.__code__.co_names
    return list(found.values())


def is_layer(value: object) -> bool:
    """Tell whether a value is a class with a forward and a backward of its own, and none of torch."""
    methods = methods_of(value) if isinstance(value, type) else None
    if methods is None or any(base.__module__.startswith("torch") for base in value.__mro__):  # type: ignore[union-attr]
        return False
    # an interface whose methods do nothing but raise is there to be derived from
    return not any(_only_raises(getattr(value, name)) for name in methods)


def is_static(layer: type) -> bool:
    """Tell whether a class's two functions need no object of it."""
    methods = methods_of(layer) or ()
    return all(isinstance(inspect.getattr_static(layer, n), staticmethod) for n in methods)


def costs_among(functions: Mapping[str, Any]) -> list[str]:
    """Return the names of the functions that give the cost of an output beside its labels."""
    named = [n for n in functions if re.search("cost|loss", n.lower())]
    others = "back|grad|deriv|prime|accuracy|plot|history"
    return [n for n in named if not re.search(others, n.lower()) and asks_for_labels(functions[n])]


def asks_for_labels(function: Callable[..., Any]) -> bool:
    """Tell whether a function has a parameter for labels."""
    return any(word(p) == "y" for p in parameters_of(function))


def is_model(value: object) -> bool:
    """Tell whether a value is a class that gives a loss and its gradients, and none of torch."""
    if not isinstance(value, type) or any(base.__module__.startswith("torch") for base in value.__mro__):
        return False
    calls = calls_of(value)
    return calls is not None and not any(_only_raises(getattr(value, name)) for name in calls)


def calls_of(model: type) -> tuple[str, str] | None:
    """Return which of a class's methods give the loss, and which the gradients; None if it is no model.

    >>> class Model:
    ...     def loss(self, x, y):
    ...         loss = ((self.w * x - y) ** 2).sum()
    ...         return loss, {}
    >>> calls_of(Model)
    ('loss', 'loss')
    """
    if methods_of(model) is not None:
        return None
    if hasattr(model, STEP):
        return STEP, STEP
    methods = {n: getattr(model, n) for n in dir(model) if callable(getattr(model, n, None)) and n[0] != "_"}
    sources = {
        n: source_of(f) for n, f in methods.items() if re.search("loss|cost|grad|prime|deriv", n.lower())
    }
    return calls_among({n: s.definition for n, s in sources.items() if s is not None and s.definition})


def calls_among(methods: Mapping[str, ast.FunctionDef]) -> tuple[str, str] | None:
    """Return the same of a class's methods as they stand in the text."""
    losses = [n for n in methods if re.search("loss|cost", n.lower())]
    derived = "_?(prime|grad(ient)?s?|deriv(ative)?s?)"
    beside = [(n, m) for n in losses for m in methods if re.fullmatch(re.escape(n) + derived, m, re.I)]
    if beside:
        return beside[0]
    for name in losses:
        tuples = [r.value for r in returns(methods[name].body) if isinstance(r.value, ast.Tuple)]
        if not _reads_its_object(methods[name]):
            continue  # a cost of what it is given, with the gradient of that
        if "grad" in name or any(len(t.elts) > 1 for t in tuples):
            return name, name
    gradient = next((n for n in methods if n in ("gradient", "gradients", "grad")), None)
    return (losses[0], gradient) if losses and gradient is not None else None


def _reads_its_object(method: ast.FunctionDef) -> bool:
    owner = method.args.args[0].arg if method.args.args else ""
    nodes = [n for n in ast.walk(method) if isinstance(n, ast.Attribute)]
    return owner != "self" or any(getattr(n.value, "id", "") == owner for n in nodes)


def _only_raises(function: Any) -> bool:
    source = source_of(function)
    statements = source.statements if source is not None else ()
    # besides a docstring, or an ellipsis
    body = [s for s in statements if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
    return source is not None and all(isinstance(s, ast.Raise | ast.Pass) for s in body)


def forward_of(backward: str, functions: Iterable[str]) -> str | None:
    """Return which of some functions is the forward of a backward, by their names.

    >>> forward_of("conv_backward_naive", ["conv_forward_naive", "relu"])
    'conv_forward_naive'
    >>> forward_of("relu_backward", ["relu"]), forward_of("poolBackward", ["pool", "conv"])
    ('relu', 'pool')
    """
    functions = list(functions)
    exact = backward.replace("backward", "forward").replace("Backward", "Forward")
    shorter = exact
    while shorter.partition("forward")[2]:  # `norm_backward_alt` is another one of `norm_forward`
        if shorter in functions:
            return shorter
        shorter = shorter.rpartition("_")[0]
    alike = [name for name in functions if shorter and shorter != "forward" and name.startswith(shorter)]
    plain = re.sub("[bB]ackward", "", backward).strip("_")
    return next((name for name in (exact, shorter, *alike, plain) if name in functions), None)


def returns_its_gradients(function: Callable[..., Any]) -> bool:
    """Tell whether a function returns a value, such as a loss, and gradients of what it reads with it."""
    source = source_of(function)
    return source is not None and source.definition is not None and gives_gradients(source.definition)


def gives_gradients(function: ast.FunctionDef) -> bool:
    """Tell by its text whether a function returns a loss, and gradients with it that it makes.

    They are those of its parameters, or of global variables that it reads.

    >>> text = "def step(xs, h):\\n  y = W @ h\\n  dW = np.outer(y, h)\\n  return y.sum(), dW, y[-1]"
    >>> gives_gradients(ast.parse(text).body[0])
    True
    """
    names = [n for n in ast.walk(function) if isinstance(n, ast.Name)]
    made = {n.id for n in names if isinstance(n.ctx, ast.Store)}
    parameters = {a.arg for a in ast.walk(function) if isinstance(a, ast.arg)}
    given = {n.lower() for n in parameters | ({n.id for n in names} - made)}
    for returned in returns(function.body):
        elements = returned.value.elts if isinstance(returned.value, ast.Tuple | ast.List) else []
        first, *parts = elements or [None]
        named = [p.id for p in parts if isinstance(p, ast.Name) and p.id in made]
        if any({tensor.lower() for tensor in tensor_named(name)} & given for name in named):
            return True
        # `loss, gradCenterVec`, of an input that is called otherwise; `loss, grads`, which it fills by keys
        loss = re.match("loss|cost", getattr(first, "id", ""))
        grads = [n for n in named if re.match("grad", n)]
        if loss and any(tensor_named(n) or keys_put(function.body, n) for n in grads):
            return True
    return False
