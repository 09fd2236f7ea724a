"""What the user's code finds around it while it is checked; afterwards all of it is as it was before.

`sandbox` goes once around a whole check, `running` around each run of the user's code within it.
"""

import contextlib
import io
import os
import random
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backhand.apart import end_if_forked
from backhand.checking.running.alarms import alarm_kept
from backhand.checking.running.containers import flatten
from backhand.checking.running.endings import endings_told
from backhand.checking.running.importing import imports_from
from backhand.checking.running.precision import Promoting
from backhand.threads import one_thread

# PyTorch itself gives less than half as many elements to a thread.
SMALL = 2**16

# Tells that a sandbox stands around this code already, which will put everything back.
_within: ContextVar[bool] = ContextVar("within a sandbox", default=False)
# All that is set here belongs to the process: checks in several threads go one after the other.
_one_at_a_time = threading.RLock()


@contextlib.contextmanager
def sandbox(folder: Path | None = None) -> Iterator[None]:
    """Let the user's code set what it likes, and put it back at the end, also after an exception.

    A sandbox within another one does nothing, for the outer one puts everything back.

    Args:
        folder: run a script of this folder: there, with its own imports, with nothing printed.

    Raises:
        CheckError: the user's code would have ended Python.
    """
    if _within.get() and folder is None:
        yield
        return
    token = _within.set(True)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(_one_at_a_time)
            # from the outside in: what ends Python is told when all else is as it was
            for part in (
                endings_told,
                _gradients_possible,
                _settings,
                _random_states,
                alarm_kept,
                _figures,
                warned_once,
            ):
                stack.enter_context(part())
            if folder is not None:
                stack.enter_context(_at_home(folder))
            yield
    finally:
        _within.reset(token)


@contextlib.contextmanager
def running(dtype: torch.dtype | None, seed: int, promote: bool) -> Iterator[None]:
    """Set what one run of the user's code should find: the default dtype, and random numbers from a seed.

    Every generator begins anew, so that two runs that are compared draw the same numbers.

    Args:
        dtype: the default dtype; None leaves the user's own.
        seed: of torch's generators, on every device in use, of NumPy's and of Python's.
        promote: turn the code's own requests for lower precision into float64.
    """
    with contextlib.nullcontext() if _within.get() else sandbox():
        before, state = torch.get_default_dtype(), torch.default_generator.get_state()
        _seed(seed)
        if dtype is not None and dtype != before:
            torch.set_default_dtype(dtype)
        try:
            with nothing_left_in_memory(), Promoting() if promote else contextlib.nullcontext():
                yield
        finally:
            end_if_forked()
            if torch.get_default_dtype() != before:  # to set it costs ten times as much as to ask
                torch.set_default_dtype(before)
            torch.default_generator.set_state(state)


def _seed(seed: int) -> None:
    # not torch.manual_seed, which takes a millisecond where there is no GPU
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@dataclass(frozen=True)
class Randomness:
    """Where the random numbers of torch, NumPy and Python stand."""

    of_torch: torch.Tensor
    of_numpy: Any
    of_python: Any

    @staticmethod
    def now() -> "Randomness":
        """Return where they stand now."""
        return Randomness(torch.default_generator.get_state(), np.random.get_state(), random.getstate())

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """Draw from here once more within a block; afterwards they stand where they stood."""
        before = Randomness.now()
        self.put()
        try:
            yield
        finally:
            before.put()

    def put(self) -> None:
        """Let them stand here."""
        torch.default_generator.set_state(self.of_torch)
        np.random.set_state(self.of_numpy)
        random.setstate(self.of_python)


@contextlib.contextmanager
def _random_states() -> Iterator[None]:
    """Put the states of torch's, NumPy's and Python's random numbers back."""
    before = Randomness.now()
    # asked for only where CUDA is in use: to start it takes seconds, and memory on the device
    in_use = torch.cuda.is_initialized()
    cuda = torch.cuda.get_rng_state_all() if in_use else []
    try:
        yield
    finally:
        before.put()
        if in_use:
            torch.cuda.set_rng_state_all(cuda)


def _precision() -> str | None:
    with contextlib.suppress(RuntimeError):  # newer settings of it, which this one cannot tell
        return torch.get_float32_matmul_precision()
    return None


def _set_precision(value: str | None) -> None:
    if value is not None:
        torch.set_float32_matmul_precision(value)


def _set_device(value: torch.device) -> None:
    # to set the CPU, which is the default, would slow down every later call of torch
    torch.set_default_device(None if value.type == "cpu" else value)


