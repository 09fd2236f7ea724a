"""The rule for the operations that a tensor goes into, with the user's names, and its derivative in words."""

import ast
import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from backhand.checking.broadcasts import UNKNOWN, Shapes, axes_of_broadcast, shape_of
from backhand.checking.report import Row

SUMMED = ", summed over the axes along which it was broadcast, if it was"
# What x gets from y = f(x), by the name of f. Other operations are answered by autograd's own product.
FUNCTIONS = {
    "tanh": "(1 - {y} ** 2) * {dy}",
    "sigmoid": "{y} * (1 - {y}) * {dy}",
    "exp": "{y} * {dy}",
    "expm1": "({y} + 1) * {dy}",
    "log": "{dy} / {x}",
    "log1p": "{dy} / (1 + {x})",
    "sin": "cos({x}) * {dy}",
    "cos": "-sin({x}) * {dy}",
    "abs": "sign({x}) * {dy}",
    "neg": "-{dy}",
    "relu": "{dy} where {x} > 0, zero elsewhere",
    "clamp": "{dy} where {x} lies within the bounds, zero elsewhere",
    "softplus": "sigmoid({x}) * {dy}",
    "silu": "(s + {y} * (1 - s)) * {dy}, with s = sigmoid({x})",
    "square": "2 * {x} * {dy}",
    "sqrt": "0.5 / {y} * {dy}",
    "rsqrt": "-0.5 * {y} ** 3 * {dy}",
    "reciprocal": "-{y} ** 2 * {dy}",
    "sum": "{dy}, expanded over the axis that was summed: a sum is the mirror of broadcasting",
    "mean": "{dy} divided by the number of elements averaged, expanded over their axis",
    "var": "2 * ({x} - its mean) / (n - correction) * {dy}",
    "std": "({x} - its mean) / ((n - correction) * {y}) * {dy}",
    "norm": "{x} / {y} * {dy}",
    "prod": "{y} / {x} * {dy}",
    "cumsum": "the sum of {dy} from each place on to the end of the axis",
    "max": "{dy} where the maximum was found, zero elsewhere",
    "min": "{dy} where the minimum was found, zero elsewhere",
    "maximum": "{dy} where {x} is the larger of the two, zero elsewhere" + SUMMED,
    "minimum": "{dy} where {x} is the smaller of the two, zero elsewhere" + SUMMED,
    "amax": "{dy} where the maximum was found, shared among equals, zero elsewhere",
    "logsumexp": "softmax({x}) * {dy}",
    "softmax": "{y} * ({dy} - ({y} * {dy}).sum(axis, keepdim=True))",
    "log_softmax": "{dy} - exp({y}) * {dy}.sum(axis, keepdim=True)",
    "cross_entropy": "(softmax({x}) - onehot(targets)) / n * {dy}",
    "view": "{dy}.view({x}.shape)",
    "reshape": "{dy}.reshape({x}.shape)",
    "flatten": "{dy}.reshape({x}.shape)",
    "squeeze": "{dy}.reshape({x}.shape)",
    "unsqueeze": "{dy}.reshape({x}.shape)",
    "unflatten": "{dy}.reshape({x}.shape)",
    "expand": "{dy}, summed over the axes that were expanded",
    "expand_as": "{dy}, summed over the axes that were expanded",
    "transpose": "{dy} with the same axes exchanged again",
    "permute": "{dy} with the axes put back in their old order",
    "pad": "{dy} without what was put around",
    "einsum": "einsum of {dy} and what else is multiplied, with the letters of {x} for the result",
    "cat": "its own slice of {dy}",
    "concatenate": "its own slice of {dy}",
    "stack": "its own slice of {dy}",
    "chunk": "{dy}, put together as the parts were",
    "split": "{dy}, put together as the parts were",
    "gather": "{dy} added at the places that were read (scatter_add)",
    "index_select": "{dy} added at the places that were read (index_add)",
    "masked_fill": "{dy}, zero where the mask is set",
    "where": "{dy} where it was chosen, zero elsewhere",
    "clone": "{dy}",
    "contiguous": "{dy}",
}
# The derivative of a function in words, for a hint that leaves the formula to the reader.
IN_WORDS = {
    "tanh": "tanh: its slope is 1 where it is 0 and falls to 0 where it saturates; its own value tells it",
    "sigmoid": "sigmoid: its slope is the product of its value and of what that lacks to 1",
    "exp": "exp: it is its own derivative, and its value is there already",
    "log": "log: its derivative is one over what it was taken of",
    "square": "a square: its derivative is twice what was squared",
    "sqrt": "a root: its derivative is one over twice its own value",
    "rsqrt": "one over a root is a power with the exponent -1/2, which comes down and becomes one less",
    "sum": "a sum: every summand moves it by as much, so each receives the same, expanded to its shape",
    "mean": "a mean of n: each of the n moves it by one n-th",
    "var": "a variance: a mean of squares about the mean, with its own divisor",
    "max": "a maximum: only the place where it was found moves it",
    "maximum": "the larger of two: only the larger moves it",
    "relu": "ReLU: its slope is 1 where its argument is positive, and 0 elsewhere",
    "gather": "reading at places: what was read moves it by as much, and what was not does not",
    "einsum": "a product and a sum in one: its derivative by one factor is made of the other factors",
    "pad": "padding: what was put around does not depend on it",
    "split": "taken apart: each part's gradient goes back to where the part came from",
    "softmax": "softmax: a row's elements all depend on all; raising one lowers the others",
    "cross_entropy": "cross entropy: what is predicted less what is right, and the mean over the rows",
    "masked_fill": "a mask: what was masked has no influence",
    "cat": "put together from parts: each part receives its own slice",
    "stack": "put together from parts: each part receives its own slice",
}
MOVED = "nothing is computed here, the elements only move: move the gradient's back"
IN_WORDS |= dict.fromkeys(
    ("view", "reshape", "flatten", "squeeze", "unsqueeze", "unflatten", "transpose"), MOVED
)
OPERATORS_IN_WORDS: dict[type[ast.operator], str] = {
    ast.Add: "a sum: its derivative by each of its terms is 1",
    ast.Sub: "a difference: its derivative is 1 by what stands before the minus, -1 by what stands after it",
    ast.Mult: "a product: its derivative by one factor is the other factor",
    ast.Div: "a quotient a / b: 1 / b by a, and -a / b^2 by b",
    ast.Pow: "a power: the exponent comes down as a factor, and becomes one less",
    ast.MatMult: "a matrix product: the other matrix, transposed, on the side where it stood",
}
# What a and b get from y = a op b.
OPERATORS: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("{dy}" + SUMMED, "{dy}" + SUMMED),
    ast.Sub: ("{dy}" + SUMMED, "-{dy}" + SUMMED),
    ast.Mult: ("{b} * {dy}" + SUMMED, "{a} * {dy}" + SUMMED),
    ast.Div: ("{dy} / {b}" + SUMMED, "-{a} / {b} ** 2 * {dy}" + SUMMED),
    ast.Pow: ("{b} * {a}{less} * {dy}", "{y} * log({a}) * {dy}"),
}


