"""Explain a gradient by a small edit of its own statements that makes it right.

The inverse of a slip of the pen: a sign, a name, an axis, a transpose, a constant, a factor. An edit counts
only if the edited statements, run on the variables of that moment, give autograd's gradient on every draw.
"""

import ast
import itertools
import warnings
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from backhand.checking.mistakes.edits import accumulating, dropped, edits_of, only_terms
from backhand.checking.mistakes.finding import Finding
from backhand.checking.mistakes.places import Edit
from backhand.checking.running.executing import Namespace
from backhand.checking.running.flattening import as_gradient, flatten, root
from backhand.checking.running.source import Source, writes, writes_surely
from backhand.checking.verdicts.comparing import close

TRIES = 1500  # edits after which the search is given up; the mistake is then `unexplained`


@dataclass
class Bench:
    """One draw's variables at the moment when a gradient was complete, and what it should have been."""

    namespace: Namespace
    expected: Tensor


def by_edit(
    source: Source,
    path: str,
    statements: Sequence[ast.stmt],
    gradients: Mapping[str, str],
    benches: Sequence[Bench],
    *,
    only: str = "",
) -> Finding | None:
    """Find an edit of the statements that write a gradient after which it is right.

    Args:
        source: the backward.
        path: where the gradient lies, as an expression over the backward's variables.
        statements: those that write it.
        gradients: variable to tensor name, of the variables that hold gradients.
        benches: at least one.
        only: try only to leave out a term (`repeated`), or only to add instead of assign (`overwritten`).
    """
    part = slice_of(source, path, statements, gradients)
    if not part:
        return None
    namespace, local_names = benches[0].namespace, source.local_names
    kinds: list[Generator[Edit, None, None]]
    if only == "repeated":
        kinds = [dropped(part), *(only_terms(s, namespace, gradients, local_names) for s in part)]
    elif only == "overwritten":
        kinds = [accumulating(part, root(path))]
    else:
        kinds = [edits_of(s, namespace, gradients, local_names) for s in part]
    tries = itertools.count()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for edits in kinds:
            for edit in edits:
                found = all(_is_right(part, path, bench) for bench in benches)
                if found or next(tries) == TRIES:
                    edits.close()  # puts the statement back as it was
                    return Finding(edit.kind, edit.detail, edit.words) if found else None
    return None


def slice_of(
    source: Source, path: str, statements: Sequence[ast.stmt], gradients: Mapping[str, str]
) -> list[ast.stmt]:
    """Return the top-level statements that write a gradient, and those that make the temporaries they use."""
    inner = set(map(id, statements))
    chosen = {i for i, top in enumerate(source.statements) if any(id(n) in inner for n in ast.walk(top))}
    chosen = {i for i in chosen if not isinstance(source.statements[i], ast.Return)}
    variable = root(path)
    last = max(chosen, default=-1)
    chosen |= {i for i in range(last) if variable in writes_surely(source.statements[i])}
    return source.with_temporaries(chosen, set(gradients) | {variable})


def _is_right(part: Sequence[ast.stmt], path: str, bench: Bench) -> bool:
    namespace = dict(bench.namespace)
    namespace.pop(root(path), None)  # what it was before is no part of what it should be
    for statement in part:
        for name in writes(statement):
            if isinstance(namespace.get(name), Tensor):
                namespace[name] = namespace[name].clone()
    try:
        code = compile(ast.Module(list(part), []), "<edited>", "exec")
        exec(code, namespace)
    except Exception:  # an edit may well make nonsense
        return False
    value = as_gradient(_at(namespace, path))
    return value is not None and close(value, bench.expected)


def _at(namespace: Namespace, path: str) -> Any:
    name = root(path)
    return flatten({name: namespace[name]}).get(path) if name in namespace else None