def _folder() -> str | None:
    with contextlib.suppress(OSError):  # the folder may be gone
        return os.getcwd()  # noqa: PTH109  (a tenth of the time)
    return None


def _set_folder(value: str | None) -> None:
    if value is not None:
        with contextlib.suppress(OSError):  # the user's code may have removed it
            os.chdir(value)


def _set_path(value: tuple[list[str], list[str]]) -> None:
    sys.path, before = value  # the list itself, for others hold it
    sys.path[:] = before


def _set_environment(value: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(value)


@contextlib.contextmanager
def nothing_left_in_memory() -> Iterator[None]:
    """Have `torch.empty` give NaN: with what lies in memory, often zeros, a wrong gradient may look right.

    PyTorch does so where its operations have to be deterministic. Not on a GPU, where that would hide one
    that is not.
    """
    before = torch.get_deterministic_debug_mode()
    if before or torch.cuda.is_initialized():
        yield
        return
    torch.set_deterministic_debug_mode(1)  # operations that cannot be may warn, and raise nothing
    try:
        yield
    finally:
        if torch.get_deterministic_debug_mode() == 1:  # else the code has set it: see SETTINGS
            torch.set_deterministic_debug_mode(before)


# What the user's code may set: how it is read, and how it is put back if it has changed.
SETTINGS: tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...] = (
    (torch.get_default_device, _set_device),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (
        lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        lambda value: torch.autograd.set_detect_anomaly(*value),
    ),
    (
        lambda: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        lambda value: torch.use_deterministic_algorithms(value[0], warn_only=value[1]),
    ),
    (_precision, _set_precision),
    (sys.getrecursionlimit, sys.setrecursionlimit),
    (_folder, _set_folder),
    (lambda: (sys.path, list(sys.path)), _set_path),
    (lambda: dict(os.environ), _set_environment),
    (np.geterr, lambda value: np.seterr(**value)),
    (lambda: sys.dont_write_bytecode, lambda value: setattr(sys, "dont_write_bytecode", value)),
    (lambda: sys.argv, lambda value: setattr(sys, "argv", value)),
    (lambda: sys.stdout, lambda value: setattr(sys, "stdout", value)),
    (lambda: sys.stderr, lambda value: setattr(sys, "stderr", value)),
)


def _gradients_possible() -> contextlib.AbstractContextManager[None]:
    """Leave `torch.inference_mode`, in which autograd has nothing to compare with."""
    return torch.inference_mode(False) if torch.is_inference_mode_enabled() else contextlib.nullcontext()


@contextlib.contextmanager
def _settings() -> Iterator[None]:
    """Put back what `SETTINGS` lists."""
    before = [read() for read, _ in SETTINGS]
    try:
        yield
    finally:
        for (read, put_back), value in zip(SETTINGS, before, strict=True):
            if read() != value:
                put_back(value)


@contextlib.contextmanager
def _figures() -> Iterator[None]:
    """Close the figures that are opened within a block."""

    def numbers() -> set[int]:
        pyplot = sys.modules.get("matplotlib.pyplot")
        return set(pyplot.get_fignums()) if pyplot else set()

    before = numbers()
    try:
        yield
    finally:
        for number in numbers() - before:
            sys.modules["matplotlib.pyplot"].close(number)


@contextlib.contextmanager
def _at_home(folder: Path) -> Iterator[None]:
    """Run as `python FILE` would in a folder, with plots unseen and output swallowed; `SETTINGS` go back."""
    os.chdir(folder)
    sys.argv = sys.argv[:1]
    os.environ["MPLBACKEND"] = "Agg"
    with (
        imports_from(folder),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        yield


def threads_for(inputs: Mapping[str, Any]) -> contextlib.AbstractContextManager[None]:
    """Leave small tensors to one thread: with more, each product waits for the slowest, which may be busy."""
    elements = sum(v.numel() for v in flatten(inputs).values() if isinstance(v, Tensor))
    return one_thread() if elements <= SMALL else contextlib.nullcontext()


@contextlib.contextmanager
def warned_once() -> Iterator[None]:
    """Show a warning of the user's code once, however often that is run."""
    shown: set[str] = set()
    stderr = sys.stderr  # where a warning is shown though the code's own output is swallowed
    with warnings.catch_warnings():
        show = warnings.showwarning

        def first(message: Warning | str, *where: Any, **rest: Any) -> None:
            if str(message) not in shown:
                shown.add(str(message))
                with contextlib.redirect_stderr(stderr):
                    show(message, *where, **rest)

        warnings.showwarning = first
        yield
