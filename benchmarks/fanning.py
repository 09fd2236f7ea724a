"""Do many small jobs in forked processes, each with a limit of processor time: one that takes longer ends."""

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

SLOW = "slow"
PATIENCE = 10  # times the limit: what a job may take by the clock, on a machine that does much besides


def fanned(
    do: Callable[[Any], Any], jobs: Sequence[Any], workers: int, limit: float
) -> Iterator[tuple[int, Any]]:
    """Yield the number and the result of every job as they come; `SLOW` of those that took too long.

    The processes are forked, so that jobs need not be picklable; only results are.
    """
    context = multiprocessing.get_context("fork")
    todo = iter(range(len(jobs)))
    running: dict[Connection, list[Any]] = {}  # to its process, the number of its job, and when it must end

    def start() -> None:
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(do, jobs, limit, theirs), daemon=True)
        process.start()
        theirs.close()
        running[ours] = [process, None, 0.0]
        hand_out(ours)

    def hand_out(ours: Connection) -> None:
        number = next(todo, None)
        if number is None:
            running.pop(ours)[0].kill()
        else:
            running[ours][1:] = number, time.monotonic() + PATIENCE * limit
            ours.send(number)

    for _ in range(min(workers, len(jobs))):
        start()
    while running:
        for ours in wait(list(running), timeout=0.5):
            assert isinstance(ours, Connection)
            number = running[ours][1]
            try:
                result = ours.recv()
            except EOFError:  # the process died of it, at its limit or otherwise
                result = SLOW
                running.pop(ours)
                start()
            else:
                hand_out(ours)
            yield number, result
        for ours, (process, number, until) in list(running.items()):
            if time.monotonic() > until:
                process.kill()
                running.pop(ours)
                start()
                yield number, SLOW


def _work(do: Callable[[Any], Any], jobs: Sequence[Any], limit: float, pipe: Connection) -> None:
    while True:
        number = pipe.recv()
        signal.setitimer(signal.ITIMER_PROF, limit)  # its signal ends the process
        pipe.send(do(jobs[number]))
