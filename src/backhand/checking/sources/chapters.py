"""Which statements of a script make a value, and where one exercise ends and another begins."""

import ast
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache

from backhand.checking.running.copied import asked_of_autograd
from backhand.checking.running.statements import (
    assigned,
    begins_anew,
    needs,
    reads,
    root_of,
    writes,
    writes_surely,
)


def needed_for(
    statements: Sequence[ast.stmt],
    wanted: Iterable[str],
    *,
    given: Collection[str] = (),
    kept_whole: Collection[str] = (),
) -> list[ast.stmt]:
    """Return the statements on which the last values of some variables depend, in order.

    Args:
        statements: all, in the order in which they ran.
        wanted: the variables.
        given: variables that come from elsewhere, so that nobody need make them.
        kept_whole: variables all of whose statements are kept, even one whose value a later one drops.
    """
    needed, kept = set(wanted), []
    for s in reversed(statements):
        written = changes(s)
        if written & needed or written & set(kept_whole):
            kept.append(s)
            # what it makes anew need not be made above it; what goes on from an old value must be
            needed -= {name for name in assigned(s) if begins_anew(s, name)}
            needed |= needs(s) - set(given)
    return kept[::-1]


def tainted(statements: Sequence[ast.stmt], inputs: Collection[str]) -> list[ast.stmt]:
    """Return the statements that make something of the inputs, directly or not, without changing them."""
    names = set(inputs)
    # what changes an input itself, such as an update of a parameter, is no part of the forward
    open_ = [s for s in statements if not is_definition(s) and not changes(s) & names]
    imported = {name for s in statements for name in _imported(s)}  # `nn.init.zeros_(W)` changes no nn
    for s in open_:
        if reads(s) & names:
            names |= changes(s) - imported
    return [s for s in open_ if changes(s) & names]  # with those that begin what another one goes on with


def _imported(statement: ast.stmt) -> list[str]:
    """Return the names that a statement imports."""
    if not isinstance(statement, ast.Import | ast.ImportFrom):
        return []
    return [alias.asname or alias.name.partition(".")[0] for alias in statement.names]


@lru_cache(maxsize=4096)
def changes(statement: ast.stmt) -> frozenset[str]:
    """Return the variables that a statement, or one within it, binds or changes: `hs.append(h)` too."""
    called = [
        n.value for n in ast.walk(statement) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Call)
    ]
    objects = {root_of(call.func.value) for call in called if isinstance(call.func, ast.Attribute)}
    return writes_surely(statement) | {name for name in objects if name}


def is_definition(statement: ast.stmt) -> bool:
    """Tell whether a statement defines or imports something: what it does happens later, or elsewhere."""
    return isinstance(statement, ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom)


def trains(statement: ast.stmt, loss: str) -> bool:
    """Tell whether a statement is, or holds, a loop that assigns the loss."""
    if is_definition(statement):
        return False
    loops = (n for n in ast.walk(statement) if isinstance(n, ast.For | ast.While))
    return any(loss in writes(loop) for loop in loops)


def is_blank(statement: ast.stmt) -> bool:
    """Tell whether a statement assigns None or `...`, for something to be written there."""
    if not isinstance(statement, ast.Assign):
        return False
    value = statement.value
    values = value.elts if isinstance(value, ast.Tuple) and value.elts else [value]
    return all(isinstance(v, ast.Constant) and v.value in (None, ...) for v in values)


