"""A minibatch of words as a trie: what words share is computed once.

In a model that reads a word from its beginning, the hidden state at a letter depends on the letters up to it
alone. So words that begin alike share their states as far as they do: a state is a node of the trie of the
minibatch's words, and nodes of one level, one position, stand in successive rows. A node's gradient is the
sum over the words that pass it, which is what the gradients of its children add up to. What follows the end
of a word is no node at all.

Of a minibatch of 32 names in 16 positions, 512 in all, some 225 hold letters, and some 170 are different.
"""

from typing import NamedTuple

import numpy as np

from .kernels import ONE, Indices, Matrix, kernel, number, once
from .padding import padded, zeros
from .tiles import stand_alone


class Trie(NamedTuple):
    """The nodes of a minibatch, and what is needed to find them; n words of T positions."""

    table: np.ndarray  # (n * vocabulary,) int32, all -1
    keys: np.ndarray  # (n,) int64, as the next five
    numbers: np.ndarray
    firsts: np.ndarray
    active: np.ndarray  # words that are at least as long as the level
    at: np.ndarray  # the node of each word, counted in its level
    sizes: np.ndarray  # how many positions each word has
    begins: np.ndarray  # (T + 1,) int64: the first row of each level
    symbols: np.ndarray  # (n * T,) int64, as the next four: of each node
    parents: np.ndarray  # the row of the node before
    words: np.ndarray  # the first word that passes it
    nodes: np.ndarray  # the row of each position that has a target
    targets: np.ndarray
    w: np.ndarray  # (n * T,): how many targets a node has
    ones: np.ndarray  # (n * T,)


def rows_of(n: int, T: int) -> int:
    """Return room for the nodes of n words of T positions, padded, and for one more row.

    Products take pairs of rows, and the last level may begin at any.
    """
    return padded(n * T + 1)


def make_trie(n: int, T: int, vocabulary: int) -> Trie:
    """Return room for the tries of minibatches of n words of at most T positions."""
    room = {name: np.zeros(n, np.int64) for name in ("keys", "numbers", "firsts", "active", "at", "sizes")}
    names = ("symbols", "parents", "words", "nodes", "targets")
    room |= {name: np.zeros(n * T, np.int64) for name in names}
    return Trie(
        table=np.full(n * vocabulary, -1, np.int32),
        begins=np.zeros(T + 1, np.int64),
        w=zeros(padded(n * T)),
        ones=zeros(padded(n * T)) + np.float32(1),
        **room,
    )


@once
def level(
    X: Indices,
    t: int,
    vocabulary: int,
    begin: int,
    trie: Trie,
) -> int:
    """Number the nodes at position t: pairs of the node before and a symbol. Return how many there are."""
    count = t - t  # 0 itself would be a type of its own, and `number` compiled for it as well
    for i in range(len(X)):
        if t < trie.sizes[i]:
            trie.active[count] = i
            trie.keys[count] = trie.at[i] * vocabulary + X[i, t]
            count += 1
    nodes = number(trie.keys, count, trie.table, trie.numbers, trie.firsts)
    for k in range(nodes):
        i = trie.active[trie.firsts[k]]
        trie.symbols[begin + k], trie.words[begin + k] = X[i, t], i
        trie.parents[begin + k] = trie.begins[max(t - 1, 0)] + trie.at[i]
        trie.w[begin + k] = 0
    for k in range(count):
        trie.at[trie.active[k]] = trie.numbers[k]
    return nodes


@kernel
def grow(
    X: Indices,
    Y: Indices,
    vocabulary: int,
    trie: Trie,
) -> tuple[int, int]:
    """Make the trie of the words X, up to their last target in Y; return its levels' and targets' number."""
    stand_alone()
    n, T = Y.shape
    levels = 0
    for i in range(n):
        trie.at[i] = trie.sizes[i] = 0
        for t in range(T):
            if Y[i, t] >= 0:
                trie.sizes[i] = t + 1
        levels = max(levels, trie.sizes[i])
    targets = end = levels - levels
    for t in range(levels):
        begin, end = end, end + level(X, t, vocabulary, end, trie)
        trie.begins[t], trie.begins[t + 1] = begin, end
        for i in range(n):
            if t < trie.sizes[i] and Y[i, t] >= 0:
                trie.nodes[targets] = begin + trie.at[i]
                trie.targets[targets] = Y[i, t]
                trie.w[begin + trie.at[i]] += ONE
                targets += 1
    return levels, targets


@kernel
def take_rows(
    x: Matrix,
    index: Indices,
    begin: int,
    end: int,
    column: int,
    out: Matrix,
) -> None:
    """out[r] = x[index[r], column:], for the rows from begin to end, as far as out has columns."""
    for r in range(begin, end):
        row, line = out[r], x[index[r], column:]
        for k in range(len(row)):
            row[k] = line[k]


@kernel
def add_into_rows(
    d: Matrix,
    index: Indices,
    begin: int,
    end: int,
    column: int,
    out: Matrix,
) -> None:
    """out[index[r], column:] += d[r - begin], for the rows from begin to end: the gradient of `take_rows`."""
    for r in range(begin, end):
        row, line = out[index[r], column:], d[r - begin]
        for k in range(len(line)):
            row[k] += line[k]
