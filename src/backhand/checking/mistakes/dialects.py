"""How the user's statements call operations: in torch's words, or in NumPy's."""

import ast
from collections.abc import Sequence
from dataclasses import dataclass, replace

# Functions of a module whose first argument may as well be what the method is called on.
MODULES = {"np", "numpy", "torch"}


@dataclass(frozen=True)
class Dialect:
    """The words of a library.

    Attributes:
        keeping: the keyword that keeps a summed axis.
        transposed: the attribute that exchanges the last two axes.
        copying: the method that copies.
        numbered: whether `transpose(0, 1)` exchanges two axes; in NumPy it names all.
    """

    keeping: str
    transposed: str
    copying: str
    numbered: bool

    def exchanged(self, node: ast.expr, axes: Sequence[int]) -> ast.expr:
        """Return an expression with two axes exchanged."""
        name = "transpose" if self.numbered else "swapaxes"
        return ast.Call(ast.Attribute(node, name, ast.Load()), [ast.Constant(a) for a in axes], [])


TORCH = Dialect("keepdim", "mT", "clone", True)
NUMPY = Dialect("keepdims", "T", "copy", False)


@dataclass(frozen=True)
class Reduction:
    """A call such as `x.sum(0, keepdim=True)` or `np.sum(x, axis=0)`.

    Attributes:
        name: `sum`.
        module: `np` in the second form, None in the first.
        operand: what is reduced.
        axis: as it is written; None for all axes.
        rest: the other arguments.
        keyword: by which keyword the axis is given; empty for none.
    """

    name: str
    module: ast.expr | None
    operand: ast.expr
    axis: ast.expr | None
    rest: tuple[ast.keyword, ...]
    keyword: str

    @staticmethod
    def of(node: ast.expr) -> "Reduction | None":
        """Return a call taken to pieces, or None where it is none of the two forms."""
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            return None
        owner, arguments = node.func.value, list(node.args)
        module = owner if isinstance(owner, ast.Name) and owner.id in MODULES else None
        if module is not None and not arguments:
            return None
        operand = arguments.pop(0) if module is not None else owner
        named = next((k for k in node.keywords if k.arg in ("axis", "dim")), None)
        if len(arguments) > 1 or (named is not None and arguments):
            return None
        axis = arguments[0] if arguments else named.value if named is not None else None
        rest = tuple(k for k in node.keywords if k is not named)
        return Reduction(
            node.func.attr, module, operand, axis, rest, (named.arg or "") if named is not None else ""
        )

    def call(self) -> ast.Call:
        """Return it as it would be written."""
        place: list[ast.expr] = [self.axis] if self.axis is not None and not self.keyword else []
        named = [ast.keyword(self.keyword, self.axis)] if self.axis is not None and self.keyword else []
        owner = self.operand if self.module is None else self.module
        first = [] if self.module is None else [self.operand]
        return ast.Call(ast.Attribute(owner, self.name, ast.Load()), first + place, named + list(self.rest))

    def over(self, axis: ast.expr, kept: Sequence[ast.keyword]) -> ast.Call:
        """Return the same over another axis."""
        return replace(self, axis=axis, rest=tuple(kept)).call()
