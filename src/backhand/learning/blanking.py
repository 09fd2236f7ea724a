"""An exercise made from a pass: its backward blanked, so that solution and exercise cannot drift apart."""

import ast
import copy
import io
import re
import textwrap
import tokenize
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache

from backhand.checking.running.statements import assigned, reads, simple_statements, writes_surely
from backhand.learning.course import Exercise

SHAPE = re.compile(r"(?:\d+ times |t times )?\([^()]*\)")
WIDTH = 110


@dataclass(frozen=True)
class Textbook:
    """A pass as text: its tree, its lines and its comments by line number."""

    tree: ast.Module
    lines: tuple[str, ...]
    comments: dict[int, str]

    def function(self, name: str) -> ast.FunctionDef:
        """Return one of the functions of the pass."""
        return next(n for n in self.tree.body if isinstance(n, ast.FunctionDef) and n.name == name)

    def text(self, node: ast.stmt) -> str:
        """Return the lines of a statement as they stand, comments included."""
        return "\n".join(self.lines[node.lineno - 1 : node.end_lineno])


@cache
def textbook(exercise: Exercise) -> Textbook:
    """Read the pass of an exercise."""
    text = exercise.solution_text
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    return Textbook(ast.parse(text), tuple(text.splitlines()), comments)


@cache
def asked(exercise: Exercise) -> dict[str, str]:
    """Return the gradients that an exercise asks for, in the order of the solution, each with its shape.

    >>> from backhand.learning.course import find
    >>> asked(find("matrix_product"))
    {'db': '(m,)', 'dz': '(n, m)', 'dW': '(k, m)', 'dx': '(n, k)'}
    """
    book = textbook(exercise)
    backward = book.function("backward")
    tensors = _names_of(book.function("forward"))
    returned = _returned(backward)
    found: dict[str, str] = {}
    for statement in simple_statements(backward.body):
        for name in sorted(writes_surely(statement)):
            if not name.startswith("d") or name[1:] not in tensors or name in found:
                continue
            if returned is None or name in returned:  # not `dh` of one turn of a loop
                found[name] = _shape(book, statement)
    return found


@cache
def second_stages(exercise: Exercise) -> dict[str, str]:
    """Return the gradients that the solution adds to later, each with the gradient after which it does so.

    Only where another gradient has to be known first: `dcounts`, whose second branch needs `dcounts_sum`.

    >>> from backhand.learning.course import find
    >>> second_stages(find("mlp_chunked"))
    {'dcounts': 'dcounts_sum', 'dbndiff': 'dbndiff2'}
    """
    gradients = asked(exercise)
    order: list[str] = []
    found: dict[str, str] = {}
    for statement in textbook(exercise).function("backward").body:
        names = [n for n in gradients if n in writes_surely(statement)]
        if isinstance(statement, ast.AugAssign) and names and names[0] != order[-1]:
            found[names[0]] = order[-1]
        order += [n for n in names if n not in order]
    return found


def _names_of(forward: ast.FunctionDef) -> set[str]:
    """Return the names of the forward: parameters and whatever it assigns or returns."""
    names = {a.arg for a in forward.args.args}
    return names.union(*(writes_surely(s) for s in simple_statements(forward.body)))


def _returned(function: ast.FunctionDef) -> set[str] | None:
    """Return the names that a function gives back one by one; None where it gives all of its `locals()`."""
    value = getattr(function.body[-1], "value", None)
    if isinstance(value, ast.Name | ast.Tuple):
        return {node.id for node in ast.walk(value) if isinstance(node, ast.Name)}
    if not isinstance(value, ast.Dict):
        return None
    return {key.value for key in value.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}


def _shape(book: Textbook, statement: ast.stmt) -> str:
    """Return the shape that the comment on a statement's lines, or on the line above it, begins with."""
    last = statement.end_lineno or statement.lineno
    for number in (*range(last, statement.lineno - 1, -1), statement.lineno - 1):
        found = SHAPE.match(book.comments.get(number, ""))
        if found:
            return found.group()
    return ""


@cache
def blank(exercise: Exercise) -> str:
    """Return the text of the learner's file: story, forward, and a backward with `...` for each gradient."""
    return _file(exercise, _blanked(textbook(exercise), exercise))


@cache
def solved(exercise: Exercise) -> str:
    """Return the same file with the textbook's own backward."""
    return _file(exercise, _body(textbook(exercise), "backward"))


def _file(exercise: Exercise, backward: str) -> str:
    book = textbook(exercise)
    functions = [
        _function(book, "forward", _body(book, "forward")),
        _function(book, "backward", backward),
        _function(book, "inputs", _body(book, "inputs")),
    ]
    rest = "\n\n\n".join(functions)
    values = [book.text(n) for n in book.tree.body if isinstance(n, ast.Assign)]
    head = "\n".join(imports(book, rest + _body(book, "backward")))  # also for who copies an answer
    settings = "\n".join(values) + "\n\n\n" if values else "\n"
    story = f'"""{exercise.number}. {exercise.title}\n\n{exercise.story.strip()}\n"""'
    return f"{story}\n\n{head}\n\n{settings}{rest}\n"


def imports(book: Textbook, code: str) -> list[str]:
    """Return the imports of a pass that some code needs."""
    found = []
    for node in book.tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.asname or alias.name for alias in node.names]
            always = names in (["torch"], ["np"])
            if always or any(re.search(rf"\b{name}\b", code) for name in names):
                found.append(ast.unparse(node))
    return found


