"""What PyTorch keeps to itself: the parts used here because they are quick, and the public way without each.

No other module touches one. Each is looked for once, by using it, when this module is imported; where a
release has moved it, the verdicts are the same, found more slowly, and mistakes are named less precisely.
`Tensor._version` is none of them: PyTorch's notes on in-place operations describe it.
"""

import contextlib
import importlib
import inspect
import operator
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence, Set
from functools import lru_cache, partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import FunctionCtx
from torch.autograd.graph import GradientEdge, Node

from backhand.checking.running.containers import flatten

Gradients = tuple[Tensor | None, ...]
_number: Callable[[Node], int] = operator.methodcaller("_sequence_nr")


def differentiated(
    outputs: Iterable[Tensor | GradientEdge],
    upstream: Iterable[Tensor],
    tensors: Iterable[Tensor],
    *,
    again: bool = False,
) -> Sequence[Tensor | None]:
    """Return the gradients of tensors, given those of the outputs; None where nothing depends on one.

    A sparse one is made dense, for it is judged by its numbers. They have a graph of their own where they are
    to be differentiated `again`.

    The engine is what `torch.autograd.grad` calls. That one looks at each tensor for half as long again, and
    with `grad_outputs` its first use imports SymPy, which takes a third of a second.
    """
    ends: Any = tuple(outputs)  # PyTorch's own annotation has one or the other, not both
    upstream, tensors = tuple(upstream), tuple(tensors)
    if ENGINE:
        found = _by_the_engine(ends, upstream, tensors, again)
    elif tensors:
        found = torch.autograd.grad(
            ends, tensors, upstream, retain_graph=True, create_graph=again, allow_unused=True
        )
    else:
        found = ()
    return [g if g is None or g.layout == torch.strided else g.to_dense() for g in found]


def _by_the_engine(
    outputs: Sequence[Tensor | GradientEdge],
    upstream: Sequence[Tensor],
    tensors: Sequence[Tensor],
    create_graph: bool = False,
) -> Sequence[Tensor | None]:
    keep_graph, allow_unused, accumulate = True, True, False
    return _engine.run_backward(
        outputs, upstream, keep_graph, create_graph, tensors, allow_unused, accumulate
    )


def step(node: Node, gradients: Gradients) -> Gradients:
    """Return what an operation hands on to its operands, given the gradients of its results.

    A small operation can be called in a tenth of the time that it takes to ask autograd for it.
    """
    custom = isinstance(node, FunctionCtx)  # that of a custom Function: its backward is the user's
    if not (APPLIED if custom else CALLED):
        return _asked_of_autograd(node, gradients)
    call: Any = node
    if custom:
        call = call.apply
        pairs = zip(gradients, results(node) or (), strict=True)
        gradients = tuple(_zeros(there) if g is None else g for g, there in pairs)
    found = call(*gradients)
    return found if isinstance(found, tuple) else (found,)


def _zeros(like: Any) -> Tensor:
    return torch.zeros(like.shape, dtype=like.dtype, device=like.device)


def _asked_of_autograd(node: Node, gradients: Gradients) -> Gradients:
    """Do one step in autograd's own pass, from the results to the operands, and listen."""
    given = {GradientEdge(node, i): g for i, g in enumerate(gradients) if g is not None}
    ends = dict.fromkeys(GradientEdge(n, i) for n, i in node.next_functions if n is not None)
    if not given or not ends:
        return (None,) * len(node.next_functions)
    heard: list[Gradients] = []
    hook = node.register_hook(lambda handed_on, _: heard.append(tuple(handed_on)))
    try:
        torch.autograd.grad(
            list(given), list(ends), list(given.values()), retain_graph=True, allow_unused=True
        )
    finally:
        hook.remove()
    return heard[0]