def explain(row: Row, shapes: Shapes = UNKNOWN) -> str:
    """Return what a tensor's gradient is made of: one rule for each forward line that uses it."""
    if not row.used_by:
        return f"{row.gradient}: no source line of the forward is known that uses {row.name}."
    return explain_uses(row.name, row.gradient, [line.text for line in row.used_by], shapes)


def explain_uses(name: str, gradient: str, lines: Sequence[str], shapes: Shapes = UNKNOWN) -> str:
    """Return what the gradient of a tensor is made of that some lines of the forward use."""
    count = len(lines)
    begin = f"{name} is used in {count} line{'s' if count > 1 else ''} of the forward"
    told = [f"{begin}, and {gradient} is {'the sum of what each sends back' if count > 1 else 'this'}:"]
    for line in lines:
        told.append(f"  {line}")
        told += [f"    {rule}" for rule in rules(line, name, shapes)]
    return "\n".join(told)


def rules(text: str, name: str, shapes: Shapes = UNKNOWN) -> list[str]:
    """Return the rules for the operations around a name in one line of code, from the outermost inwards.

    An operation within another one has a result without a name, which is called r1, r2 and so on.

    >>> rules("h = torch.tanh(hpreact)", "hpreact")
    ['tanh: dhpreact gets (1 - h ** 2) * dh']
    >>> for rule in rules("y = -x.exp()", "x"):
    ...     print(rule)
    with r1 for `x.exp()`: dr1 gets -dy
    exp: dx gets r1 * dr1
    """
    found = []
    for step in _steps(text, name, shapes):
        told, label = _operation(step.node), name
        if step.label != name:
            label = step.label
            told += f"with {label} for `{ast.unparse(step.operand)}`: "
        found.append(f"{told}{_gradient(label)} gets {step.gets.replace(HERE, label)}")
    return found