def _function(book: Textbook, name: str, body: str) -> str:
    """Return a function with its parameters bare of annotations, which a beginner need not read."""
    arguments = copy.deepcopy(book.function(name).args)
    for argument in (*arguments.args, *arguments.kwonlyargs):
        argument.annotation = None
    line = f"def {name}({ast.unparse(arguments)}):"
    if len(line) > WIDTH:
        wrapped = textwrap.fill(
            ast.unparse(arguments), WIDTH, initial_indent="    ", subsequent_indent="    "
        )
        line = f"def {name}(\n{wrapped}\n):"
    return f"{line}\n{body}"


def _body(book: Textbook, name: str) -> str:
    """Return the body of a function as it stands."""
    function = book.function(name)
    text = "\n".join(book.lines[function.body[0].lineno - 1 : function.end_lineno])
    return re.sub(r"  # (noqa|pyright:).*", "", text)


def _blanked(book: Textbook, exercise: Exercise) -> str:
    """Return the body of the backward with `...` for each gradient.

    Statements before the first gradient that are about sizes only (`n = x.shape[0]`) stay, and so does the
    `return`. A gradient of two stages has two places. Of a loop, what it begins with and its head stay.
    """
    body = book.function("backward").body
    upstream = {a.arg for a in book.function("backward").args.args if a.arg.startswith("d")}
    gradients = asked(exercise)
    kept = []
    for statement in body:
        if writes_surely(statement) & set(gradients):
            break
        if isinstance(statement, ast.Assign) and not reads(statement) & upstream:
            kept.append(textwrap.dedent(book.text(statement)))
    return textwrap.indent(
        "\n".join([*kept, *blanks(exercise), textwrap.dedent(book.text(body[-1]))]), "    "
    )


@cache
def blanks(exercise: Exercise) -> tuple[str, ...]:
    """Return the lines in which `...` stands for each gradient, and for what a loop does.

    >>> from backhand.learning.course import find
    >>> blanks(find("product"))
    ('da = ...  # (n,)', 'db = ...  # (n,)')
    """
    book, stages = textbook(exercise), {before: name for name, before in second_stages(exercise).items()}
    body = book.function("backward").body
    looped = frozenset().union(*(writes_surely(s) for s in body if isinstance(s, ast.For)))
    left, lines = dict(asked(exercise)), []
    for statement in body:
        if isinstance(statement, ast.For):
            lines += [_head(statement), "    ...  # one after the other"]
        elif writes_surely(statement) & looped:
            lines += textwrap.dedent(book.text(statement)).splitlines()
        for name in [n for n in left if n in writes_surely(statement)]:
            shape = left.pop(name)
            remark = ", so far: more is added below" if name in stages.values() else ""
            if name not in looped:
                lines.append(f"{name} = ..." + (f"  # {shape}{remark}" if shape else ""))
            if name in stages:
                lines.append(f"{stages[name]} += ...  # what comes through another path")
    return tuple(lines)


def _head(loop: ast.For) -> str:
    return f"for {ast.unparse(loop.target)} in {ast.unparse(loop.iter)}:"


def answer(exercise: Exercise, gradient: str) -> tuple[str, ...]:
    """Return the lines of the solution that make one gradient, with the helper values that they use.

    >>> from backhand.learning.course import find
    >>> answer(find("product"), "da")
    ('da = b * dy  # (n,)',)
    """
    book = textbook(exercise)
    lines: list[str] = []
    for statement in book.function("backward").body[:-1]:
        lines += _part(book, statement, _making(exercise, gradient))
    return tuple(re.sub(r"\s*# pyright:.*", "", line) for line in lines)


@cache
def needed_in_a_loop(exercise: Exercise, gradient: str) -> frozenset[str]:
    """Return the other gradients of an exercise that a loop makes a gradient of, turn by turn.

    >>> from backhand.learning.course import find
    >>> needed_in_a_loop(find("rnn"), "dx")
    frozenset({'dhs'})
    """
    body = textbook(exercise).function("backward").body
    looped = simple_statements([s for s in body if isinstance(s, ast.For)])
    read = set().union(*(reads(s) for s in looped if s in _making(exercise, gradient)))
    return frozenset(read & set(asked(exercise)) - {gradient})


@cache
def _making(exercise: Exercise, gradient: str) -> frozenset[ast.stmt]:
    """Return the statements of the solution that make one gradient, with those of the helpers they use."""
    book = textbook(exercise)
    offered = set(asked(exercise)) | {a.arg for a in book.function("backward").args.args}
    every = simple_statements(book.function("backward").body[:-1])
    helpers = set().union(*map(assigned, every)) - offered
    wanted, chosen = {gradient}, set[ast.stmt]()
    while more := {s for s in every if s not in chosen and _changes(s) & wanted}:
        chosen |= more
        wanted |= set().union(*(reads(s) for s in more)) & helpers
    return frozenset(chosen)


def _part(book: Textbook, statement: ast.stmt, chosen: Collection[ast.stmt]) -> list[str]:
    """Return the lines of a statement as far as it is chosen: of a loop or a condition what is within it."""
    if not isinstance(statement, ast.For | ast.If):
        return textwrap.dedent(book.text(statement)).splitlines() if statement in chosen else []
    inner = [line for s in statement.body for line in _part(book, s, chosen)]
    head = _head(statement) if isinstance(statement, ast.For) else f"if {ast.unparse(statement.test)}:"
    return [head, *textwrap.indent("\n".join(inner), "    ").splitlines()] if inner else []


def _changes(statement: ast.stmt) -> set[str]:
    """Return the variables that a statement makes or changes, as `np.add.at(dw, ix, dout)` does dw."""
    call = statement.value if isinstance(statement, ast.Expr) else None
    first = call.args[:1] if isinstance(call, ast.Call) else []
    return {*writes_surely(statement), *(n.id for n in first if isinstance(n, ast.Name))}
