"""What a statement takes from autograd, where it was to be made by hand."""

import ast
from collections.abc import Sequence
from functools import lru_cache

from backhand.checking.running.statements import assigned, reads, writes_surely


@lru_cache(maxsize=4096)
def grads_read(statement: ast.stmt) -> frozenset[str]:
    """Return the tensors whose `.grad` a statement reads.

    >>> sorted(grads_read(ast.parse("dvar = -1 * var_inv.grad").body[0]))
    ['var_inv']
    """
    attributes = (n for n in ast.walk(statement) if isinstance(n, ast.Attribute) and n.attr == "grad")
    return frozenset(ast.unparse(n.value) for n in attributes)


def copied_gradients(statements: Sequence[ast.stmt]) -> dict[str, str]:
    r"""Return the variables whose last value is autograd's gradient of a tensor, as it is, with that tensor.

    >>> copied_gradients(ast.parse("dh = h.grad.clone()\ndx = x.grad\ndx = 2 * dx").body)
    {'dh': 'h'}
    """
    last = {variable: s for s in statements for variable in writes_surely(s)}
    found: dict[str, str] = {}
    for variable, statement in last.items():
        asked = grads_read(statement)
        if len(asked) == 1 and variable in assigned(statement) and reads(statement) <= {*asked, "torch"}:
            (found[variable],) = asked
    return found


def asked_of_autograd(statement: ast.stmt, loss: str) -> dict[str, str]:
    """Return the variables to which a statement assigns what `autograd.grad` gives, with their tensors.

    >>> asked_of_autograd(ast.parse("dx, dw = torch.autograd.grad(loss, [x, w])").body[0], "loss")
    {'dx': 'x', 'dw': 'w'}
    """
    if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
        return {}
    target, value = statement.targets[0], statement.value
    if isinstance(value, ast.Subscript) and ast.unparse(value.slice) == "0":
        value, target = value.value, ast.Tuple([target], ast.Store())
    called = isinstance(value, ast.Call) and ast.unparse(value.func).endswith("autograd.grad")
    if not called or not isinstance(value, ast.Call) or len(value.args) < 2:
        return {}
    names = target.elts if isinstance(target, ast.Tuple | ast.List) else []
    tensors = value.args[1].elts if isinstance(value.args[1], ast.Tuple | ast.List) else [value.args[1]]
    if ast.unparse(value.args[0]) != loss or len(names) != len(tensors):
        return {}
    return {ast.unparse(n): ast.unparse(t) for n, t in zip(names, tensors, strict=True)}
