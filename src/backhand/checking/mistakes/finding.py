"""A mistake that was found: its kind and its facts, before it is put into words."""

import ast
from dataclasses import dataclass, field
from typing import Any

# How a clause begins that tells the line of another variable in which the mistake is.
IN_A_LINE = "in `"


@dataclass(frozen=True)
class Finding:
    """A kind of mistake with its detail, a clause that says it in the user's names, perhaps its own hint.

    Attributes:
        also: another explanation that fits as well, as a clause.
        at: the statements at fault, where they are known.
    """

    kind: str
    detail: dict[str, Any] = field(default_factory=dict)
    words: str = ""
    also: str = ""
    hint: str = ""
    at: tuple[ast.stmt, ...] = ()


def instead(
    used: ast.AST, expected: ast.AST, more: str = "", *, kind: str = "wrong_point", hint: str = ""
) -> Finding:
    """Return that one expression stands where another belongs."""
    stands, belongs = ast.unparse(used), ast.unparse(expected)
    words = f"`{stands}` stands where `{belongs}` belongs{more}"
    return Finding(kind, {"used": stands, "expected": belongs}, words, hint=hint)


def listed(names: list[str]) -> str:
    """Return names as a phrase: `a`, `a and b`, `a, b and c`.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1] if names else ""]))
