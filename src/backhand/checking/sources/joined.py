"""A custom Function's forward and backward as one function, for gradients that are made in the forward.

A loss may compute its gradients beside itself, keep them with `ctx.save_for_backward`, and do no more in its
backward than to multiply them with what arrives. Their lines are those of the forward.
"""

import ast
import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from backhand.checking.running.inlining import ends_below
from backhand.checking.running.program import Source, plain_function, source_of
from backhand.checking.running.returning import blocks
from backhand.checking.running.statements import RIGHT_AS_IT_IS, reads, simple_statements, writes
from backhand.checking.running.taken import Taken
from backhand.checking.sources.calling import has_context

SAVES, SAVED = "save_for_backward", "saved_tensors"


def joined(fn: type[Function], backward: Source, count: int) -> Source | None:
    """Return a source that does what the forward does, and then what the backward does.

    Its arguments are the context, those of the forward, and what arrives. What the one keeps on the context
    and the other takes from it is a variable.

    Args:
        fn: the Function.
        backward: the source of its backward.
        count: how many arguments it is called with.

    Returns:
        None where nothing is made in the forward for the backward alone, or where the two cannot be one.
    """
    forward = source_of(fn.forward)
    if not has_context(fn) or forward is None or forward.definition is None or backward.definition is None:
        return None
    args, end = forward.definition.args, copy.deepcopy(backward.definition)
    first, *parameters = [a.arg for a in (*args.posonlyargs, *args.args)][len(owner(fn.forward)) :]
    if not _is_beside(fn, forward, backward) or args.vararg or args.kwonlyargs or len(parameters) < count:
        return None
    definition = copy.deepcopy(forward.definition)
    simple = simple_statements(definition.body)
    beside = aside(simple, first)
    if not beside or not ends_below(definition.body, False):
        return None
    for s in simple:
        setattr(s, RIGHT_AS_IT_IS, s not in beside)
    taken, at = Taken(set(backward.local_names), dict(backward.as_written)), len(owner(fn.backward))
    context = end.args.args[at].arg
    names = {n: taken.another(n) for n in sorted(forward.local_names - {first})} | {first: context}
    defaults = dict(zip(reversed(parameters), reversed(args.defaults), strict=False))
    begun = [ast.Assign([ast.Name(n, ast.Store())], defaults[n]) for n in parameters[count:]]
    body = [*(ast.copy_location(s, definition) for s in begun), *definition.body]
    _rename(body, names, taken.another("result"))
    _Kept(context, taken).visit(whole := ast.Module([*body, *end.body], []))
    end.body = ast.fix_missing_locations(whole).body
    end.args.args[at + 1 : at + 1] = [ast.arg(names[n], None) for n in parameters[:count]]
    return taken.rewritten(backward, end)


def _is_beside(fn: type[Function], forward: Source, backward: Source) -> bool:
    """Tell whether a forward sees around it what its backward sees."""
    functions = [plain_function(f)[0] for f in (fn.forward, fn.backward)]
    same = functions[0].__globals__ is functions[1].__globals__ and forward.file == backward.file
    return same and set(forward.free_names) <= set(backward.free_names)


def _rename(body: list[ast.stmt], names: Mapping[str, str], result: str) -> None:
    """Give the variables of statements other names, and what they return a name."""
    for node in (n for s in body for n in ast.walk(s)):
        if isinstance(node, ast.Name):
            node.id = names.get(node.id, node.id)
    for block in blocks(body):
        for i, s in enumerate(block):
            if isinstance(s, ast.Return) and s.value is not None:
                block[i] = ast.copy_location(ast.Assign([ast.Name(result, ast.Store())], s.value), s)
                setattr(block[i], RIGHT_AS_IT_IS, getattr(s, RIGHT_AS_IT_IS, False))


def lines_of(forward: Any) -> range:
    """Return the numbers of the lines of a function."""
    source = source_of(forward)
    return range(0) if source is None else range(source.first, source.first + len(source.lines))


def owner(method: Any) -> tuple[Any, ...]:
    """Return the class to which a method is bound, if it is."""
    return plain_function(method)[1]