def derivatives(text: str, name: str) -> list[str]:
    """Return the derivatives of the operations around a name in one line of code, in words, each once.

    >>> derivatives("q = p - a", "a")
    ['a difference: its derivative is 1 by what stands before the minus, -1 by what stands after it']
    """
    told = (_in_words(step.node) for step in _steps(text, name, UNKNOWN))
    return list(dict.fromkeys(words for words in told if words))


def _in_words(node: ast.expr) -> str:
    if isinstance(node, ast.BinOp):
        return OPERATORS_IN_WORDS.get(type(node.op), "")
    if isinstance(node, ast.UnaryOp):
        return "a minus: its derivative is -1" if isinstance(node.op, ast.USub) else ""
    if isinstance(node, ast.Subscript):
        return "indexing: what was read several times receives several gradients, and they add up"
    if isinstance(node, ast.Call):
        return IN_WORDS.get(_called(node), "")
    return "the same tensor under another name" if isinstance(node, ast.Name) else ""


@dataclass(frozen=True)
class _Step:
    """One operation on the way to a name: which operand holds it, what that is called, and what it gets."""

    node: ast.expr
    operand: ast.expr
    label: str
    gets: str


def _steps(text: str, name: str, shapes: Shapes) -> Iterator[_Step]:
    """Yield the operations around a name in one line of code, from the outermost inwards."""
    try:
        statement = ast.parse(text).body[0]
    except (SyntaxError, IndexError):
        return
    value = getattr(statement, "value", None)
    if value is None or not mentions(value, name):
        return
    to = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
    target = ast.unparse(to) if to is not None else "the result"
    labels: dict[ast.expr, str] = {value: target}
    if isinstance(to, ast.Tuple) and isinstance(value, ast.Tuple) and len(to.elts) == len(value.elts):
        labels = {part: ast.unparse(its) for part, its in zip(value.elts, to.elts, strict=True)}
    for whole in [n for n in labels if isinstance(n, ast.Name) and n.id == name]:
        yield _Step(whole, whole, name, _gradient(labels[whole]))
    for node in ast.walk(value):  # breadth first: the outer before the inner
        if not isinstance(node, ast.expr) or node not in labels:
            continue
        for operand, gets in _operands(node, name, labels[node], shapes):
            label = name
            if not (isinstance(operand, ast.Name) and operand.id == name):
                label = f"r{len(labels)}"
                labels[operand] = label
            yield _Step(node, operand, label, gets)


# What tells the size of a tensor or where it is, and makes another one of it.
OF_NO_VALUE = r"(shape|size|ndim|len|numel|dtype|device|new_\w+|\w+_like)$"
HERE = "\0"  # stands for the operand until it has a name


