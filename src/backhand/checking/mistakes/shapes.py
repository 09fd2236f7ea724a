"""Explain a gradient by its axes: a wrong shape, a sum that is missing or one too many, a transpose."""

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from backhand.checking.mistakes.branches import choices
from backhand.checking.mistakes.finding import Finding, listed
from backhand.checking.mistakes.neighbourhood import TIMES_LARGER, Scene
from backhand.checking.running.precision import OF_SUMMANDS, RELATIVE
from backhand.checking.verdicts.comparing import close, coarser, constant_ratio, right_but_for_shape


def right_values(scene: Scene) -> Finding | None:
    """Find right values in a wrong shape."""
    expected, got = tuple(scene.expected.shape), tuple(scene.value.shape)
    size = TIMES_LARGER * float(scene.expected.abs().max()) if scene.expected.numel() else 0.0
    if not right_but_for_shape(scene.value, scene.expected, max(size, scene.summands)):
        return None
    return Finding(
        "shape", {"expected": expected, "got": got}, f"right values in shape {got}, not {expected}"
    )


def uncut(scene: Scene) -> Finding | None:
    """Find right values with others around them, as what was padded is not cut away again."""
    value, expected = scene.value, scene.expected
    got, shape = tuple(value.shape), tuple(expected.shape)
    more = [a - b for a, b in zip(got, shape, strict=False)]
    if len(got) != len(shape) or not any(more) or min(more) < 0 or not expected.numel():
        return None
    for begins in itertools.product(*(dict.fromkeys((m // 2, 0, m)) for m in more)):
        at = tuple(slice(begin, begin + size) for begin, size in zip(begins, shape, strict=True))
        if scene.same(value[at], expected):
            ends = [begin - m for begin, m in zip(begins, more, strict=True)]
            part = ", ".join(f"{b or ''}:{e or ''}" for b, e in zip(begins, ends, strict=True))
            words = f"shape {got}, not {shape}: the right values are its part [{part}]"
            hint = "What the forward has padded is cut away from the gradient again."
            return Finding("shape", {"expected": shape, "got": got}, words, hint=hint)
    return None


def transposed(scene: Scene) -> Finding | None:
    """Find the right gradient with its axes in another order, also with an axis that is split."""
    value, expected = scene.value, scene.expected
    if not 2 <= value.dim() <= 4 or value.numel() != expected.numel():
        return None
    if scene.same(value.reshape(expected.shape), expected):  # nothing but its shape is wrong
        return None
    is_split = value.dim() != expected.dim()
    for order in list(itertools.permutations(range(value.dim())))[1:]:
        moved = value.permute(order).reshape(expected.shape) if is_split else value.permute(order)
        if not scene.same(moved, expected):
            continue
        detail = {"order": [order.index(axis) for axis in range(value.dim())]}
        if not is_split:
            return Finding("transposed", detail, "the transpose of the right gradient")
        shapes = f"in shape {tuple(value.shape)}, not {tuple(expected.shape)}"
        hint = "What the forward flattens is flattened before it is transposed: `.T` turns all axes round."
        return Finding(
            "transposed", detail, f"the right values with their axes in another order, {shapes}", hint=hint
        )
    return None


def turned(scene: Scene) -> Finding | None:
    """Find the right gradient from its end to its beginning, along one axis."""
    for axis in range(scene.expected.dim()) if scene.has_its_shape else ():
        if scene.same(scene.value, scene.expected.flip(axis)):
            words = f"the right values in the opposite order along axis {axis}"
            hint = "What a loop that goes back through time appends to a list stands there from the end on."
            return Finding("transposed", {"order": None}, words, hint=hint)
    return None


def unreduced(scene: Scene) -> Finding | None:
    """Find a gradient that still has the axes along which the forward broadcast."""
    expected, user = scene.expected, scene.value
    if user.shape == expected.shape or user.numel() <= expected.numel():
        return None
    for axes in _axes(user.dim()):
        for keepdim in (True, False):
            summed = user.sum(axes, keepdim=keepdim)
            if summed.numel() != expected.numel():
                continue
            factor = constant_ratio(summed.reshape(expected.shape), expected)
            if factor and scene.same(summed.reshape(expected.shape), factor * expected):
                more = "" if abs(factor - 1) < scene.exact else f" (and off by a factor of {factor:.6g})"
                words = f"shape {tuple(user.shape)}: not summed over {_named(axes)}{more}"
                return Finding("unreduced", {"axes": list(axes)}, words)
    return None


def overreduced(scene: Scene) -> Finding | None:
    """Find a sum or mean over an axis that the gradient should keep."""
    user, expected = scene.value, scene.expected
    for label, source in _sources(scene):
        for axes, how, reduced in _reductions(source):
            if reduced.shape == user.shape and scene.same(user, reduced):
                kept = tuple(user.shape)
                if how == "mean" and source is expected and _is_constant(scene, axes):
                    detail = {"expected": tuple(expected.shape), "got": kept}
                    words = f"the right values, not expanded over {_named(axes)}: shape {kept}, expected "
                    return Finding("shape", detail, f"{words}{detail['expected']}")
                words = f"the {how} of {label} over {_named(axes)}, "
                words += f"shape {kept}, expected {tuple(expected.shape)}"
                return Finding("overreduced", {"axes": list(axes)}, words)
    return None


def _is_constant(scene: Scene, axes: tuple[int, ...]) -> bool:
    """Tell whether the right gradient has the same values all along some axes."""
    once = scene.expected.mean(axes, keepdim=True)
    return scene.same(scene.expected, once.expand(scene.expected.shape))


def _sources(scene: Scene) -> Iterator[tuple[str, Tensor]]:
    yield "the right gradient", scene.expected
    yield from (("its terms", term) for term in scene.terms() if term.shape != scene.expected.shape)


def _reductions(source: Tensor) -> Iterator[tuple[tuple[int, ...], str, Tensor]]:
    for axes in _axes(source.dim()):
        if any(source.shape[a] > 1 for a in axes):
            for keepdim in (True, False):
                yield axes, "sum", source.sum(axes, keepdim=keepdim)
                yield axes, "mean", source.mean(axes, keepdim=keepdim)


def _axes(dim: int) -> Iterator[tuple[int, ...]]:
    for size in range(1, min(dim, 4) + 1):
        yield from itertools.combinations(range(dim), size)


def _named(axes: tuple[int, ...]) -> str:
    return f"axis {axes[0]}" if len(axes) == 1 else f"axes {', '.join(map(str, axes))}"


def rearranged(scene: Scene) -> Finding | None:
    """Find the right values in other places: a view or a permutation that is missing, or one too many."""
    user, expected = scene.value, scene.expected
    if user.numel() != expected.numel() or user.numel() < 2:
        return None
    if user.is_complex() or expected.is_complex():  # complex numbers have no order
        return None
    size = scene.summands + TIMES_LARGER * float(expected.abs().max())
    mine, right = user.flatten().sort().values, expected.flatten().sort().values
    if not close(mine, right.to(mine.dtype), size):
        return None
    if user.shape == expected.shape:
        hint = "Where elements only move, undo the same moves on the gradient, in the opposite order."
        return Finding("transposed", {"order": None}, "the right values in other places", hint=hint)
    detail = {"expected": tuple(expected.shape), "got": tuple(user.shape)}
    words = f"the right values in other places, in shape {detail['got']}, not {detail['expected']}"
    return Finding("shape", detail, words)


def partly(scene: Scene) -> Finding | None:
    """Find a gradient that is wrong in some rows or columns only, such as a block at the end."""
    user, expected = scene.value, scene.expected
    if user.shape != expected.shape or user.numel() < 4:
        return None
    dtype = coarser(user.dtype, expected.dtype)
    floor = OF_SUMMANDS[dtype] * expected.abs().max()
    wrong = (user - expected).abs() > RELATIVE[dtype] * expected.abs() + floor
    for axis in range(expected.dim()):
        others = [a for a in range(expected.dim()) if a != axis]
        bad = wrong.any(dim=tuple(others)) if others else wrong
        alive = (expected != 0).any(dim=tuple(others)) if others else expected != 0
        right = int((alive & ~bad).sum())
        if not bool(bad.any()) or right == 0:
            continue
        where = torch.nonzero(bad).flatten().tolist()
        if len(where) <= max(1, int(0.7 * int(alive.sum()))):
            return _partial(axis, where, len(bad), "wrong only")
    for axis in range(expected.dim()):
        others = tuple(a for a in range(expected.dim()) if a != axis)
        dead = (user == 0).all(dim=others) if others else user == 0
        empty = dead & ((expected != 0).any(dim=others) if others else expected != 0)
        bad = wrong.any(dim=others) if others else wrong
        if 2 * int(empty.sum()) > int(bad.sum()):  # a zero row beside many wrong ones tells nothing of them
            return _partial(axis, torch.nonzero(empty).flatten().tolist(), len(dead), "zero")
    return None


def cut_short(scene: Scene) -> Finding | None:
    """Find branches, or the whole gradient, that are missing in a block at the beginning or at the end."""
    user, expected = scene.value, scene.expected
    if user.shape != expected.shape or user.numel() < 2:
        return None
    lost = expected - user
    floor = OF_SUMMANDS[coarser(user.dtype, expected.dtype)] * lost.abs().max()
    parts = scene.parts
    for axis, length in enumerate(user.shape):
        bad = (lost.abs() > floor).movedim(axis, 0).reshape(length, -1).any(1)
        where = torch.nonzero(bad).flatten().tolist()
        first, last = (where[0], where[-1]) if where else (0, length)
        if len(where) != last - first + 1 or len(where) == length or (first > 0 and last < length - 1):
            continue
        rows = bad.view([-1 if a == axis else 1 for a in range(user.dim())])
        for chosen in choices(parts, whole=True):
            missing = torch.stack([parts[c] for c in chosen]).sum(0)
            if scene.same(lost, missing * rows):
                told = f"the branch through {listed(chosen)} is missing"
                return _partial(axis, where, length, told if len(chosen) < len(parts) else "zero")
    return None


def _partial(axis: int, where: list[int], length: int, how: str) -> Finding:
    words = f"{how} at {_where(axis, where, length)}"
    return Finding("partial", {"where": {"axis": axis, "indices": where}}, words)


def _where(axis: int, where: list[int], length: int) -> str:
    first, last = where[0], where[-1]
    if where == list(range(first, last + 1)):
        block = f"{first} to {last}" if last > first else f"{first}"
        block += " (the end)" if last == length - 1 else ""
    else:
        block = ", ".join(map(str, where[:5])) + (", ..." if len(where) > 5 else "")
    return f"index {block} of axis {axis}, of {length}"
