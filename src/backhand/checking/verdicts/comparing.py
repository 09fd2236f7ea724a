"""Compare two gradients: present, shape, dtype, finite, exact, close. Nothing here broadcasts."""

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from backhand.checking.running.complexes import as_reals, both_as_reals, in_dtype
from backhand.checking.running.precision import OF_SUMMANDS, RELATIVE

TINY = torch.finfo(torch.float64).tiny
# A comparison makes several arrays in float64; as many of this length fit a core's cache, and PyTorch leaves
# them to one thread, which waits for no other.
PIECE = 2**15


def close(user: Tensor, expected: Tensor, summands: float = 0.0, noise: float = math.inf) -> bool:
    """Tell whether two tensors of one shape differ by rounding alone; infinities and NaN must be the same.

    Args:
        user: the gradient to judge.
        expected: the right one.
        summands: the size of the terms that were added up to make it, where that is known; it matters where
            they cancel.
        noise: the root mean square of what all elements together may be off, where that is known. A wrong
            factor may hide in the rounding of each element, and not in that of all of them.
    """
    if user.shape != expected.shape:
        return False
    user = user.to(expected.device)  # a number that was made a tensor, and what was left on the CPU
    if user is expected or torch.equal(user, expected):
        return True
    user, expected = both_as_reals(user, expected)
    dtype, largest = coarser(user.dtype, expected.dtype), largest_of(expected)
    size = max(summands, largest) if summands < math.inf else largest
    if not math.isfinite(largest):
        finite = expected.isfinite()
        if not torch.allclose(user[~finite], expected[~finite].to(user.dtype), equal_nan=True):
            return False
        return close(user[finite], expected[finite], summands, noise)
    if noise == math.inf:
        return within(user, expected, RELATIVE[dtype], OF_SUMMANDS[dtype] * size)
    # a single element may be made of terms as large as the largest
    part = noise / max(root_mean_square(expected), TINY)
    relative, absolute = RELATIVE[dtype] + part, (OF_SUMMANDS[dtype] + part) * size
    return within(user, expected, relative, absolute) and off(user, expected) <= noise


def within(user: Tensor, expected: Tensor, relative: float, absolute: float) -> bool:
    """Tell whether no element is off by more than a part of the right one and an absolute amount.

    The tensors have one shape, and the right one is finite.
    """
    return all(_within(a, b, relative, absolute) for a, b in pieces(user, expected))


def _within(user: Tensor, expected: Tensor, relative: float, absolute: float) -> bool:
    user, expected = _in_float64(user), _in_float64(expected)
    allowed = expected.abs().mul_(relative).add_(absolute)
    return bool((user - expected).abs_().le(allowed).all())


def allclose(user: Tensor, expected: Tensor, rtol: float, atol: float) -> bool:
    """Tell whether two tensors of one shape differ by no more than the caller's tolerances."""
    if user.shape != expected.shape:
        return False
    return torch.allclose(_in_float64(user), _in_float64(expected), rtol=rtol, atol=atol, equal_nan=True)


def root_mean_square(tensor: Tensor) -> float:
    """Return the size of a typical element; zero where there is none."""
    squares = sum(float(as_reals(part).to(torch.float64).square().sum()) for (part,) in pieces(tensor))
    return (squares / max(tensor.numel(), 1)) ** 0.5


def off(user: Tensor, expected: Tensor) -> float:
    """Return by how much a typical element differs, of tensors of one shape."""
    squares = sum(
        float((_in_float64(a) - _in_float64(b)).abs().square().sum()) for a, b in pieces(user, expected)
    )
    return (squares / max(user.numel(), 1)) ** 0.5


def pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield tensors of one shape piece by piece, for what takes several arrays of their length to compare."""
    if tensors[0].numel() <= PIECE:
        yield tensors
        return
    yield from zip(*(t.detach().reshape(-1).split(PIECE) for t in tensors), strict=True)


def constant_ratio(user: Tensor, expected: Tensor) -> float | None:
    """Return the factor between two tensors of one shape, or None if there is no finite one."""
    a, b = (t.to(torch.float64).flatten() for t in both_as_reals(user, expected))
    square = float(b @ b)
    factor = float(a @ b) / square if square > 0 else math.nan
    return factor if math.isfinite(factor) else None


def largest_of(tensor: Tensor) -> float:
    """Return the size of the largest element; NaN where there is one."""
    if not tensor.numel():
        return 0.0
    low, high = as_reals(tensor.detach()).aminmax()
    return max(-float(low), float(high))


@lru_cache(maxsize=64)
def coarser(a: torch.dtype, b: torch.dtype) -> torch.dtype:
    """Return the dtype with the larger unit of rounding; integers count as float64."""
    known = [d.to_real() for d in (a, b) if d.is_floating_point or d.is_complex]
    known = [d for d in known if d in RELATIVE]
    return max(known, key=lambda d: torch.finfo(d).eps, default=torch.float64)


def largest_difference(user: Tensor, expected: Tensor) -> float:
    """Return the largest absolute difference; infinity where the shapes differ."""
    if user.shape != expected.shape:
        return math.inf
    found = (differences(elements(a), elements(b)).max(initial=0.0) for a, b in pieces(user, expected))
    return float(max(found))


def worst_element(user: Tensor, expected: Tensor) -> tuple[int, ...]:
    """Return the index of the element that is furthest off, of two tensors of one shape that has any."""
    at = int(differences(elements(user), elements(expected)).argmax())
    return tuple(int(i) for i in np.unravel_index(at, expected.shape))


def elements(tensor: Tensor) -> np.ndarray:
    """Return a tensor's elements in NumPy and float64, complex ones in complex128, in its shape."""
    return _in_float64(tensor.detach()).cpu().resolve_conj().numpy()


def _in_float64(tensor: Tensor) -> Tensor:
    return tensor.to(in_dtype(tensor, torch.float64))


@np.errstate(invalid="ignore")  # infinity from infinity: NaN, which is looked at
def differences(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return |a - b|: zero between equal infinities and where both are NaN, infinity where one is."""
    found = np.asarray(a - b)
    found = np.abs(found, out=None if np.iscomplexobj(found) else found)
    if not found.max(initial=0.0) < math.inf:  # NaN too
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        found = np.nan_to_num(np.where(same, 0.0, found), nan=math.inf, posinf=math.inf)
    return found


def fit_shape(user: Tensor, expected: Tensor) -> Tensor | None:
    """Return a gradient of a wrong shape in the right one, reshaped, reduced or expanded, or None.

    Only for going on past it and for naming the mistake: a wrong shape is never judged right.
    """
    shape = expected.shape
    if user.shape == shape:
        return user
    if user.numel() == expected.numel():
        return user.reshape(shape)
    try:
        return user.sum_to_size(shape)
    except RuntimeError:
        pass
    try:
        return user.expand(shape)
    except RuntimeError:
        return None


def right_but_for_shape(user: Tensor, expected: Tensor, summands: float = 0.0) -> bool:
    """Tell whether a gradient has the right values in a wrong shape: lost, extra or un-expanded axes."""
    if user.shape == expected.shape:
        return False
    if user.numel() == expected.numel():
        return close(user.reshape(expected.shape), expected, summands)
    try:
        if user.numel() < expected.numel():  # un-expanded
            return close(user.expand(expected.shape), expected, summands)
        return close(user, expected.expand(user.shape), summands)  # expanded too far
    except RuntimeError:
        return False


def fits(tensor: Tensor, like: Tensor) -> bool:
    """Tell whether a tensor can stand where another one does, broadcast if need be."""
    if tensor.dim() > like.dim() or tensor.device != like.device:
        return False
    pairs = zip(reversed(tensor.shape), reversed(like.shape), strict=False)
    return all(a in (1, b) for a, b in pairs)
