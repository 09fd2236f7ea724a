"""Kernels as parts of one program: LLVM improves and translates them once, where all are linked.

Left alone, Numba finishes each function before another may call it, links it into each caller, and finishes
that with all that is in it: a kernel called through two others was finished three times. A third of the
compiling was that. What is done differently here, in subclasses of Numba's own: a part is neither improved
nor translated, and a program is improved in one go, as it has no references to prune in between.

These are inner parts of Numba, so with a version in which they were not tried each function is compiled as
Numba does it, which takes longer and rounds as well.
"""

from typing import Any

from numba import version_info
from numba.core.codegen import JITCodeLibrary, JITCPUCodegen
from numba.core.compiler import Compiler, CompilerBase, DefaultPassBuilder

# The first and the last version of Numba in which its parts were seen to be as they are used here.
TRIED = (0, 62), (0, 68)

WRAPPER = "_ZN7cpython"
"""How the name of what takes arguments from Python begins: with a hundred arrays, a fifth of a program."""


class PartLibrary(JITCodeLibrary):
    """A kernel as Numba wrote it, which is there to be linked."""

    def _optimize_functions(self, ll_module: Any) -> None:
        ll_module.data_layout = self._codegen._data_layout  # alone of what Numba does here

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_specific(self) -> None:
        pass  # it would be translated

    def get_pointer_to_function(self, name: str) -> int:
        """Return that there is none, as of whatever Python cannot call."""
        return 0


class SettledLibrary(PartLibrary):
    """A kernel that has been improved alone, and is linked so."""

    def _optimize_final_module(self) -> None:
        JITCodeLibrary._optimize_final_module(self)


class ProgramLibrary(JITCodeLibrary):
    """What Python calls, with all its parts."""

    def _optimize_functions(self, ll_module: Any) -> None:
        ll_module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self) -> None:
        for function in self._final_module.functions:  # the arguments are taken once in many steps
            if function.name.startswith(WRAPPER) and not function.is_declaration:
                function.add_function_attribute("noinline")
                function.add_function_attribute("optnone")
        passes, builder = self._codegen._module_pass_manager()
        passes.run(self._final_module, builder)


class PartCodegen(JITCPUCodegen):
    """Makes libraries of parts, none of which is ever run from here."""

    _library_class = PartLibrary

    def _add_module(self, module: Any) -> None:
        pass

    def set_env(self, env_name: str, env: Any) -> None:
        """Leave out which Python objects a function uses: a kernel uses none."""


PARTS = PartCodegen("parts")


class Part(CompilerBase):
    """Compiles a kernel for other kernels to call."""

    library: type[PartLibrary] = PartLibrary

    def define_pipelines(self) -> list[Any]:
        """Return Numba's own passes, whose result goes into this library."""
        self.state.library = self.library(PARTS, self.state.func_id.func_qualname)
        return [DefaultPassBuilder.define_nopython_pipeline(self.state)]


class Settled(Part):
    """Compiles a kernel whose sums LLVM orders before it sees what stands around them."""

    library: type[PartLibrary] = SettledLibrary


class Program(CompilerBase):
    """Compiles a function for Python to call, and to be kept in the cache."""

    def define_pipelines(self) -> list[Any]:
        """Return Numba's own passes, whose result goes into a library of ours."""
        self.state.library = ProgramLibrary(self.state.targetctx.codegen(), self.state.func_id.func_qualname)
        self.state.library.enable_object_caching()
        return [DefaultPassBuilder.define_nopython_pipeline(self.state)]


PART, SETTLED, PROGRAM = Part, Settled, Program
if not TRIED[0] <= version_info.short <= TRIED[1]:
    PART = SETTLED = PROGRAM = Compiler
