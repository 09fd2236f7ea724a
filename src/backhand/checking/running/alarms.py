"""A time limit for the user's code, and the alarm that the user may have set for himself."""

import contextlib
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from types import FrameType

from backhand.apart import ends_after

# How long is looked for the line of code that calls what is wrong itself, as a part of the usual time: most
# of what can be said of it is said there.
BRIEFLY = 0.1
_patience: ContextVar[float] = ContextVar("the part of the usual time that a search may take", default=1.0)
# While somebody waits at a prompt, and the time for it is up: most lines and names are found in less.
LITTLE = 0.3
_awaited: ContextVar[float] = ContextVar("the processor time until which somebody waits", default=math.inf)


def patience() -> float:
    """Return the part of the usual time that a search may take."""
    return _patience.get()


@contextlib.contextmanager
def briefly(part: float = BRIEFLY) -> Iterator[None]:
    """Let a search for a line or for its mistake take only a part of the usual time."""
    token = _patience.set(part)
    try:
        yield
    finally:
        _patience.reset(token)


def time_left() -> float:
    """Return how many processor seconds are left until somebody who waits should have the answer."""
    return _awaited.get() - time.process_time()


def until(seconds: float) -> float:
    """Return the processor time at which a search ends that may take so many seconds, if nobody waits."""
    return time.process_time() + min(patience() * seconds, max(time_left(), LITTLE))


@contextlib.contextmanager
def awaited(seconds: float) -> Iterator[None]:
    """Let what can be left out be left out after so much processor time: somebody waits."""
    token = _awaited.set(time.process_time() + seconds)
    try:
        yield
    finally:
        _awaited.reset(token)


@contextlib.contextmanager
def alarm_kept() -> Iterator[None]:
    """Put back who is told of an alarm, and the time that was left until one."""
    if not _able_to_ring():
        yield
        return
    handler, (left, every) = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)
    began = time.monotonic()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)  # first, or the wrong one would be told
        if handler is not None:  # None: set by other than Python, and out of its reach
            signal.signal(signal.SIGALRM, handler)
        if left:  # a time that has run out meanwhile ends at once, for 0 would mean never
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - began), 1e-6), every)


def _able_to_ring() -> bool:
    """Tell whether the system has alarms here: in the main thread of a Unix process."""
    return hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()


# Of a time, the part in which even the busiest machine gives a process some of it, if it wants any.
IDLE = 0.01


class OutOfTimeError(BaseException):
    """It took too long; not an `Exception`, which the user's code may catch."""


@contextlib.contextmanager
def limited(seconds: float | None) -> Iterator[None]:
    """Interrupt a block after so much processor time, where the system can.

    A busy machine may take much longer over it. Time in which the block only waits counts as well: it would
    never have computed for long enough.

    Code that catches the interruption, or does not come to it, ends with the process that it has of its own.

    Raises:
        OutOfTimeError: it took longer.
    """
    if seconds is None or not _able_to_ring():
        yield
        return
    # once more the time, and a second: one long operation may end by itself, and only its cell be left
    with ends_after(2 * seconds + 1) as begin_anew, alarm_kept():
        began, before = time.thread_time(), time.process_time()

        def ring(_: int, __: FrameType | None) -> None:
            nonlocal before
            left, now = seconds - (time.thread_time() - began), time.process_time()
            if left <= 0 or now - before < IDLE * seconds:
                raise OutOfTimeError
            before = now
            begin_anew()  # on a busy machine the processor time takes longer than the clock's
            signal.setitimer(signal.ITIMER_REAL, max(left, IDLE * seconds))

        signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        yield
