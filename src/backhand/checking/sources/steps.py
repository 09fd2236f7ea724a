"""Classes with a method that trains: the loss, the gradients of what lies on the object and the step in one.

`def train_step(self, inputs, targets, lr): ... loss += ...; dW += ...; self.W -= lr * dW`: what the loss and
the gradients are made of becomes a method that returns them, as a model's loss does. Of a loop that holds all
of it the first turn is taken.
"""

import ast
import copy
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from backhand.checking.running.statements import writes
from backhand.checking.sources.chapters import needed_for
from backhand.checking.sources.returned import tensor_named

LOSS = "(\\w+_)?(loss|cost)(_\\w+)?|J"


@dataclass(frozen=True)
class Step:
    """What a method that trains makes.

    Attributes:
        loss: the variable of the loss.
        gradients: the variables of the gradients, in the order of the text.
        blocks: the method's statements, and, where a loop holds all of it, that of each loop down to it.
    """

    loss: str
    gradients: tuple[str, ...]
    blocks: tuple[Sequence[ast.stmt], ...]

    @staticmethod
    def of(method: ast.FunctionDef) -> "Step | None":
        """Return what a method makes; None if it makes no loss, or no gradient of what lies on its object.

        >>> text = "def fit(self, x):\\n  y = self.W * x\\n  loss = y @ y\\n  dW = 2 * y * x\\n  self.W -= dW"
        >>> Step.of(ast.parse(text).body[0]).gradients
        ('dW',)
        """
        owner = method.args.args[0].arg if method.args.args else ""
        nodes = [n for n in ast.walk(method) if isinstance(n, ast.Attribute)]
        held = {n.attr for n in nodes if getattr(n.value, "id", "") == owner}
        names = [n for n in ast.walk(method) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
        made = [n for n in dict.fromkeys(n.id for n in names) if n not in held]
        loss = next((n for n in made if re.fullmatch(LOSS, n)), None)
        gradients = [n for n in made if held.intersection(tensor_named(n)[:1])]
        if loss is None or not gradients:
            return None
        blocks = tuple(_blocks(method.body, {loss, *gradients}))
        # what each turn of a loop makes anew is that of a state, and nothing that is added up
        anew = {n for s in blocks[-1] if isinstance(s, ast.For | ast.While) for n in _bound(s.body)}
        kept = tuple(n for n in gradients if n not in anew)
        return Step(loss, kept, blocks) if kept else None

    def body(self) -> list[ast.stmt]:
        """Return the statements that make the loss and the gradients, and return them."""
        wanted = [self.loss, *self.gradients]
        last = ast.parse(f"return {', '.join(wanted)}").body[0]
        ast.fix_missing_locations(ast.copy_location(last, self.blocks[-1][-1]))
        found = [*needed_for(self.blocks[-1], wanted), last]
        for outer, inner in zip(self.blocks[-2::-1], self.blocks[:0:-1], strict=True):
            loop = next(s for s in outer if isinstance(s, ast.For | ast.While) and s.body is inner)
            turn = copy.copy(loop)
            turn.body = found
            found = [*outer[: outer.index(loop)], turn]
        return found


def _bound(statements: Sequence[ast.stmt]) -> set[str]:
    """Return the names that statements bind, not only add to."""
    nodes = [n for s in statements for n in ast.walk(s) if isinstance(n, ast.Assign)]
    return {n.id for a in nodes for t in a.targets for n in ast.walk(t) if isinstance(n, ast.Name)}


def _blocks(body: Sequence[ast.stmt], wanted: set[str]) -> Iterator[Sequence[ast.stmt]]:
    """Yield statements, then those of the loop among them that writes all that is wanted, and so on."""
    yield body
    for loop in (s for s in body if isinstance(s, ast.For | ast.While)):
        if wanted <= {n for s in loop.body for n in writes(s)}:
            yield from _blocks(loop.body, wanted)
            return
