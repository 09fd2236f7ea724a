"""Room for what a step of the transformer writes, and what it must know besides.

Shapes: L layers, R rows of nodes, T positions, d numbers in a row, heads of k numbers each.
"""

from typing import NamedTuple

import numpy as np
import torch

from . import dropping
from .axes import Sizes
from .native_words import Settings
from .padding import padded, zeros
from .tries import Trie, make_trie, rows_of
from .word_layers import Head, make_head


class Kept(NamedTuple):
    """What the forward of each layer leaves to its backward, padded."""

    xhat1: np.ndarray  # (L, R, d), as whatever has no shape here
    scale1: np.ndarray  # (L, R)
    y1: np.ndarray
    qkv: np.ndarray  # (L, R, 3 heads k)
    weights: np.ndarray  # (L, R, T heads)
    mixed: np.ndarray  # (L, R, heads k)
    xhat2: np.ndarray
    scale2: np.ndarray  # (L, R)
    y2: np.ndarray
    slope: np.ndarray  # (L, R, 4 d): GELU's derivative
    y3: np.ndarray  # (L, R, 4 d): GELU's result


class Scratch(NamedTuple):
    """What a step writes before it reads it, padded."""

    paths: np.ndarray  # (R, T) int64: the nodes from the root to each
    elements: np.ndarray  # (R,) int64: the number of a row's first element in `dropping`
    x: np.ndarray  # (R, d), then dx
    branch: np.ndarray  # (R, d), then dbranch
    xhat: np.ndarray  # (R, d), of the last norm, as the next two
    scale: np.ndarray  # (R,)
    y: np.ndarray  # (R, d)
    dy: np.ndarray  # (R, d), of what a product took in
    dy3: np.ndarray  # (R, 4 d), then dz
    dmixed: np.ndarray  # (R, heads k)
    dqkv: np.ndarray  # (R, 3 heads k)
    WqkvT: np.ndarray  # (3 heads k, d)
    WprojT: np.ndarray  # (d, heads k)
    WfcT: np.ndarray  # (4 d, d)
    WoutT: np.ndarray  # (d, 4 d)
    part: np.ndarray  # (4 d,): sums of some rows
    slopes: np.ndarray  # (T heads,)


class Dropping(NamedTuple):
    """What `dropping` needs: keys, below which hashes elements are dropped, and the factor of the rest."""

    keys: np.ndarray  # (steps, L, 2) int64
    threshold: int
    scale: np.float32


class Counts(NamedTuple):
    """Sizes that are not padded, and what scores of attention are multiplied with."""

    V: int
    T: int
    d: int
    heads: int
    sharpness: np.float32


Extras = tuple[Trie, Head, Kept, Scratch, Dropping, Counts]


def make_extras(shape: tuple[int, int, int], sizes: Sizes, settings: Settings) -> Extras:
    """Return room for a step on minibatches of this shape, the keys of dropout, and the sizes."""
    steps, n, T = shape
    V, L, d, heads = sizes["V"], sizes["L"], sizes["d"], settings.heads
    drop = Dropping(
        keys_of(settings.seed, settings.steps_before, steps, L),
        dropping.threshold(settings.dropout),
        np.float32(dropping.scale(settings.dropout)),
    )
    R, hk = rows_of(n, T), heads * padded(sizes["k"])
    counts = Counts(V, T, d, heads, np.float32(sizes["k"] ** -0.5))
    kept = make_kept(L, R, padded(d), hk, padded(T * heads))
    scratch = make_scratch(R, T, padded(d), hk, padded(T * heads))
    return make_trie(n, T, V), make_head(R, V, d), kept, scratch, drop, counts


def make_kept(L: int, R: int, d: int, hk: int, Th: int) -> Kept:
    """Return room for what the forwards leave, for padded sizes."""
    return Kept(
        **{name: zeros(L, R, d) for name in ("xhat1", "y1", "xhat2", "y2")},
        **{name: zeros(L, R, 4 * d) for name in ("slope", "y3")},
        **{name: zeros(L, R) for name in ("scale1", "scale2")},
        qkv=zeros(L, R, 3 * hk),
        weights=zeros(L, R, Th),
        mixed=zeros(L, R, hk),
    )


def make_scratch(R: int, T: int, d: int, hk: int, Th: int) -> Scratch:
    """Return room for what a step needs besides, for padded sizes."""
    return Scratch(
        **{name: zeros(R, d) for name in ("x", "branch", "xhat", "y", "dy")},
        paths=np.zeros((R, T), np.int64),
        elements=np.zeros(R, np.int64),
        scale=zeros(R),
        dy3=zeros(R, 4 * d),
        dmixed=zeros(R, hk),
        dqkv=zeros(R, 3 * hk),
        WqkvT=zeros(3 * hk, d),
        WprojT=zeros(d, hk),
        WfcT=zeros(4 * d, d),
        WoutT=zeros(d, 4 * d),
        part=zeros(max(4 * d, 3 * hk)),
        slopes=zeros(Th),
    )


def keys_of(seed: int, steps_before: int, steps: int, layers: int) -> np.ndarray:
    """Return the keys of dropout: int64 (steps, layers, branches)."""
    step, layer, branch = (torch.arange(size) for size in (steps, layers, dropping.BRANCHES))
    step = step[:, None, None] + steps_before
    return dropping.stream(torch.tensor(seed), step, layer[:, None], branch).numpy()
