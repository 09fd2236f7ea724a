"""Measuring how much memory training takes, each contender in a process of its own."""

import subprocess
import sys
from collections.abc import Callable, Sequence

MEMORY = """
import sys
from backhand.benching import timing
from backhand.benching.machine import peak_megabytes
from backhand.threads import one_thread
name, batch_size = sys.argv[1], int(sys.argv[2])
with one_thread():
    timing.make_case("names", 10, 200, batch_size).run(timing.CONTENDERS[name], timing.CHECKED_STEPS)
print(peak_megabytes())
"""


def measure_memory(names: Sequence[str], batch_size: int, watch: Callable[[str], None]) -> dict[str, float]:
    """Return megabytes of memory, at most, of a process of its own that trains with each contender."""
    found = {}
    for name in names:
        watch(f"peak memory: {name}, batch {batch_size:,}")
        arguments = [sys.executable, "-c", MEMORY, name, str(batch_size)]
        done = subprocess.run(arguments, capture_output=True, text=True)
        if done.returncode == 0:
            found[name] = float(done.stdout.split()[-1])
    return found
