"""What both recurrent nets share: the first layer as a table, and the states of a trie, level by level.

What a symbol adds to the gates of a state, `E[symbol] @ Wx + b`, is the same wherever it stands. So it is
computed once for each symbol, a table of V rows, and the backward adds each gradient into the symbol's row.

Shapes: V symbols, e numbers in an embedding, m in a state, g in all its gates, R rows of states.
"""

from typing import NamedTuple

import numpy as np

from .kernels import ONE, Matrix, Row, add_product, once, product, repeat, sum_rows, transpose
from .padding import padded, zeros
from .tries import Trie, make_trie, rows_of
from .word_layers import Head, make_head


class States(NamedTuple):
    """What a step writes before it reads it, padded."""

    trie: Trie
    head: Head
    table: np.ndarray  # (V, g): E @ Wx + b, then its gradient
    WxT: np.ndarray  # (g, e)
    part: np.ndarray  # (g,): sums of some rows
    before: np.ndarray  # (R, m): the state before
    h: np.ndarray  # (R, m)
    dbefore: np.ndarray  # (R, m), of one level


def make_states(n: int, T: int, vocabulary: int, n_embd: int, width: int, gates: int) -> States:
    """Return room for a step on n words, with so many gates in a state."""
    V, e, m = padded(vocabulary), padded(n_embd), padded(width)
    g, rows = gates * m, rows_of(n, T)
    return States(
        trie=make_trie(n, T, vocabulary),
        head=make_head(rows, vocabulary, width),
        table=zeros(V, g),
        WxT=zeros(g, e),
        part=zeros(max(g, V)),
        before=zeros(rows, m),
        h=zeros(rows, m),
        dbefore=zeros(rows, m),
    )


@once
def fill_table(E: Matrix, Wx: Matrix, b: Row, V: int, e: int, table: Matrix) -> None:
    """table = E @ Wx + b."""
    repeat(b, V, table)
    add_product(ONE, E, Wx, table, V, e)  # (V, g)


@once
def table_backward(
    E: Matrix,
    Wx: Matrix,
    dE: Matrix,
    dWx: Matrix,
    db: Row,
    V: int,
    e: int,
    table: Matrix,
    ones: Row,
    part: Row,
    WxT: Matrix,
) -> None:
    """dE, dWx and db, from the table's gradient."""
    sum_rows(ones, table, V, part, db)  # (g,)
    product(E.T, table, dWx, e, V)  # (e, g)
    transpose(Wx, WxT)
    product(table, WxT, dE, V, table.shape[1])  # (V, e)
