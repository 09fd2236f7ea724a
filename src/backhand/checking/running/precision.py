"""Run the user's code in float64, and the tolerances in one table."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from backhand.checking.running.complexes import is_differentiable

# |user - autograd| may be RELATIVE * |autograd| + OF_SUMMANDS * the size of what was added up, per element.
# In float64 that is far above rounding and far below any mistake worth the name; the lower dtypes are used
# only where the user's code does not run in float64, with some tens of units of rounding.
RELATIVE = {torch.float64: 1e-8, torch.float32: 2e-4, torch.bfloat16: 8e-2, torch.float16: 2e-2}
OF_SUMMANDS = {torch.float64: 1e-11, torch.float32: 2e-5, torch.bfloat16: 4e-2, torch.float16: 5e-3}
# Zeros, or the double, would pass for a gradient below this part of its summands: it is no evidence.
VACUOUS = {d: OF_SUMMANDS[d] / (1 - RELATIVE[d]) for d in RELATIVE}
# torch.testing.assert_close for float32 and so on: what the table's "approximate" means, as (rtol, atol).
APPROXIMATE = {
    torch.float64: (1e-7, 1e-7),
    torch.float32: (1e-5, 1e-8),
    torch.bfloat16: (1.6e-2, 1e-5),
    torch.float16: (1e-3, 1e-5),
}
# In another layout or another run sums are made in another order: the rounding is of another kind, not size.
ANOTHER_ORDER = 10.0
# How many times autograd's own error in a low dtype a gradient may have there: as flash-attention's tests,
# which allow 2 to 3 times, with room for a formula that rounds at other places.
ERROR_BUDGET = 8.0
# An unexplained error below this part of the gradient is a loss of precision, not a wrong formula: bfloat16
# keeps eight bits, and a sum within it loses two more.
COARSE = 2e-2
# A hand-written formula may lose a digit against autograd's, or two where it cancels. A part that is computed
# in the next lower dtype loses four (float16 in float32), or more.
LOWERED = 300.0
# What a change of one row moves by less than this many units of rounding, it does not reach.
UNMOVED = 100.0
LOW = (torch.float32, torch.float16, torch.bfloat16)
# What a right formula rounds at least, in units of its dtype. Code in 16 bits computes in float32 and rounds
# once, at the end, which is 0.2 to 0.29 of a unit in the root mean square; in float32 it rounds at each step.
LEAST_ROUNDING = {torch.float64: 4.0, torch.float32: 4.0, torch.bfloat16: 0.25, torch.float16: 0.25}
# A forward that is off by more than rounding hands its error on to the gradients: to each of them several
# times, for they are made of products of what it has saved.
HANDED_ON = 4.0
# Two forwards are the same function if they differ by no more than this part of what a gradient may be off at
# single elements: an error of every element is no rounding.
ON_AVERAGE = 0.25
# By what part of itself the output of code may be off, in the root mean square, that computes in less than
# its dtype: as much as if it was in bfloat16, the coarsest that is in use.
COMPUTED_IN_LESS = ON_AVERAGE * RELATIVE[torch.bfloat16]


@dataclass(frozen=True)
class Asked:
    """What the caller says of the precision of the code, where it is not to be measured.

    Attributes:
        dtype: judge in it.
        rtol, atol: of the comparison, element by element; None of both leaves what is measured.
    """

    dtype: torch.dtype | None = None
    rtol: float | None = None
    atol: float | None = None

    @property
    def tolerance(self) -> tuple[float, float] | None:
        """The two tolerances; None where neither is given."""
        if self.rtol is None and self.atol is None:
            return None
        return self.rtol or 0.0, self.atol or 0.0


MEASURED = Asked()


def converted(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a copy in another dtype, a leaf that needs a gradient if the tensor does."""
    return value.detach().to(dtype, copy=True).requires_grad_(value.requires_grad)


def unit(dtype: torch.dtype) -> float:
    """Return the unit of rounding of a dtype; that of float64 for integers."""
    return torch.finfo(dtype if dtype.is_floating_point or dtype.is_complex else torch.float64).eps


def lowest(values: Mapping[str, Any]) -> torch.dtype:
    """Return the coarsest floating-point dtype among these tensors; float64 where there is none."""
    found = {v.dtype.to_real() for v in values.values() if is_differentiable(v)}
    return min(found, key=lambda d: -torch.finfo(d).eps, default=torch.float64)


# The methods whose name is the dtype that they ask for.
NAMED = {Tensor.float: torch.float32, Tensor.half: torch.float16, Tensor.bfloat16: torch.bfloat16}


class Promoting(TorchFunctionMode):
    """Turns requests for a lower floating-point dtype (`.float()`, `dtype=torch.float16`) into float64."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        wanted = [v for v in (*args, *kwargs.values(), NAMED.get(func)) if isinstance(v, torch.dtype)]
        if any(v in LOW and not self.overrules(v) for v in wanted):
            return func(*args, **kwargs)
        if func in NAMED:
            return args[0].to(torch.float64)
        named = {k: _raised(v) if isinstance(v, torch.dtype) else v for k, v in kwargs.items()}
        return func(*map(_raised, args), **named)

    def overrules(self, dtype: torch.dtype) -> bool:
        """Tell whether to overrule a request for a dtype."""
        return True


def _raised(value: Any) -> Any:
    if isinstance(value, torch.dtype):
        return torch.float64 if value in LOW else value
    low = isinstance(value, Tensor) and value.dtype in LOW and not value.requires_grad
    return value.to(torch.float64) if low else value