def _operands(node: ast.expr, name: str, result: str, shapes: Shapes) -> list[tuple[ast.expr, str]]:
    """Return the operands that hold a name, each with what it gets."""
    dy = _gradient(result)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
        told = zip((node.left, node.right), _of_product(node, dy, shapes), strict=True)
        return [(n, rule) for n, rule in told if mentions(n, name)]
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        a, b = _text(node.left), _text(node.right)
        less = f" ** {_text(ast.BinOp(node.right, ast.Sub(), ast.Constant(1)))}"
        with contextlib.suppress(ValueError):
            exponent = ast.literal_eval(node.right) - 1
            less = f" ** {exponent}" if exponent != 1 else ""
        sides = zip((node.left, node.right), OPERATORS[type(node.op)], strict=True)
        told = [(n, r.format(a=a, b=b, less=less, y=result, dy=dy)) for n, r in sides if mentions(n, name)]
        return [(n, _reduced(r, n, node, shapes)) for n, r in told]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return [(node.operand, f"-{dy}")]
    if isinstance(node, ast.Subscript) and mentions(node.value, name):
        return [(node.value, f"{dy}, added up at the places that were read, zero elsewhere")]
    if isinstance(node, ast.Attribute):
        rule = f"{dy}.{node.attr}" if node.attr in ("T", "mT", "H", "mH") else dy
        return [(node.value, rule)]
    if isinstance(node, ast.Call):
        return _of_call(node, name, result, shapes)
    if isinstance(node, ast.GeneratorExp | ast.ListComp) and mentions(node.generators[0].iter, name):
        sent = f"for each of its elements what `{ast.unparse(node.elt)}` sends back of {dy}"
        return [(node.generators[0].iter, sent)]
    if isinstance(node, ast.GeneratorExp | ast.ListComp):
        return [(node.elt, f"its own part of {dy} at every turn, and the turns add up")]
    children = [n for n in ast.iter_child_nodes(node) if isinstance(n, ast.expr) and mentions(n, name)]
    return [(n, f"its own part of {dy}") for n in children]  # a list, a condition


def _of_product(node: ast.BinOp, dy: str, shapes: Shapes) -> tuple[str, str]:
    """Return what the two sides of a matrix product get, as their numbers of axes ask for it."""
    a, b = _text(node.left), _text(node.right)
    axes = [len(known) if (known := shape_of(n, shapes)) is not None else 2 for n in (node.left, node.right)]
    if axes == [1, 1]:
        return f"{b} * {dy}", f"{a} * {dy}"
    left = f"outer({dy}, {b})" if axes[1] == 1 else f"{dy} @ {_transposed(node.right, axes[1])}"
    if axes[0] == 1:
        return left, f"outer({a}, {dy})"
    if axes[1] == 2 < axes[0]:  # each of the leading axes uses the matrix anew, and what they send adds up
        return left, f"{a}.reshape(-1, {a}.shape[-1]).T @ {dy}.reshape(-1, {dy}.shape[-1])"
    return left, f"{_transposed(node.left, axes[0])} @ {dy}"


def _transposed(node: ast.expr, axes: int) -> str:
    """Return the text of a matrix with its last two axes exchanged; of a transposed one, itself."""
    if isinstance(node, ast.Attribute) and node.attr in ("T", "mT"):
        return _text(node.value)
    if re.search(r"\.transpose\((-2, -1|-1, -2)\)$", _text(node)):
        return _text(node).rpartition(".transpose")[0]
    return f"{_text(node)}.{'T' if axes <= 2 else 'mT'}"


def _reduced(rule: str, operand: ast.expr, node: ast.BinOp | ast.Call, shapes: Shapes) -> str:
    """Say of a rule over which axes its value is summed: none where the shapes are known to be the same."""
    combined = (node.left, node.right) if isinstance(node, ast.BinOp) else node.args
    alone = any(isinstance(n, ast.Constant) for n in combined)
    own, whole = shape_of(operand, shapes), shape_of(node, shapes)
    if not rule.endswith(SUMMED) or alone or (own is not None and own == whole):
        return rule.removesuffix(SUMMED)
    if own is None or whole is None:
        return rule
    axes = [str(axis) for axis in axes_of_broadcast(own, whole)]
    return (
        f"{rule.removesuffix(SUMMED)}, summed over ax{'is' if len(axes) == 1 else 'es'} {' and '.join(axes)}"
    )


