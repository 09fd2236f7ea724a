"""The machine that a benchmark ran on."""

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch


def describe_machine() -> dict[str, str]:
    """Return processor, cores, system and versions."""
    packages = {"torch": str(torch.__version__)}  # which tells the build too, such as +cpu
    for name in ("numba", "numpy", "jax"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    return {
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "system": platform.system(),
        "python": platform.python_version(),
        **packages,
    }


def processor() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def sgemm_gflops(size: int = 1024, repeats: int = 15) -> float:
    """Return the best rate of a float32 product of two square matrices on one core, in GFLOP a second."""
    a, b = torch.randn(2, size, size, generator=torch.Generator().manual_seed(0))
    best = float("inf")
    for _ in range(repeats):
        began = time.process_time()  # on a busy machine, the clock goes on while others compute
        torch.mm(a, b)
        best = min(best, time.process_time() - began)
    return 2 * size**3 / best / 1e9


def peak_megabytes() -> float:
    """Return how much memory this process has held at most."""
    status = Path("/proc/self/status")
    if status.exists():  # the kernel's other count begins with what the parent process held
        lines = status.read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2  # bytes on macOS
