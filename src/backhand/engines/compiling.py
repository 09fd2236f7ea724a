"""Machine code that is compiled once on a machine, and kept in Numba's cache."""

import gc
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from numba import njit, typeof

from .kernels import MACHINE
from .linking import PROGRAM


@contextmanager
def uncollected() -> Iterator[None]:
    """Look for no unreachable cycles: compiling makes few, and each look goes through all of PyTorch."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@dataclass(frozen=True)
class Compiled:
    """A function as machine code, for arguments of one set of types.

    Args:
        function: the Python function.
        sources: names of the modules beside this one whose kernels it is made of, its own included.
        example: returns arguments of these types, as small as they can be.
    """

    function: Callable[..., None]
    sources: tuple[str, ...]
    example: Callable[[], Sequence[Any]]

    def fingerprint(self) -> str:
        """Return a name for the sources that the machine code is made of.

        Numba's cache looks at the date of the file of the function alone; so its name tells the others apart.
        """
        sources = (Path(__file__).with_name(f"{name}.py").read_bytes() for name in self.sources)
        return f"{self.function.__name__}_{hashlib.sha256(b''.join(sources)).hexdigest()[:12]}"

    def dispatcher(self, keep: bool) -> Any:
        """Return the function for Numba to compile; with `keep`, or to load as it was compiled before."""
        self.function.__qualname__ = self.fingerprint()
        ask: dict[str, Any] = MACHINE | {"nogil": True, "no_cfunc_wrapper": True, "pipeline_class": PROGRAM}
        return njit(**ask, cache=keep)(self.function)

    def is_kept(self) -> bool:
        """Return whether machine code of these sources is in the cache."""
        try:
            folder = Path(self.dispatcher(keep=True).stats.cache_path)
        except (RuntimeError, OSError):
            return False
        return any(folder.glob(f"*{self.fingerprint()}*.nbc"))

    @cache  # noqa: B019  # there is one for each type of model, and it lives as long as the process
    def machine_code(self) -> Callable[..., None]:
        """Return machine code: compiled in some seconds, or from the cache in less than one.

        Where no folder can be written that Numba keeps such things in, it is compiled anew in every process.
        """
        signature = tuple(map(typeof, self.example()))
        with uncollected():
            try:
                compiled = self.dispatcher(keep=True)
                compiled.compile(signature)
            except (RuntimeError, OSError):
                compiled = self.dispatcher(keep=False)
                compiled.compile(signature)
        compiled.disable_compile()  # arguments of other kinds would be compiled for, without a word
        return compiled