def _of_call(node: ast.Call, name: str, result: str, shapes: Shapes) -> list[tuple[ast.expr, str]]:
    """Return the arguments that hold a name; an operation without a rule here is answered by autograd."""
    method = isinstance(node.func, ast.Attribute) and mentions(node.func.value, name)
    called = _called(node)
    places = [*node.args, *(k.value for k in node.keywords)]
    operands = [n for n in places if mentions(n, name)]
    if method and isinstance(node.func, ast.Attribute):
        operands.insert(0, node.func.value)
    dy = _gradient(result)
    if called == "append" and isinstance(node.func, ast.Attribute):
        return [(n, f"its own entry of {_gradient(ast.unparse(node.func.value))}") for n in node.args]
    if called in FUNCTIONS:
        rule = FUNCTIONS[called].format(x=HERE, y=result, dy=dy)
        rule = _as_called(rule, node)
        return [(n, _reduced(rule, n, node, shapes)) for n in operands]
    text = ast.unparse(node)
    if text.startswith(("np.", "numpy.")):
        rule = f"what a small step of {name} in `{text}` sends back of {dy}: no rule for {called} stands here"
        return [(ast.Name(name, ast.Load()), rule)]
    product = f"torch.func.vjp(lambda {name}: {text}, {name})[1]({dy})[0]: no rule for {called} stands here, "
    return [(ast.Name(name, ast.Load()), product + "this is autograd's own")]


def _as_called(rule: str, node: ast.Call) -> str:
    """Put what a call is given in a rule's words for it: the axis, the targets, a variance's correction."""
    given = {k.arg: ast.unparse(k.value) for k in node.keywords}
    last = ast.unparse(node.args[-1]) if node.args else ""
    axis = given.get("dim", last if re.fullmatch(r"-?\d+", last) else "axis")
    targets = ast.unparse(node.args[1]) if len(node.args) > 1 else "targets"
    rule = rule.replace("sum(axis,", f"sum({axis},").replace("onehot(targets)", f"onehot({targets})")
    less = given.get("correction", "correction")
    return rule.replace("(n - correction)", "n" if less == "0" else f"(n - {less})")


def _operation(node: ast.expr) -> str:
    """Return the name of a function that has a rule here, as the beginning of what is told."""
    if not isinstance(node, ast.Call):
        return ""
    called = _called(node)
    return f"{called}: " if called in FUNCTIONS else ""


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)


def _gradient(text: str) -> str:
    """Return the name of the gradient of what a line makes: a tensor, one of a list, or several."""
    target = ast.parse(text, mode="eval").body if text != "the result" else None
    if isinstance(target, ast.Name | ast.Subscript):
        return f"d{text}"
    if isinstance(target, ast.Tuple):
        return ", ".join(_gradient(ast.unparse(n)) for n in target.elts)
    return f"the gradient of {text}"


def _text(node: ast.expr) -> str:
    text = ast.unparse(node)
    return f"({text})" if isinstance(node, ast.BinOp) else text


def mentions(node: ast.AST, name: str) -> bool:
    """Tell whether the values of a tensor go into something, and not only its size, as in `x.shape[0]`.

    >>> mentions(ast.parse("torch.ones(x.shape[1], device=x.device)"), "x")
    False
    """
    if isinstance(node, ast.Name):
        return node.id == name
    inner = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.Attribute) and re.match(OF_NO_VALUE, node.attr):
        inner.remove(node.value)
    if isinstance(node, ast.Call) and re.match(OF_NO_VALUE, _called(node).rpartition(".")[2]):
        inner = [node.func]
    return any(mentions(n, name) for n in inner)
