"""What a drawing of a report needs besides its numbers: the code, the flow, and every tensor pooled small."""

import ast
from collections.abc import Iterator, Mapping
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from backhand.checking.report import Code, Numbers, Picture, Pictures, Sheet
from backhand.checking.running.complexes import as_reals
from backhand.checking.running.graph import Trace
from backhand.checking.running.program import Source
from backhand.checking.verdicts.comparing import worst_element

ROWS, COLUMNS = 10, 18
LECTURE = 1e-5, 1e-8  # rtol and atol of `torch.allclose`


class Gallery(Mapping[str, Pictures]):
    """The pictures by tensor name, each drawn when it is first looked at; no graph is kept for them."""

    def __init__(
        self, values: Mapping[str, Tensor], hand: Mapping[str, Tensor], autograd: Mapping[str, Tensor]
    ):
        self._tensors = {n: (v.detach(), hand.get(n), autograd.get(n)) for n, v in values.items()}
        self._drawn: dict[str, Pictures] = {}

    def __getitem__(self, name: str) -> Pictures:
        if name not in self._drawn:
            self._drawn[name] = pictures(*self._tensors[name])
        return self._drawn[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __reduce__(self) -> tuple[type, tuple[dict[str, Pictures]]]:
        return dict, (dict(self),)  # sent elsewhere as pictures, not as tensors


def sheet_of(
    forward: Source | None, backward: Source | None, judged: Trace, shown: Trace, user: Mapping[str, Tensor]
) -> Sheet:
    """Return what a drawing needs of one draw.

    Args:
        forward, backward: the user's code, where it is at hand.
        judged: the run of the forward that was judged, which knows which tensor feeds which.
        shown: the run in the user's dtype, with autograd's gradients.
        user: the hand-written gradients in that dtype, by tensor name.
    """
    return Sheet(
        forward=code_of(forward),
        backward=code_of(backward),
        outputs=tuple(judged.outputs),
        feeds={name: judged.consumers(name) for name in judged.tensors},
        pictures=Gallery(shown.tensors, user, shown.gradients),
    )


@lru_cache(maxsize=256)
def code_of(source: Source | None) -> tuple[Code, ...]:
    """Return the statements of a source, without its docstring and its `return`."""
    if source is None:
        return ()
    found: list[Code] = []
    _add(source, source.statements, 0, found)
    return tuple(found)


def _add(
    source: Source, statements: tuple[ast.stmt, ...] | list[ast.stmt], depth: int, found: list[Code]
) -> None:
    for s in statements:
        if isinstance(s, ast.Return) or (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant)):
            continue
        inner = [getattr(s, part, []) for part in ("body", "orelse", "finalbody")]
        simple = isinstance(s, ast.FunctionDef | ast.ClassDef) or not any(inner)
        last = (s.end_lineno or s.lineno) if simple else max(s.lineno, inner[0][0].lineno - 1)
        line = source.line(s.lineno)
        if not found or (found[-1].number, found[-1].file) != (line.number, line.file):  # `a = 1; b = 2`
            lines = tuple(source.text(number) for number in range(s.lineno, last + 1))
            found.append(Code(line.number, _dedented(lines), depth, line.file))
        if not simple:
            for block in inner:
                _add(source, block, depth + 1, found)


def _dedented(lines: tuple[str, ...]) -> str:
    """Return lines without the indentation of the first one."""
    indent = len(lines[0]) - len(lines[0].lstrip()) if lines else 0
    return "\n".join(line[min(indent, len(line) - len(line.lstrip())) :].rstrip() for line in lines)


def pictures(value: Tensor, hand: Tensor | None, autograd: Tensor | None) -> Pictures:
    """Return the pictures of one tensor."""
    value = as_reals(value)
    hand, autograd = (as_reals(t) if t is not None else None for t in (hand, autograd))
    difference, found = None, None
    if hand is not None and autograd is not None and hand.shape == autograd.shape and hand.numel():
        difference = pooled(hand.detach().double() - autograd.detach().double())
        found = numbers(hand, autograd)
    return Pictures(
        pooled(value),
        pooled(hand) if hand is not None else None,
        pooled(autograd) if autograd is not None else None,
        difference,
        found,
    )


def numbers(hand: Tensor, autograd: Tensor) -> Numbers:
    """Compare two gradients of one shape at the tolerance that the lecture uses."""
    a, b = hand.detach().double(), autograd.detach().double()
    rtol, atol = LECTURE
    differing = int((~torch.isclose(a, b, rtol=rtol, atol=atol, equal_nan=True)).sum())
    index = worst_element(a, b)
    return Numbers(differing, a.numel(), index, float(b[index]), float(a[index]), rtol, atol)


def pooled(tensor: Tensor) -> Picture | None:
    """Return a tensor as a small matrix: the last axis is the columns, all others are the rows.

    >>> pooled(torch.tensor([1.0, -2.0]))
    ((1.0, -2.0),)
    """
    if not tensor.numel():
        return None
    flat = tensor.detach().to("cpu", torch.float64).reshape(-1, tensor.shape[-1] if tensor.dim() else 1)
    flat = flat.contiguous()
    height, width = min(flat.shape[0], ROWS), min(flat.shape[1], COLUMNS)
    if flat.shape != (height, width):
        size = flat.abs().nan_to_num(nan=float("inf"))
        at = F.adaptive_max_pool2d(size[None], (height, width), return_indices=True)[1]
        flat = flat.flatten()[at[0].flatten()].view(height, width)
    return tuple(tuple(row) for row in flat.tolist())