def backward_of(node: object, fn: object) -> Callable[..., Any] | None:
    """Return the backward of a custom Function as a callable of the gradients that arrive at its node.

    What it returns has not been looked at by autograd. Without a way to ask the node, it is known only for
    `fn`, the Function itself.
    """
    if not isinstance(node, FunctionCtx):
        return None
    if APPLIED:
        return node.apply  # type: ignore[attr-defined]
    if not isinstance(fn, type) or not issubclass(fn, Function):
        return None
    return partial(fn.backward if fn.vjp is Function.vjp else fn.vjp, node)


def nothing_arriving(node: Any) -> list[Tensor]:
    """Return zeros for each output of the call of a node; none where it does not tell of them."""
    told = getattr(node, "_input_metadata", ())
    return [torch.zeros(tuple(out.shape), dtype=out.dtype, device=out.device) for out in told]


def function_of(node: Any) -> type[Function]:
    """Return the custom Function of whose call this is the node."""
    return type(node)._forward_cls


def function_of_operator(fn: object) -> type[Function] | None:
    """Return an operator of `torch.library.custom_op` as a Function of the same formulas.

    None for anything else, and for an operator with no formula of its own or with keyword-only arguments.
    """
    parts = [getattr(fn, part, None) for part in ("_init_fn", "_setup_context_fn", "_backward_fn")]
    forward, setup, backward = parts
    if type(fn).__name__ != "CustomOpDef" or not isinstance(backward, FunctionType):
        return None
    if setup is not None and len(inspect.signature(setup).parameters) != len(("ctx", "inputs", "output")):
        return None
    formulas = {"forward": forward, "setup_context": setup or _nothing_is_kept, "backward": backward}
    name = getattr(forward, "__name__", type(fn).__name__)
    return type(name, (Function,), {part: staticmethod(own) for part, own in formulas.items()})


def _nothing_is_kept(ctx: Any, inputs: Any, output: Any) -> None:
    """Keep nothing for the backward."""


def put_tensor(owner: nn.Module, attribute: str, value: Tensor) -> None:
    """Let a module have another tensor for a parameter or buffer, listed as the last of them.

    `functional_call` writes into `_parameters` as well, but for the time of one call alone.
    """
    is_parameter = owner._parameters.pop(attribute, None) is not None
    setattr(owner, attribute, value)  # what has its weights a second time, as an LSTM, follows
    if is_parameter and attribute in owner.__dict__:  # no `nn.Parameter`
        owner._parameters[attribute] = owner.__dict__.pop(attribute)


def nodes_of(outputs: Iterable[Tensor]) -> Iterator[Any]:
    """Yield the operations on the way to these outputs, from their end."""
    stack: list[Any] = [t.grad_fn for t in outputs]
    seen = {None}
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        stack += [operand for operand, _ in node.next_functions]
        yield node


def custom_nodes(outputs: Iterable[Tensor]) -> Iterator[Any]:
    """Yield those that are calls of custom Functions."""
    return (node for node in nodes_of(outputs) if isinstance(node, FunctionCtx))


