"""What is compiled before a model's first step: no kernel twice, and none of them more than it must be."""

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from types import ModuleType

import pytest
from numba import typeof, types
from numba.core.registry import CPUDispatcher

from backhand.engines import native


def for_numbers(name: str) -> tuple[int, list[str]]:
    """Compile a model's steps; return how many kernels it has, and those compiled for one number alone."""
    found = kernels_of(name)
    literal = {
        k for k, e in found.items() for s in e.signatures if any(isinstance(t, types.Literal) for t in s)
    }
    return len(found), sorted(literal)


def kernels_of(name: str) -> dict[str, CPUDispatcher]:
    """Compile a model's steps anew; return all kernels that have been compiled."""
    module = native.steps(name)
    assert isinstance(module, ModuleType)
    module.STEPS.dispatcher(keep=False).compile(tuple(map(typeof, module.STEPS.example())))
    ours = [m for path, m in sys.modules.items() if path.startswith("backhand.engines.")]
    found = {key: each for m in ours for key, each in vars(m).items() if isinstance(each, CPUDispatcher)}
    return {key: each for key, each in found.items() if each.signatures}


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("native_steps", "transformer_steps")]


@pytest.mark.seconds
@pytest.mark.parametrize("name", ["gru_steps", *SLOW])
def test_no_kernel_is_compiled_for_a_number_and_for_all_numbers(name: str) -> None:
    # in a process of its own: another model may have had a kernel compiled for the number that it needs
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as apart:
        count, literal = apart.submit(for_numbers, name).result()
    assert count > 10
    assert literal == []


@pytest.mark.seconds
def test_kernels_are_translated_where_they_are_linked_and_not_before() -> None:
    for key, each in kernels_of("rnn_steps").items():
        for part in each.overloads.values():
            assert part.library.get_pointer_to_function(part.fndesc.mangled_name) == 0, key
            assert not part.library.codegen._engine.is_symbol_defined(part.fndesc.mangled_name), key
