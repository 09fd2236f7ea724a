"""The native engine: the fused step as machine code, thousands of steps a call, on one core.

The step itself is in `native_steps`, which needs Numba; this module does not, until the engine is used.
"""

import importlib
import logging
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from backhand.passes import mlp_fused

from .graphed import graphed
from .stepping import Engine, Parameters, Running, by_hand

LOG = logging.getLogger(__name__)

fused: Engine = graphed(by_hand(mlp_fused))


class NativeEngineWarning(UserWarning):
    """The native engine cannot do what it was asked for; the fused engine does it, more slowly."""


def engine(
    parameters: Parameters, Xs: Tensor, Ys: Tensor, rates: Sequence[float], running: Running | None = None
) -> Tensor:
    """Take some steps as an `Engine` does, in machine code.

    On a GPU the fused engine takes them, as a CUDA graph. It does so on a CPU too, after a
    NativeEngineWarning, where Numba cannot be imported, the CPU has neither AVX2 nor NEON, or the parameters
    are not float32.

    Raises:
        IndexError: a symbol is not in the vocabulary.
    """
    if parameters["C"].device.type != "cpu":
        return fused(parameters, Xs, Ys, rates, running)
    reason = why_not(parameters)
    if reason is not None:
        warnings.warn(f"{reason}; the fused engine takes its place", NativeEngineWarning, stacklevel=2)
        return fused(parameters, Xs, Ys, rates, running)
    return take_steps(parameters, Xs, Ys, rates, running)


def why_not(parameters: Parameters) -> str | None:
    """Return why machine code cannot train these parameters, or None."""
    for name, p in parameters.items():
        if p.dtype != torch.float32:
            return f"the native engine computes in float32, and {name} is {p.dtype}"
    missing = steps()
    return missing if isinstance(missing, str) else None


@cache
def steps(name: str = "native_steps") -> ModuleType | str:
    """Import the module of a model's steps; return it, or why machine code cannot be made here."""
    try:
        module, tiles = (importlib.import_module(f".{each}", __package__) for each in (name, "tiles"))
    except ImportError as error:
        return f"the native engine needs Numba, which cannot be imported ({error}; try: pip install numba)"
    if not tiles.HAS_VECTORS:
        return "the native engine needs a CPU with AVX2 or NEON, and this has neither"
    return module


@cache
def machine_code(name: str = "native_steps") -> Callable[..., None]:
    """Return a model's steps as machine code, compiled now unless that has been done on this machine.

    Compiling is told to the log of this module, because it takes some seconds.
    """
    module = steps(name)
    assert isinstance(module, ModuleType)
    if not module.STEPS.is_kept():
        LOG.info("compiling the native engine, once; this takes some seconds")
    return module.STEPS.machine_code()


def warm() -> None:
    """Compile the native engine, where Numba is there to do it."""
    if isinstance(steps(), ModuleType):
        machine_code()


def take_steps(
    parameters: Parameters, Xs: Tensor, Ys: Tensor, rates: Sequence[float], running: Running | None
) -> Tensor:
    """Copy the parameters into padded matrices, take the steps, and copy them back."""
    module = steps()
    assert isinstance(module, ModuleType)
    (vocabulary, n_embd), n_hidden = parameters["C"].shape, len(parameters["b1"])
    n, block_size = Xs.shape[1:]
    for symbols in (Xs, Ys):
        if symbols.numel() and not 0 <= symbols.min() <= symbols.max() < vocabulary:
            raise IndexError(f"symbols are numbered from 0 to {vocabulary - 1}; there is one beyond")
    sizes = (vocabulary, block_size, n_embd, n_hidden)
    p = module.make_weights(*sizes)
    shapes = dict.fromkeys(("b1", "bngain", "bnbias"), (n_hidden,))
    shapes |= {"C": (vocabulary, n_embd), "W1": sizes[1:], "W2": (n_hidden, vocabulary), "b2": (vocabulary,)}
    inner = {name: getattr(p, name)[tuple(map(slice, shape))] for name, shape in shapes.items()}
    for name, values in inner.items():
        values[:] = parameters[name].detach().numpy().reshape(shapes[name])
    losses, unused = np.empty(len(rates), np.float32), np.empty(0, np.float32)
    statistics = [t.numpy().reshape(-1) for t in running or ()] or [unused, unused]
    machine_code()(
        np.ascontiguousarray(Xs.numpy()),
        np.ascontiguousarray(Ys.numpy()),
        torch.tensor(rates, dtype=torch.float32).numpy(),  # beyond float32's range: infinity, without a word
        losses,
        p,
        module.make_scratch(n, *sizes),
        (vocabulary, n_embd, n_hidden),
        running is not None,
        *statistics,
    )
    for name, values in inner.items():
        parameters[name].detach().numpy()[:] = values.reshape(parameters[name].shape)
    return torch.from_numpy(losses)