def filled(statement: ast.stmt, values: Collection[str], loss: str) -> ast.stmt:
    """Return a blank as if autograd's own answer stood there, which the lines below can go on with.

    So it does where a statement asks autograd: that one's graph is not there when it runs again.

    Args:
        statement: any statement; one that is no blank stays the same.
        values: the tensors of the forward.
        loss: the name of the scalar in which it ends.
    """
    asked = asked_of_autograd(statement, loss)
    if not asked and not is_blank(statement):
        return statement
    begun = sorted(assigned(statement))
    tensors = asked or {
        g: g[len(d) :] for g in begun for d in ("d_", "d") if g.startswith(d) and g[len(d) :] in values
    }
    lines = [f"{g} = {tensor}.grad.clone()" for g, tensor in tensors.items()]
    if len(lines) < len(begun):
        return statement
    block = ast.parse("if True: " + "; ".join(lines)).body[0]
    answer = block.body[0] if len(lines) == 1 else block  # type: ignore[attr-defined]
    for node in ast.walk(answer):
        ast.copy_location(node, statement)
    return answer


def chapters(statements: Sequence[ast.stmt], gradients: Collection[str]) -> list[list[ast.stmt]]:
    """Split statements where a gradient that another one was made of is begun anew: another exercise.

    One that is blanked begins another one as well; one that goes on from what the last exercise made belongs
    to that one.
    """
    found: list[list[ast.stmt]] = [[]]
    uses = _Uses(frozenset(gradients))
    here: set[str] = set()
    again: set[ast.stmt] = set()
    for i, s in enumerate(statements):
        own = writes_surely(s) & uses.gradients
        begun = {name for name in own if begins_anew(s, name)}
        # a blank is a new exercise at once; an assignment only where the old value has been made use of
        anew = begun & (here if is_blank(s) else uses.read)
        if anew & here or (anew and not reads(s) & here):
            found.append(_begun_again(found[-1], statements[i:], again, uses))
            here = {name for moved in found[-1] for name in writes_surely(moved) & uses.gradients}
        elif begun & here:
            again.add(s)  # perhaps the beginning of another exercise: it shows with what follows
        found[-1].append(s)
        here |= own
        uses.see(s, begun)
    return found


class _Uses:
    """Which gradients another one was made of, directly or by way of other variables.

    To look at one, to print it or to compare it, is no use.
    """

    def __init__(self, gradients: frozenset[str]):
        self.gradients = gradients
        self.read: set[str] = set()
        self._made: set[str] = set()
        self._carried: dict[str, set[str]] = {}

    def see(self, statement: ast.stmt, begun: set[str]) -> None:
        """Take note of a statement, and of the gradients that it begins anew."""
        own = writes_surely(statement) & self.gradients
        used = set(reads(statement) & self._made)
        for name in reads(statement) & self._carried.keys():
            used |= self._carried[name]
        self.read -= begun
        self._made |= own
        if own:
            self.read |= used - own
        else:
            # a temporary hands on what it was made of
            self._carried |= dict.fromkeys(writes_surely(statement), used)

    def goes_on(self, statements: Iterable[ast.stmt], name: str) -> bool:
        """Tell whether a gradient is made of another one, or itself, before it is begun anew."""
        making = (s for s in statements if writes_surely(s) & self.gradients)
        first = next((s for s in making if name in reads(s) | writes_surely(s)), None)
        return first is not None and not begins_anew(first, name)


def _begun_again(
    chapter: list[ast.stmt], later: Sequence[ast.stmt], again: Collection[ast.stmt], uses: _Uses
) -> list[ast.stmt]:
    """Take off a chapter's end the statements that begin what later ones go on with, and return them."""
    kept = len(chapter)
    for i in reversed(range(len(chapter))):
        own = writes_surely(chapter[i]) & uses.gradients
        if own and (chapter[i] not in again or own & uses.read):
            break
        if own and not any(uses.goes_on([*chapter[i + 1 :], *later], name) for name in own):
            break
        if own:
            kept = i
    moved = chapter[kept:]
    del chapter[kept:]
    return moved


def reads_later(statements: Sequence[ast.stmt], name: str) -> bool:
    """Tell whether an assignment to something else reads a variable after its last change: it is final."""
    for s in reversed(statements):
        if name in writes_surely(s):
            return False
        if name in reads(s) and not isinstance(s, ast.Expr) and not is_definition(s):
            return True
    return False
