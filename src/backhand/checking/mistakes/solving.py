"""What a line needs, solved of its values instead of tried: a constant, a factor, a term, another name."""

import ast
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from backhand.checking.mistakes.branches import constant_ratio
from backhand.checking.mistakes.edits import Edit, Place, holds_tensor
from backhand.checking.mistakes.finding import Finding
from backhand.checking.mistakes.neighbourhood import EXACT
from backhand.checking.mistakes.workbench import Focus
from backhand.checking.running.program import Namespace
from backhand.checking.verdicts.comparing import close

UNKNOWN = "__unknown__"  # a factor to be found
# What one tensor may be to a value that lacks it.
LACKING: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "the factor {} is missing": torch.mul,
    "the term {} is missing": torch.add,
    "the term -{} is missing": torch.sub,
}


def lacks(focus: Focus, put: object = None) -> str | None:
    """Return in words what the value lacks on every bench: a constant, a factor or a term.

    It is not the tensor that an edit has put there: that would take it back.
    """
    k = _factor(focus)
    if k is not None and abs(k - 1) > EXACT:
        return f"it is {k:.6g} times what it should be"
    benches = focus.program.benches
    values = [focus.value(i) for i in range(len(benches))]
    pairs = [(v, b.expected) for v, b in zip(values, benches, strict=True) if v is not None]
    if len(pairs) < len(benches) or any(value.shape != right.shape for value, right in pairs):
        return None
    for words, lacking in LACKING.items():
        for name in _giving(focus, lambda held, made=lacking: made(pairs[0][0], held)):
            others = (_read(name, b.namespace) for b in benches)
            made = [(lacking(v, o), r) for o, (v, r) in zip(others, pairs, strict=True) if o is not None]
            if name != put and len(made) == len(pairs) and all(close(*each) for each in made):
                return words.format(name)
    return None


def _read(text: str, namespace: Namespace) -> Tensor | None:
    """Return the floating-point tensor that an expression reads; None where there is none."""
    try:
        value = eval(text, dict(namespace))
    except Exception:  # the index may lie outside
        return None
    return value if holds_tensor(value) else None


def fitting(focus: Focus, place: Place) -> list[str] | None:
    """Return the tensors that give the right value of the first bench in a place; None if all may.

    Where the value is a multiple of what stands there, and something besides, element by element, those
    with 0 and with 1 in that place tell it for all others.
    """
    right = focus.program.benches[0].expected
    with Edit(place, ast.Name(UNKNOWN, ast.Load()), Finding("")).made():
        made = [focus.value(0, **{UNKNOWN: torch.full_like(right, k)}) for k in (0.0, 1.0, 2.0)]
    nothing, once, twice = made
    if nothing is None or once is None or twice is None or nothing.shape != right.shape:
        return None
    if once.shape != right.shape or twice.shape != right.shape or not close(twice, 2 * once - nothing):
        return None
    return _giving(focus, lambda held: nothing + (once - nothing) * held)


def constant(focus: Focus) -> float | None:
    """Return what UNKNOWN must be, from the values with 1 and with 2 there, if it holds everywhere."""
    expected = focus.program.benches[0].expected
    once, twice = (focus.value(0, **{UNKNOWN: k}) for k in (1.0, 2.0))
    if once is None or twice is None or once.shape != expected.shape or twice.shape != once.shape:
        return None
    more = constant_ratio(expected - once, twice - once)
    if more is None or more == 0:
        return None
    k = float(round(1 + more)) if abs(1 + more - round(1 + more)) < EXACT else 1 + more
    return k if focus.is_right(**{UNKNOWN: k}) else None


def _factor(focus: Focus) -> float | None:
    """Return by what constant the value is off, the same on every bench; None if it is by more."""
    found: float | None = None
    for i, bench in enumerate(focus.program.benches):
        value = focus.value(i)
        if value is None or value.shape != bench.expected.shape or value.numel() < 2:
            return None
        if not bool(value.any() or bench.expected.any()):
            continue  # any factor of zeros is as good
        k = constant_ratio(value, bench.expected)
        if not k or not math.isfinite(k) or (found is not None and abs(k - found) > EXACT * abs(found)):
            return None
        if not close(value, k * bench.expected, abs(k) * bench.summands):
            return None
        found = k
    return found


def _giving(focus: Focus, made: Callable[[Tensor], Tensor]) -> list[str]:
    """Return the tensors of which something gives the right value of the first bench."""
    names, held = focus.broadcast
    right = focus.program.benches[0].expected
    if not names or not right.numel():
        return []
    worst = (made(held) - right).abs().reshape(len(names), -1).amax(1)
    return [names[i] for i in (worst <= EXACT * float(right.abs().max())).nonzero().flatten().tolist()]
