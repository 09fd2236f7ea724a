"""The rule for the operations that a tensor goes into, with the user's names. This gives the answer away."""

import ast

from backhand.checking.report import Row

FUNCTIONS = {
    "tanh": "d{x} gets (1 - {y} ** 2) * d{y}",
    "sigmoid": "d{x} gets {y} * (1 - {y}) * d{y}",
    "exp": "d{x} gets {y} * d{y}",
    "log": "d{x} gets d{y} / {x}",
    "relu": "d{x} gets d{y} where {x} > 0, zero elsewhere",
    "square": "d{x} gets 2 * {x} * d{y}",
    "sqrt": "d{x} gets 0.5 / {y} * d{y}",
    "rsqrt": "d{x} gets -0.5 * {y} ** 3 * d{y}",
    "sum": "d{x} gets d{y}, expanded over the axis that was summed: a sum is the mirror of broadcasting",
    "mean": "d{x} gets d{y} divided by the number of elements averaged, expanded over their axis",
    "var": "d{x} gets 2 * ({x} - its mean) / (n - correction) * d{y}",
    "max": "d{x} gets d{y} where the maximum was found, zero elsewhere",
    "view": "d{x} gets d{y}.view({x}.shape)",
    "reshape": "d{x} gets d{y}.reshape({x}.shape)",
    "softmax": "d{x} gets {y} * (d{y} - ({y} * d{y}).sum(axis, keepdim=True))",
    "cross_entropy": "d{x} gets (softmax({x}) - onehot(targets)) / n * d{y}",
}
OPERATORS = {
    ast.Add: "each term gets d{y}, summed over the axes along which it was broadcast",
    ast.Sub: "the first term gets d{y}, the second -d{y}, each summed over the axes of its broadcast",
    ast.Mult: "each factor gets the other one times d{y}, summed over the axes along which it was broadcast",
    ast.Div: "the numerator a of a / b gets d{y} / b, the denominator -a / b ** 2 * d{y}",
    ast.Pow: "the base of b ** p gets p * b ** (p - 1) * d{y}",
    ast.MatMult: "for a @ b: a gets d{y} @ b.T, and b gets a.T @ d{y}",
}


def explain(row: Row) -> str:
    """Return what a tensor's gradient is made of: one rule for each forward line that uses it."""
    if not row.used_by:
        return f"{row.gradient}: no source line of the forward is known that uses {row.name}."
    count = len(row.used_by)
    begin = f"{row.name} is used in {count} line{'s' if count > 1 else ''} of the forward"
    told = [f"{begin}, and {row.gradient} is {'the sum of what each sends back' if count > 1 else 'this'}:"]
    for line in row.used_by:
        told.append(f"  {line.text}")
        told += [f"    {rule}" for rule in rules(line.text, row.name)]
    return "\n".join(told)


def rules(text: str, name: str) -> list[str]:
    """Return the rules for the operations around a name in one line of code.

    >>> rules("h = torch.tanh(hpreact)", "hpreact")
    ['tanh: dhpreact gets (1 - h ** 2) * dh']
    """
    try:
        statement = ast.parse(text).body[0]
    except (SyntaxError, IndexError):
        return []
    value = getattr(statement, "value", None)
    if value is None:
        return []
    target = ast.unparse(statement.targets[0]) if isinstance(statement, ast.Assign) else "the result"
    found: list[str] = []
    for node in _around(value, name):
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            found.append(f"`{ast.unparse(node)}`: " + OPERATORS[type(node.op)].format(y=target))
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in FUNCTIONS:
                found.append(f"{called}: " + FUNCTIONS[called].format(x=name, y=target))
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value) == name:
            found.append(f"an index: d{name} accumulates d{target} at the places that were read")
    return found


def _around(value: ast.expr, name: str) -> list[ast.expr]:
    """Return the operations that hold a name, the innermost first."""
    holding = [
        n
        for n in ast.walk(value)
        if isinstance(n, ast.BinOp | ast.Call | ast.Subscript)
        and any(isinstance(m, ast.Name) and m.id == name for m in ast.walk(n))
    ]
    return sorted(holding, key=lambda n: len(ast.unparse(n)))
