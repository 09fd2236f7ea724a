"""What the user's code finds around it: the default dtype, random numbers, threads, warnings."""

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from backhand.checking.running.names import flatten
from backhand.checking.running.precision import Promoting

# PyTorch itself gives less than half as many elements to a thread.
SMALL = 2**16


@contextlib.contextmanager
def running(dtype: torch.dtype | None, seed: int, promote: bool) -> Iterator[None]:
    """Set what the user's code should find: the default dtype, and a generator that starts the same."""
    # not torch.manual_seed, which takes a millisecond where there is no GPU
    generator = torch.default_generator
    state = generator.get_state()
    generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    before = torch.get_default_dtype()
    if dtype is not None and dtype != before:
        torch.set_default_dtype(dtype)
    try:
        with Promoting() if promote else contextlib.nullcontext():
            yield
    finally:
        torch.set_default_dtype(before)
        generator.set_state(state)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let PyTorch compute on one core for as long as the context lasts."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def threads_for(inputs: Mapping[str, Any]) -> contextlib.AbstractContextManager[None]:
    """Leave small tensors to one thread: with more, each product waits for the slowest, which may be busy."""
    elements = sum(v.numel() for v in flatten(inputs).values() if isinstance(v, Tensor))
    return one_thread() if elements <= SMALL else contextlib.nullcontext()


@contextlib.contextmanager
def warned_once() -> Iterator[None]:
    """Show a warning of the user's code once, however often that is run."""
    shown: set[str] = set()
    with warnings.catch_warnings():
        show = warnings.showwarning

        def first(message: Warning | str, *where: Any, **rest: Any) -> None:
            if str(message) not in shown:
                shown.add(str(message))
                show(message, *where, **rest)

        warnings.showwarning = first
        yield
