"""The cells of a live session as they run; from them, the pass that is hidden in the session is checked.

The forward is run again from the recorded statements and the values that its inputs had, so that it does not
matter whether the user's own graph is still alive.
"""

import ast
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from backhand.checking.running.statements import begins_anew, reads, writes_surely
from backhand.checking.sources.cells import Cells
from backhand.checking.sources.chapters import is_definition, trains
from backhand.checking.sources.notebooks import as_python
from backhand.checking.sources.playing import Played


class Recording:
    """What has run in a session, statement by statement.

    Args:
        loss: the name of the scalar in which the forward ends.
    """

    def __init__(self, loss: str = "loss"):
        self.loss = loss
        self._played = Played(Cells((), ()), loss)

    def add(self, label: str, text: str, namespace: Mapping[str, Any]) -> tuple[str, ...]:
        """Take note of a cell that has run, and return the gradients that it assigned.

        Args:
            label: what the cell is called in messages.
            text: its source, magics included.
            namespace: the variables after it.
        """
        try:
            tree = ast.parse(as_python(text))
        except SyntaxError:
            return ()
        source = self._played.source.with_cell(label, text, tree)
        self._played = _noted(replace(self._played, source=source), tree.body, namespace)
        found: dict[str, None] = {}
        for statement in tree.body:
            if not trains(statement, self.loss) and not is_definition(statement):
                for name in sorted(writes_surely(statement)):
                    judged = isinstance(namespace.get(name[1:]), Tensor)
                    if name.startswith("d") and judged and namespace.get(name) is not Ellipsis:
                        found[name] = None
        return tuple(found)

    def knows_the_loss(self) -> bool:
        """Tell whether a cell that assigned the loss has been recorded."""
        return bool(self._played.losses)

    def as_played(self, namespace: Mapping[str, Any]) -> Played:
        """Return the session as it stands: the gradients of its last loss.

        Args:
            namespace: the variables now.
        """
        final = {k: v for k, v in namespace.items() if not k.startswith("_")}
        # a session is at its last loss; earlier ones were judged when their cells ran
        return replace(self._played, losses=self._played.losses[-1:], final=final)


def _noted(played: Played, statements: list[ast.stmt], namespace: Mapping[str, Any]) -> Played:
    """Return it with a cell's statements; those that begin a gradient anew take the place of its old ones."""
    ran = played.ran
    # a cell that runs again, perhaps mended, stands for its old self: the gradient is judged once
    anew = {n for s in statements for n in writes_surely(s) if n.startswith("d") and begins_anew(s, n)}
    void = [s for s in ran if len(writes_surely(s)) == 1 and writes_surely(s) <= anew]
    # it goes where the old one stood, so that later cells are still later; but below what it reads
    needed = {played.loss} | {n for s in statements for n in reads(s)} - anew
    place = max((i + 1 for i, s in enumerate(ran) if writes_surely(s) & needed), default=0)
    place = max(place, ran.index(void[0])) if void else len(ran)
    noted = replace(played, ran=tuple(s for s in ran[:place] if s not in void))
    for statement in statements:
        noted = noted.after(statement, namespace)
    return replace(noted, ran=(*noted.ran, *(s for s in ran[place:] if s not in void)))