def aside(found: Sequence[ast.stmt], context: str) -> set[ast.stmt]:
    """Return the statements of a forward that compute what it keeps, and of which its result is not made."""
    needed = _read_by(found, {n for s in found if isinstance(s, ast.Return) for n in reads(s)}, context)
    kept = _read_by(found, {n for s in found if context in reads(s) for n in reads(s)} - {context}, context)
    computes = (s for s in found if isinstance(s, ast.Assign | ast.AugAssign) and context not in reads(s))
    return {s for s in computes if writes(s) & kept and not writes(s) & needed}


def _read_by(found: Sequence[ast.stmt], names: set[str], context: str) -> set[str]:
    """Return the variables of which some are made, with these."""
    before: set[str] = set()
    while names != before:
        before = names
        makers = (s for s in found if writes(s) & before and context not in writes(s))
        names = before.union(*(reads(s) for s in makers))
    return names


class _Kept(ast.NodeTransformer):
    """Puts variables in the place of what is kept on a context."""

    def __init__(self, context: str, taken: Taken):
        self._context, self._taken = context, taken
        self._names: dict[str, str] = {}
        self._saved: list[str] = []

    def visit_Expr(self, node: ast.Expr) -> Any:
        """Let each tensor that is saved be a variable."""
        call = node.value
        method = call.func if isinstance(call, ast.Call) else None
        if not isinstance(method, ast.Attribute) or not self._is_of(method) or method.attr != SAVES:
            return self.generic_visit(node)
        assert isinstance(call, ast.Call)
        if any(isinstance(saved, ast.Starred) for saved in call.args):
            name = self._named(SAVED)
            return _handed([(ast.Name(name, ast.Store()), ast.Tuple(call.args, ast.Load()))], node)
        self._saved = [self._named(f"{SAVED}[{i}]") for i, _ in enumerate(call.args)]
        names = [ast.Name(n, ast.Store()) for n in self._saved]
        return _handed([*zip(names, map(self.visit, call.args), strict=True)], node)

    def visit_Assign(self, node: ast.Assign) -> Any:
        """Let what is saved be taken tensor by tensor."""
        target, value = node.targets[0], node.value
        is_saved = isinstance(value, ast.Attribute) and self._is_of(value) and value.attr == SAVED
        if (
            not is_saved
            or not isinstance(target, ast.Tuple | ast.List)
            or len(target.elts) != len(self._saved)
        ):
            found = self.generic_visit(node)
            assert isinstance(found, ast.Assign)
            if isinstance(found.targets[0], ast.Name) and found.targets[0].id in self._names.values():
                setattr(found, RIGHT_AS_IT_IS, isinstance(found.value, ast.Name))
            return found
        names = [ast.Name(n, ast.Load()) for n in self._saved]
        return _handed([*zip(target.elts, names, strict=True)], node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        """Let what is kept under a name be a variable; what PyTorch puts there stays."""
        if not self._is_of(node) or node.attr == "needs_input_grad":
            return self.generic_visit(node)
        if node.attr == SAVED and self._saved:
            names: list[ast.expr] = [ast.Name(n, ast.Load()) for n in self._saved]
            return ast.copy_location(ast.Tuple(names, ast.Load()), node)
        if hasattr(FunctionCtx, node.attr) and node.attr != SAVED:
            return node
        return ast.copy_location(ast.Name(self._named(node.attr), node.ctx), node)

    def _named(self, place: str) -> str:
        if place not in self._names:
            name = self._taken.another("_".join(re.findall(r"\w+", f"{self._context}_{place}")))
            self._taken.as_written[name] = f"{self._context}.{place}"
            self._names[place] = name
        return self._names[place]

    def _is_of(self, node: ast.Attribute) -> bool:
        return isinstance(node.value, ast.Name) and node.value.id == self._context


def _handed(pairs: Sequence[tuple[ast.expr, ast.expr]], node: ast.stmt) -> list[ast.stmt]:
    """Return the statements that only give what there is other names, in the place of one."""
    found = [ast.Assign([target], value) for target, value in pairs]
    for s in found:
        setattr(s, RIGHT_AS_IT_IS, isinstance(s.value, ast.Name))
    return [ast.fix_missing_locations(ast.copy_location(s, node)) for s in found]
