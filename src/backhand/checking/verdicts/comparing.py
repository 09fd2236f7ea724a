"""Compare two gradients: present, shape, dtype, finite, exact, close. Nothing here broadcasts."""

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from backhand.checking.running.precision import OF_SUMMANDS, RELATIVE

TINY = torch.finfo(torch.float64).tiny


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
    if user is expected or torch.equal(user, expected):
        return True
    if expected.numel() == 0:
        return True
    dtype = coarser(user.dtype, expected.dtype)
    user, expected = user.to(torch.float64), expected.to(torch.float64)
    largest = float(expected.abs().max())
    if not math.isfinite(largest):
        finite = expected.isfinite()
        if not torch.allclose(user[~finite], expected[~finite], equal_nan=True):
            return False
        user, expected = user[finite], expected[finite]
        largest = float(expected.abs().amax()) if expected.numel() else 0.0
    size = max(summands, largest) if summands < math.inf else largest
    allowed = expected.abs().mul_(RELATIVE[dtype]).add_(OF_SUMMANDS[dtype] * size)
    if noise < math.inf:  # of each element, as far as it is larger than others
        allowed = allowed.maximum(noise * (1 + expected.abs() / max(root_mean_square(expected), TINY)))
    difference = (user - expected).abs_()
    return bool(difference.le(allowed).all()) and (noise == math.inf or root_mean_square(difference) <= noise)


def allclose(user: Tensor, expected: Tensor, rtol: float, atol: float) -> bool:
    """Tell whether two tensors of one shape differ by no more than the caller's tolerances."""
    if user.shape != expected.shape:
        return False
    wide = torch.complex128 if expected.is_complex() else torch.float64
    return torch.allclose(user.to(wide), expected.to(wide), rtol=rtol, atol=atol, equal_nan=True)


def root_mean_square(tensor: Tensor) -> float:
    """Return the size of a typical element; zero where there is none."""
    return float(tensor.detach().to(torch.float64).square().mean()) ** 0.5 if tensor.numel() else 0.0


@lru_cache(maxsize=64)
def coarser(a: torch.dtype, b: torch.dtype) -> torch.dtype:
    """Return the dtype with the larger unit of rounding; integers count as float64."""
    known = [d for d in (a, b) if d in RELATIVE]
    return max(known, key=lambda d: torch.finfo(d).eps, default=torch.float64)


def largest_difference(user: Tensor, expected: Tensor) -> float:
    """Return the largest absolute difference; infinity where the shapes differ."""
    if user.shape != expected.shape:
        return math.inf
    return float(differences(elements(user), elements(expected)).max(initial=0.0))


def elements(tensor: Tensor) -> np.ndarray:
    """Return a tensor's elements in NumPy and float64, in its shape."""
    return tensor.detach().to("cpu", torch.float64).numpy()


@np.errstate(invalid="ignore")  # infinity from infinity: NaN, which is looked at
def differences(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return |a - b|: zero between equal infinities and where both are NaN, infinity where one is."""
    found = np.asarray(a - b)
    np.abs(found, out=found)
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
