"""Explain a gradient by what its backward does: under stress, and row by row of the upstream gradient.

Numbers alone do not tell a gradient that ignores its upstream gradient, or that is made of other rows of it,
from nonsense; other upstream gradients do. These come last, where nothing reproduces the gradient.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from backhand.checking.meanings import KINDS, WAYS_OF_USE
from backhand.checking.mistakes.evidence import FAR, Case
from backhand.checking.mistakes.finding import Finding
from backhand.checking.mistakes.neighbourhood import Scene
from backhand.checking.report import Mistake
from backhand.checking.running.precision import COARSE, UNMOVED, unit
from backhand.checking.running.private import differentiated
from backhand.checking.running.values import tensors_in
from backhand.checking.verdicts.comparing import close, largest_difference

# Less than any slip, but for one of a small term: a constant of six digits.
DIGITS = 1e-5
Reader = Callable[[Tensor], Tensor | None]
# The rows of an upstream gradient that one row of a gradient is made of, in words.
ALONE, ALL = frozenset({"own"}), frozenset({"own", "before", "after"})
ROWS = {
    ALONE: "its own row of {} alone",
    frozenset({"own", "before"}): "the rows of {} up to its own",
    frozenset({"own", "after"}): "the rows of {} from its own on",
    ALL: "all of {}",
}


def fails_under_stress(case: Case) -> Finding | None:
    """Find the gradient among those that failed under stress; not in a way of use, as in a second backward.

    It is wrong in the first one, too.
    """
    failures = case.probes.failures if case.probes is not None else ()
    return _of_failures(case, [f for f in failures if f.kind not in WAYS_OF_USE])


def _of_failures(case: Case, failures: Sequence[Mistake]) -> Finding | None:
    for failure in failures:
        if case.scenes and case.gradient in failure.detail.get("gradients", ()):
            words = failure.message.removesuffix(".").removeprefix(f"{case.gradient} ")
            return Finding(failure.kind, dict(failure.detail), words, hint=failure.hint)
    return None


def differs_from_run_to_run(case: Case) -> Finding | None:
    """Find a gradient that is another one in each run, of which the numbers of one tell nothing.

    Where the line at fault is known, what it draws or reads has a name of its own.
    """
    failures = case.probes.failures if case.probes is not None and case.at_fault is None else ()
    return _of_failures(case, [f for f in failures if f.kind == "nondeterministic"])


def right_but_for_digits(case: Case) -> Finding | None:
    """Find a gradient that is off by less than a slip makes, if it is none of the small ones."""
    relative = _relative(case)
    if relative > DIGITS:
        return None
    words = (
        f"right to a relative {relative:.1g}: a constant has few digits, a small term is left out, or a part "
        "is computed in less"
    )
    hint = "Write a constant as what it is, such as np.sqrt(2 / np.pi), or with all of its digits."
    return Finding("dtype", {"relative": relative}, words, hint=hint)


def _relative(case: Case) -> float:
    """Return by which part of its largest element a gradient is off; infinity where that is not known."""
    scene = case.scenes[0] if case.scenes else None
    if scene is None or not scene.has_its_shape or not scene.expected.numel():
        return math.inf
    largest = float(scene.expected.abs().max())
    is_known = 0 < largest < math.inf
    return largest_difference(scene.value, scene.expected) / largest if is_known else math.inf


def right_but_coarsely(case: Case) -> Finding | None:
    """Find a gradient that is off by what a low dtype would lose."""
    relative = _relative(case)
    if relative > COARSE or relative > FAR * _coarsest_unit(case):
        return None
    words = f"right to a relative {relative:.1g} only, as if part of it were computed coarsely"
    return Finding("dtype", {"relative": relative}, words, hint=KINDS["dtype"].hint)


def _coarsest_unit(case: Case) -> float:
    """Return the unit of the coarsest dtype in which the function is seen to compute; 1 if not all is seen.

    A formula may be off by as little as a low dtype is.
    """
    if case.probes is None:
        return 1.0
    with _Coarsest() as seen:
        case.probes.call()
    return 1.0 if seen.leaves else seen.unit


class _Coarsest(TorchFunctionMode):
    """Notes the unit of the coarsest dtype that operations take or give."""

    def __init__(self) -> None:
        super().__init__()
        self.unit = 0.0
        self.leaves = False  # its numbers are handed to what is no operation of PyTorch's

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation, and look at what goes into it and what comes out."""
        result = func(*args, **(kwargs or {}))
        self.leaves |= func in (Tensor.numpy, Tensor.__array__, Tensor.data_ptr)
        units = (unit(t.dtype) for t in tensors_in((*args, result)) if t.is_floating_point())
        self.unit = max(self.unit, *units, 0.0)
        return result