def saved_of_functions(outputs: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield the tensors that custom Functions on the way to these outputs have saved."""
    for node in custom_nodes(outputs):
        yield from (t for t in node.saved_tensors if isinstance(t, Tensor))


def results(node: Node) -> Sequence[Any] | None:
    """Return the shape, dtype and device of each of an operation's results; None where nothing tells.

    Without, what an operation hands on is asked of autograd, which sees to it that it fits.
    """
    return node._input_metadata if RESULTS else None  # type: ignore[attr-defined]


def in_order(nodes: Set[Node]) -> list[Node]:
    """Return operations, each after those whose results it takes: as they are numbered, or as they hang."""
    if NUMBERED:
        return sorted(nodes, key=_number)
    found: dict[Node, int] = {}
    for node in nodes:
        _number_up_to(node, found, nodes)
    return list(found)


def _number_up_to(node: Node, found: dict[Node, int], among: Container[Node] | None = None) -> None:
    """Number an operation, and before it all those on which it depends."""
    stack = [node]
    while stack:
        operands = [n for n, _ in stack[-1].next_functions if n is not None and n not in found]
        operands = operands if among is None else [n for n in operands if n in among]
        if operands and stack[-1] not in found:
            stack += reversed(operands)
        else:
            found.setdefault(stack.pop(), len(found))


class Clock:
    """When in a forward each operation ran: as autograd counts them, or by what each statement has added."""

    def __init__(self) -> None:
        self._found: dict[Node, int] = {}

    def now(self, variables: Mapping[str, Any]) -> int:
        """Return a time after all operations so far, and not after any that follows."""
        if NUMBERED:
            return _count()
        for value in flatten(variables).values():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                _number_up_to(value.grad_fn, self._found)
        return len(self._found)

    def of(self, node: Node) -> int:
        """Return when an operation ran."""
        return _number(node) if NUMBERED else self._found[node]


def saved_names(node: Node) -> Iterator[str]:
    """Yield the names of what an operation has saved, such as `self`; without, nobody replaces it."""
    if SAVED:
        yield from (name.removeprefix("_raw_saved_") for name in dir(node) if name.startswith("_raw_saved_"))


def saved(node: Node, name: str) -> Any:
    """Return what an operation has saved under a name; None where it has not, or does not tell."""
    return getattr(node, f"_saved_{name}", None) if SAVED else None


def raw_saved(node: Node, name: str) -> Any:
    """Return the box in which an operation keeps a tensor, which takes hooks."""
    return getattr(node, f"_raw_saved_{name}", None) if SAVED else None


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """Return all elements as one vector; what is private takes half of the time of `cat`."""
    return _flatten(tensors) if FLATTENED else torch.cat([t.reshape(-1) for t in tensors])


def _works(part: Callable[[Tensor, Tensor, Any], object]) -> bool:
    """Tell whether a part does what it is used for, on y = x * x and the operation that made it."""
    try:
        with torch.inference_mode(False), torch.enable_grad():
            x = torch.tensor([2.0, 3.0], device="cpu", requires_grad=True)
            y = x * x
            return bool(part(x, y, y.grad_fn))
    except Exception:  # whatever it raises, it is not what it was
        return False


def _engine_works(x: Tensor, y: Tensor, _: Any) -> bool:
    """Tell by what it refuses, before it starts, whether it takes these arguments: see below."""
    try:
        _by_the_engine((x.detach(),), (torch.ones_like(x),), (x,))
    except RuntimeError:  # the first needs no gradient; other arguments would be a TypeError
        return True
    return False


def _number_works(_: Tensor, y: Tensor, node: Any) -> bool:
    later: Any = y.exp().grad_fn
    return _number(node) < _number(later) < _count() <= _number(y.exp().grad_fn)  # type: ignore[arg-type]


def _results_work(_: Tensor, y: Tensor, node: Any) -> bool:
    (only,) = node._input_metadata
    return (tuple(only.shape), only.dtype, only.device) == (tuple(y.shape), y.dtype, y.device)


def _call_works(x: Tensor, y: Tensor, node: Any) -> bool:
    return all(torch.equal(handed_on, x) for handed_on in node(torch.ones_like(y)))


class _Triple(Function):
    """A custom Function to try the parts on."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 3 * x

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:  # type: ignore[override]
        return 3 * dy


def _apply_works(x: Tensor, _: Tensor, __: Any) -> bool:
    node: Any = _Triple.apply(x).grad_fn  # type: ignore[union-attr]
    handed_on = node.apply(torch.ones_like(x))
    return isinstance(node, FunctionCtx) and torch.equal(handed_on, torch.full_like(x, 3))


def _saved_works(x: Tensor, y: Tensor, node: Any) -> bool:
    node._raw_saved_self.register_hooks(lambda t: t, lambda t: t + 1)
    return torch.equal(node._saved_other, x) and torch.equal(node._saved_self, x + 1)


def _flatten_works(x: Tensor, y: Tensor, _: Any) -> bool:
    return torch.equal(_flatten([x, y]), torch.cat([x, y]))


def _named(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return None


# None of these may start autograd's engine. Where there is a GPU it keeps threads, and a process with them
# cannot fork one that differentiates: https://github.com/pytorch/pytorch/wiki/Autograd-and-Fork
_engine: Any = getattr(_named("torch.autograd", "Variable"), "_execution_engine", None)
_count = _named("torch._C._autograd", "_get_sequence_nr")  # how many operations have run so far
_flatten = _named("torch._utils", "_flatten_dense_tensors")

ENGINE = _works(_engine_works)
NUMBERED = _works(_number_works)
RESULTS = _works(_results_work)
CALLED = RESULTS and _works(_call_works)  # who calls must make what is handed on fit
APPLIED = RESULTS and _works(_apply_works)
SAVED = _works(_saved_works)
FLATTENED = _works(_flatten_works)


def _perhaps() -> bool:
    return True


transforming: Callable[[], bool] = _named("torch._C", "_are_functorch_transforms_active") or _perhaps
"""Tell whether a transform of `torch.func` is at work; where that cannot be told, take it to be.

The way for transforms is right for plain calls too, only slower.
"""

_unwrapped = _named("torch._C._functorch", "unwrap_if_dead")


_has_kernel = _named("torch._C", "_dispatch_has_kernel_for_dispatch_key")


def is_composite(operation: str) -> bool:
    """Tell whether an operation is made of others, whose schema need not hold; it may be, if unknown."""
    return _has_kernel is None or bool(_has_kernel(operation, "CompositeImplicitAutograd"))


def quickest(function: type[Function]) -> Callable[..., Any]:
    """Return how a custom Function is applied to `unwrapped` tensors where no transform is at work.

    What `Function.apply` does in Python on the way takes a third of its time: it binds defaults, which there
    are none of, and asks what `transforming` was asked already.
    """
    return super(Function, function).apply if QUICK else function.apply  # type: ignore[misc]


def _quick_works(x: Tensor, _: Tensor, __: Any) -> bool:
    made: Any = super(Function, _Triple).apply(_unwrapped(x))  # type: ignore[misc]
    return APPLIED and torch.equal(made.grad_fn.apply(torch.ones_like(x)), torch.full_like(x, 3))


QUICK = _works(_quick_works)

unwrapped: Callable[[Tensor], Tensor] = _unwrapped if QUICK else lambda tensor: tensor
"""Return the tensor itself for one that was left over from a transform which is done."""


@lru_cache(maxsize=1)
def numpy_layer() -> Any | None:
    """Return torch's own NumPy, on which autograd follows code over arrays; None where there is none.

    Each call of its functions asks for their signature, which takes longer to make than most results: they
    are given it.
    """
    try:
        layer = importlib.import_module("torch._numpy")  # at its first use: torch's users do without
    except ImportError:
        return None
    for function in filter(None, (getattr(f, "__wrapped__", None) for f in vars(layer).values())):
        with contextlib.suppress(AttributeError, TypeError, ValueError):  # of another kind
            function.__signature__ = inspect.signature(function)
    return layer


def is_of_the_layer(value: object) -> bool:
    """Tell whether a value is an array, or a scalar, of that layer."""
    return type(value).__module__.startswith("torch._numpy")


@contextlib.contextmanager
def numpy_defaults() -> Iterator[None]:
    """Tell the layer NumPy's default dtypes: to ask for them it imports the compiler, which takes seconds."""
    inner = _named("torch._numpy", "_dtypes_impl")
    before = getattr(inner, "_default_dtypes", ...)
    if before is None:
        inner._default_dtypes = inner.DefaultDTypes(torch.float64, torch.complex128, torch.int64)
    try:
        yield
    finally:
        if before is None:
            inner._default_dtypes = None


def before_compiling(function: Any) -> Any:
    """Return what `torch.jit.script` or `torch.compile` has made a function of; else the same.

    Without it what was compiled is not looked into.
    """
    return inspect.getattr_static(function, "_torchdynamo_inline", function)
