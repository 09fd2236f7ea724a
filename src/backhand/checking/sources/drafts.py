"""First tries at gradients that the same cell makes again: the last one is judged, the others are told of."""

import ast
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from torch import Tensor

from backhand.checking.mistakes.finding import listed
from backhand.checking.running.names import MISSPELT, nearest
from backhand.checking.running.statements import begins_anew, reads, writes_surely
from backhand.checking.sources.playing import Played


def without_drafts(played: Played) -> Played:
    """Return what has run without the drafts of its cells, each with a note."""
    losses = {loss.statement for loss in played.losses}
    known = {f"{d}{name}" for loss in played.losses for name in loss.values for d in ("d", "d_")}
    dropped: set[ast.stmt] = set()
    notes: list[str] = []
    for cell, its in groupby(played.ran, played.source.cell):
        if not cell:  # a plain script has no cells that a draft could be told from an exercise by
            continue
        statements = list(its)
        draft = [s for s in drafts(statements, known) if s not in losses]
        names = {n for s in draft for n in writes_surely(s) & known}
        dropped.update(draft)
        if names:
            are = "are" if len(names) > 1 else "is"
            notes.append(f"{cell}: {listed(sorted(names))} {are} made twice; the last one is judged.")
    return replace(played, ran=tuple(s for s in played.ran if s not in dropped)).noting(*notes)


def drafts(statements: Sequence[ast.stmt], gradients: set[str]) -> list[ast.stmt]:
    """Return the statements that make gradients which are all made anew before anything uses the old ones.

    >>> lines = ast.parse("dh = dy * h; dx = dh * 2; dh = dy * w; dx = dh * 3").body
    >>> [ast.unparse(s) for s in drafts(lines, {"dh", "dx"})]
    ['dh = dy * h', 'dx = dh * 2']
    """
    for i, first in enumerate(statements):
        for name in sorted(writes_surely(first) & gradients):
            again = (j for j in range(i + 1, len(statements)) if begins_anew(statements[j], name))
            j = next(again, None)
            if j is not None and begins_anew(first, name) and _is_made_anew(statements, i, j, gradients):
                draft = [s for s in statements[i:j] if writes_surely(s) & gradients]
                return draft + drafts([s for s in statements if s not in draft], gradients)
    return []


def _is_made_anew(statements: Sequence[ast.stmt], start: int, end: int, gradients: set[str]) -> bool:
    """Tell whether all gradients that some statements make are begun anew below, before they are read."""
    old = {n for s in statements[start:end] for n in writes_surely(s) & gradients}
    for s in statements[end:]:
        begun = {n for n in old if begins_anew(s, n)}
        if old & (reads(s) | writes_surely(s)) - begun:
            return False
        old -= begun
    return not old


def misspelt(played: Played, missing: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Return the variables that may be meant to be gradients that are missing, for their names are near.

    Args:
        played: what has run.
        missing: the gradients that are not there.
        known: those that are.
    """
    first = next(
        (i for i, s in enumerate(played.ran) if played.losses and s is played.losses[0].statement), 0
    )
    written = {n: None for s in played.ran[first:] for n in sorted(writes_surely(s))}
    tensors = [n for n in written if n.startswith("d") and isinstance(played.final.get(n), Tensor)]
    return tuple(n for n in tensors if n not in {*missing, *known} and nearest(n, missing, MISSPELT))