def mixes_rows(case: Case) -> Finding | None:
    """Find an axis along which the gradient is made of other rows of its upstream gradient.

    Not where something failed under stress, nor below a wrong line: both would change what is read.
    """
    probes, scene = case.probes, case.scenes[0] if case.scenes else None
    if probes is None or probes.failures or scene is None:
        return None
    if not close(scene.expected, scene.trace.gradients[scene.name]):
        return None
    for name, arriving in probes.upstream.items():
        if arriving.shape != scene.expected.shape:
            continue

        def own(changed: Tensor, name: str = name) -> Tensor | None:
            return (probes.call(**{name: changed}) or {}).get(case.gradient)

        def right(changed: Tensor, name: str = name) -> Tensor | None:
            return _right(scene, {**scene.trace.upstream, name: changed})

        found = _mixing(own, right, arriving, name, case.gradient)
        if found is not None:
            return found
    return None


def _right(scene: Scene, upstream: Mapping[str, Tensor]) -> Tensor | None:
    """Return the right gradient for other upstream gradients."""
    arriving = [upstream[f"d{name}"] for name in scene.trace.outputs]
    return differentiated(scene.trace.outputs.values(), arriving, [scene.tensor])[0]


def _mixing(own: Reader, right: Reader, arriving: Tensor, upstream: str, gradient: str) -> Finding | None:
    """Find an axis along which a gradient is made of other rows of its upstream gradient than it should be.

    A mean, a variance or a sum over an axis in the forward sends every row's upstream gradient to every row.
    The formula of a batch norm in training, say, does so; that of one with fixed statistics does not.

    Args:
        own, right: the user's gradient and the right one, for other upstream gradients.
        arriving: the upstream gradient; the gradient in question needs its shape.
        upstream: its name.
        gradient: the gradient's name.
    """
    for axis in range(arriving.dim()):
        if arriving.shape[axis] < 2:
            continue
        seen, wanted = _read(own, arriving, axis), _read(right, arriving, axis)
        if seen is None or wanted is None:
            continue
        if any(row.startswith("own") for row in wanted - seen):
            words = f"along axis {axis} a row of {gradient} does not read its own row of {upstream}"
            return Finding("ignores_upstream", {"axes": [axis]}, words)
        is_whole = "every" in seen | wanted
        reads, should = (frozenset(row.split()[0] for row in rows - {"every"}) for rows in (seen, wanted))
        if reads == should or "own" not in should:
            continue
        words_of = ROWS if is_whole else ROWS | {ALL: "rows of {} on both sides of its own"}
        told, belongs = (words_of[rows].format(upstream) for rows in (reads, should))
        words = f"along axis {axis} each row is made of {told}, not of {belongs}"
        if is_whole and {reads, should} == {ALONE, ALL}:
            which = "left out" if should == ALL else "one too many"
            words = f"{words}: a mean, variance or sum over that axis is {which}"
        kind = "missing_branch" if reads < should else "repeated_branch"
        if not (reads < should or should < reads):  # as where a sum over time runs the wrong way
            return Finding("wrong_upstream", {"used": None, "expected": upstream, "axes": [axis]}, words)
        return Finding(kind, {"branches": [], "axes": [axis]}, words)
    return None


def _read(reader: Reader, arriving: Tensor, axis: int) -> frozenset[str] | None:
    """Tell which rows of the upstream gradient a row reads: its own, one before or after it, or every one.

    Seen by a change of the first and of the last row, each of which has an own. None where the backward does
    not run, or makes another shape.
    """
    found = {"every"}
    for index, place in ((0, "before"), (-1, "after")):
        changed = arriving.clone()
        changed.select(axis, index).neg_()
        before, after = reader(arriving), reader(changed)
        if before is None or after is None or before.shape != changed.shape or after.shape != changed.shape:
            return None
        moved = (after - before).abs() > UNMOVED * unit(before.dtype) * before.abs().max()
        others = moved.narrow(axis, 1 + index, moved.shape[axis] - 1)
        found |= {f"own {index}"} if bool(moved.select(axis, index).any()) else set()
        found |= {place} if bool(others.any()) else set()
        found -= {"every"} if not bool(_along(moved, axis).all()) else set()
    return frozenset(found)


def _along(moved: Tensor, axis: int) -> Tensor:
    """Tell which rows along an axis have moved."""
    return moved.movedim(axis, 0).reshape(moved.shape[axis], -1).any(1)
