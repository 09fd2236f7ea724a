"""The native engine: the fused step in machine code, thousands of steps a call."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from . import kernels
from .kernels import LANES, Scratch, Weights
from .stepping import Parameters, Running


def padded(size: int) -> int:
    """Return the next multiple of LANES."""
    return -(-size // LANES) * LANES


def zeros(*shape: int) -> np.ndarray:
    """Return a float32 array of zeros that begins at a multiple of 64 bytes, where cache lines begin."""
    size = int(np.prod(shape))
    room = np.zeros(size + LANES, np.float32)
    begin = -room.ctypes.data // 4 % LANES
    return room[begin : begin + size].reshape(shape)


def make_weights(vocabulary: int, block_size: int, n_embd: int, n_hidden: int) -> Weights:
    """Return room for parameters."""
    vocabulary, n_embd, n_hidden = padded(vocabulary), padded(n_embd), padded(n_hidden)
    shapes = {
        "C": (vocabulary, n_embd),
        "W1": (block_size, n_embd, n_hidden),
        "b1": (n_hidden,),
        "W2": (n_hidden, vocabulary),
        "b2": (vocabulary,),
        "bngain": (n_hidden,),
        "bnbias": (n_hidden,),
    }
    ends = np.cumsum([np.prod(shape) for shape in shapes.values()]).tolist()
    flat = zeros(ends[-1])
    views = {
        name: flat[begin:end].reshape(shape)
        for (name, shape), begin, end in zip(shapes.items(), [0, *ends], ends, strict=False)
    }
    return Weights(flat, **views)


def make_scratch(n: int, vocabulary: int, block_size: int, n_embd: int, n_hidden: int) -> Scratch:
    """Return room for what a step writes."""
    u = padded(min(n, vocabulary))
    rows, symbols, n_embd, n_hidden = padded(n), padded(vocabulary), padded(n_embd), padded(n_hidden)
    ones = zeros(rows)
    ones[:] = 1
    return Scratch(
        table=np.full(max(n, 1) * vocabulary, -1, np.int32),
        keys=np.zeros(n, np.int64),
        rows=np.zeros(n, np.int64),
        firsts=np.zeros(n, np.int64),
        seconds=np.zeros(n, np.int64),
        w=zeros(rows),
        ones=ones,
        u=np.zeros(block_size, np.int64),
        symbols=np.zeros((block_size, u), np.int64),
        slots=np.zeros((block_size, n), np.int64),
        emb=zeros(block_size, u, n_embd),
        tables=zeros(block_size, u, n_hidden),
        hprebn=zeros(rows, n_hidden),
        bnmeani=zeros(n_hidden),
        bnvar=zeros(n_hidden),
        bnvar_inv=zeros(n_hidden),
        part=zeros(max(n_hidden, symbols)),
        h=zeros(rows, n_hidden),
        dh=zeros(rows, n_hidden),
        logits=zeros(rows, symbols),
        W1T=zeros(block_size, n_hidden, n_embd),
        W2T=zeros(symbols, n_hidden),
    )


def native(
    parameters: Parameters, Xs: Tensor, Ys: Tensor, rates: Sequence[float], running: Running | None = None
) -> Tensor:
    """Take some steps as an `Engine` does."""
    (vocabulary, n_embd), n_hidden = parameters["C"].shape, len(parameters["b1"])
    block_size = Xs.shape[2]
    sizes = (vocabulary, block_size, n_embd, n_hidden)
    p, d, s = make_weights(*sizes), make_weights(*sizes), make_scratch(Xs.shape[1], *sizes)
    shaped = {name: t.numpy().squeeze(0) if t.shape[0]==1 and name.startswith("bn") else t.numpy() for name, t in parameters.items()}
    shaped["W1"] = shaped["W1"].reshape(block_size, n_embd, n_hidden)
    for name, values in shaped.items():
        getattr(p, name)[tuple(map(slice, values.shape))] = values
    losses = np.empty(len(rates), np.float32)
    bnmean, bnstd = (t.numpy()[0] for t in running) if running is not None else (s.bnvar[:n_hidden], s.bnvar[:n_hidden])
    kernels.take_steps(
        np.ascontiguousarray(Xs.numpy()),
        np.ascontiguousarray(Ys.numpy()),
        np.asarray(rates, np.float32),
        losses,
        p,
        d,
        s,
        (vocabulary, n_embd, n_hidden),
        running is not None,
        bnmean,
        bnstd,
    )
    for name, values in shaped.items():
        values[:] = getattr(p, name)[tuple(map(slice, values.shape))]
    return torch.from_numpy(losses)
