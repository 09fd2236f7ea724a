"""The checker against right and wrong layers over NumPy: `numpy_pairs.py [NAME] [--most N]`.

Each statement of each backward in `layers/`, and of those that it calls, is made wrong by one slip at a
time; of a layer's wrong ones at most N are checked, spread evenly, by default 12. A wrong one counts where a
gradient that it gives is another than the right one's. Printed: false alarms, wrong ones detected, the line
among at most three told, the line told first, and mistakes that have a name.
"""

import argparse
import ast
import builtins
import copy
import importlib.util
import inspect
import re
import sys
import tempfile
import time
import types
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from patterns import expression, filled, matched, statements

from backhand.checking.report import Line, Report
from backhand.checking.sources.guessing import inputs_for
from backhand.checking.sources.layered import Class
from backhand.checking.sources.layers import layers_of, runs
from backhand.checking.sources.making import making
from backhand.checking.sources.paired import Functions
from backhand.checking.sources.pairs import Pair
from backhand.checking.sources.roles import calls_of, forward_of
from backhand.errors import CheckError

HERE = Path(__file__).parent / "layers"
SEED = 3
# Of what calls others so many slips are tried for one that is checked: most tell in a gradient.
TRIED = 3
EXPRESSIONS = (
    ("np.sum(_a, axis=_i)", "np.mean(_a, axis=_i)"),
    ("np.sum(_a, axis=0)", "np.sum(_a, axis=1)"),
    ("np.sum(_a, axis=0)", "np.sum(_a, axis=0, keepdims=True)"),
    ("np.sum(_a, axis=0)", "np.sum(_a)"),
    ("_a.sum(axis=_i)", "_a.mean(axis=_i)"),
    ("_a.sum(axis=0)", "_a.sum(axis=1)"),
    ("_a.sum(axis=0)", "_a.sum(axis=0, keepdims=True)"),
    ("_a.mean(axis=_i, keepdims=True)", "_a.sum(axis=_i, keepdims=True)"),
    ("_a.T", "_a"),
    ("_a.dot(_b)", "_b.dot(_a)"),
    ("_a @ _b", "_b @ _a"),
    ("_a.reshape(___)", "_a"),
    ("1 - _a ** 2", "1 - _a"),
    ("_a * (1 - _a)", "1 - _a ** 2"),
    ("_a > 0", "_a < 0"),
    ("_a ** 2", "_a"),
    ("-_a", "_a"),
    ("_a + _b", "_a - _b"),
    ("_a + _b", "_a"),
    ("_a + _b", "_b"),
    ("_a - _b", "_a"),
    ("_a * _b", "_a"),
    ("_a * _b", "_b"),
    ("_a / _b", "_a"),
    ("_a / _b", "_a * _b"),
    ("np.zeros_like(_a)", "np.ones_like(_a)"),
    ("0.5", "1.0"),
)
STATEMENTS = (
    ("_t += _v", "_t = _v"),
    ("_t += _v", "_t -= _v"),
    ("_t += _v", ""),
    ("_t += _v", "_t += (_v) / 2"),
    ("_t[_i] = _v", "_t[~_i] = _v"),
    ("_t -= _v", "_t += _v"),
    ("_t -= _v", "_t -= 2 * (_v)"),
    ("_t *= _v", ""),
    ("_t /= _v", ""),
    ("_t = _v", "_t = -(_v)"),
    ("_t = _v", "_t = 2 * (_v)"),
    ("return _a, _b", "return _b, _a"),
    ("return _a, _b, _c", "return _a, _c, _b"),
    ("np.add.at(_t, _i, _v)", "_t[_i] += _v"),
    ("np.add.at(_t, _i, _v)", "np.add.at(_t, _i, -(_v))"),
)


def wrong_ones(tree: ast.Module, backward: ast.FunctionDef) -> Iterator[tuple[str, ast.Module]]:
    """Yield the module with one slip in a backward, with what the changed statement assigns."""
    owner: dict[ast.AST, ast.stmt] = {}
    for statement in (n for s in backward.body for n in ast.walk(s) if isinstance(n, ast.stmt)):
        if not hasattr(statement, "body"):
            owner |= dict.fromkeys(ast.walk(statement), statement)
    names = sorted({n.id for n in owner if isinstance(n, ast.Name) and _is_read(n)} - vars(builtins).keys())
    others = dict(zip(names, [*names[1:], *names[:1]], strict=True))
    made = {name: _line_of(name, owner) for name in names}
    for node in (n for n in owner if hasattr(n, "lineno")):
        there = {n: other for n, other in others.items() if made[other] < node.lineno}
        for put in _slips_of(node, there):
            memo: dict[int, Any] = {}
            changed = copy.deepcopy(tree, memo)
            _Swap(memo[id(node)], ast.copy_location(put, node)).visit(changed)
            yield _target(owner[node]), ast.fix_missing_locations(changed)


def _line_of(name: str, nodes: Iterable[ast.AST]) -> int:
    """Return the first line that gives a variable a value; 0 for a parameter."""
    stored = (n for n in nodes if isinstance(n, ast.Name) and n.id == name and not _is_read(n))
    return min((n.lineno for n in stored), default=0)


def _is_read(node: ast.AST) -> bool:
    is_owner = getattr(node, "id", "") in ("np", "self")
    return isinstance(getattr(node, "ctx", ast.Load()), ast.Load) and not is_owner


def _slips_of(node: ast.AST, others: Mapping[str, str]) -> Iterator[Any]:
    """Yield what may stand by mistake where a statement or an expression does: at last, another name."""
    if not _is_read(node):
        return
    is_statement = isinstance(node, ast.stmt)
    for old, new in STATEMENTS if is_statement else EXPRESSIONS:
        pattern, template = (statements(t)[0] if is_statement else expression(t) for t in (old, new))
        bound = matched(pattern, node, {})
        is_negated = "~" in new and bound is not None and isinstance(bound["_i"], ast.Slice | ast.Tuple)
        if bound is not None and not is_negated:  # only a mask has an opposite
            yield filled(template, bound)
    if isinstance(node, ast.Name) and node.id in others:
        yield ast.Name(others[node.id], ast.Load())
    row = node.targets[0] if isinstance(node, ast.Assign) else None
    if isinstance(row, ast.Tuple) and len(row.elts) > 1:  # what is kept is taken in another order
        first, second, *rest = row.elts
        yield ast.Assign([ast.Tuple([second, first, *rest], ast.Store())], node.value)


def _target(statement: ast.stmt) -> str:
    """Return how the lines begin that put something where a statement does, in whatever way."""
    text = ast.unparse(statement)
    if isinstance(statement, ast.Return):
        return "return"
    called = statement.value if isinstance(statement, ast.Expr) else None
    if isinstance(called, ast.Call):  # np.add.at(dW, x, dout)
        return ast.unparse(called.args[0])
    for sign in (" = ", " += ", " -= ", " /= ", " *= "):
        text = text.partition(sign)[0]
    return text


class _Swap(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST):
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else self.generic_visit(node)


def module_of(text: str, folder: Path) -> types.ModuleType:
    """Import a text."""
    name = f"layers_{len(list(folder.iterdir()))}"
    file = folder / f"{name}.py"
    file.write_text(text)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def gradients(module: types.ModuleType, name: str) -> dict[str, Any] | None:
    """Return a layer's outputs and gradients on one set of inputs; None where it raises."""
    value = getattr(module, name)
    given = module.inputs(np.random.default_rng(SEED)) if hasattr(module, "inputs") else {}
    try:
        if isinstance(value, type):
            calls = calls_of(value)
            layer = next(making(value, model=calls is not None)).layer
            forward = getattr(layer, (calls or ("forward",))[0])
            draw: Any = inputs_for(
                forward, name, model=calls is not None, accepts=partial(runs, partial(Class.of, layer))
            )
            inputs = draw(np.random.default_rng(SEED))
            subject: Any = Class.of(layer, inputs, SEED)
            rng = np.random.default_rng(SEED)
            inputs |= {n: subject.drawn_parameter(n, rng) for n in subject.parameters}
        else:
            forward = getattr(module, str(forward_of(name, vars(module)) if "backward" in name else name))
            wanted = inspect.signature(forward).parameters
            own = {n: v for n, v in given.items() if n in wanted}
            draw = inputs_for(forward)
            inputs = own or draw(np.random.default_rng(SEED))
            functions = Functions.of(forward, value if "backward" in name else None)
            subject = Pair.of(functions, inputs, SEED)
        outputs = subject.forward(copy.deepcopy(inputs))
        rng = np.random.default_rng(SEED)
        upstream = {
            f"d{n}": rng.normal(size=np.shape(o))
            for n, o in zip(subject.outputs, outputs.outputs, strict=True)
        }
        function, arguments = subject.backward(outputs, upstream)
        given = dict(subject.gradients(function(**arguments), outputs))
        return given | {"outputs": np.concatenate([np.ravel(o) for o in outputs.outputs])}
    except Exception:  # a slip may well raise
        return None


def differ(a: dict[str, Any] | None, b: dict[str, Any] | None) -> bool:
    """Tell whether two layers of the same outputs give other gradients."""
    if a is None or b is None or a.keys() != b.keys():
        return True
    if a["outputs"].shape != b["outputs"].shape:  # it raises on those inputs, and others were guessed
        return True
    if not np.allclose(a["outputs"], b["outputs"]):  # a slip in what is forward as well: another function
        return False
    pairs = [(np.asarray(a[n]), np.asarray(b[n])) for n in a]
    return any(x.shape != y.shape or not np.allclose(x, y, rtol=1e-6, atol=1e-9) for x, y in pairs)


def report_on(module: types.ModuleType, name: str) -> Report | None:
    """Return the report on one layer; None where it was refused."""
    (layer,) = [layer for layer in layers_of(module) if layer.name == name]
    try:
        return layer.check()
    except CheckError:
        return None


def measured(file: Path, only: str, most: int) -> Counter[str]:
    """Count what is said of a file's layers, right and wrong."""
    found: Counter[str] = Counter()
    text = file.read_text()
    tree = ast.parse(text)
    with tempfile.TemporaryDirectory() as folder:
        right = module_of(text, Path(folder))
        for layer in layers_of(right):
            if only not in (file.stem, *re.findall(re.escape(only), layer.name)):
                continue
            report = layer.check()
            found["right"] += 1
            found["false alarms"] += not report.ok
            backwards = _backwards(tree, layer.name)
            began = time.perf_counter()
            for where, module, raises in _spread(
                _wrong(tree, backwards, layer.name, Path(folder), most), most
            ):
                report = report_on(module, layer.name)
                _judge(found, report, where, layer.name, raises=raises)
            print(f"{layer.name}: {time.perf_counter() - began:.1f} s", file=sys.stderr)
    return found


def _backwards(tree: ast.Module, name: str) -> list[ast.FunctionDef]:
    """Return a layer's backward, and those of the layers in the file that it calls."""
    tops = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    reached = [name]
    for one in reached:
        called = {n.id for n in ast.walk(tops[one]) if isinstance(n, ast.Name)} & tops.keys()
        reached += [n for n in tops if n in called and n not in reached]
    named = ("backward", "gradient", "loss", name)
    found = []
    for top in (tops[n] for n in reached):
        inner = sorted((n for n in ast.walk(top) if getattr(n, "name", "") in named), key=lambda n: n.lineno)
        is_one = top.name == name or "backward" in top.name or isinstance(top, ast.ClassDef)
        functions = [n for n in (top, *inner) if isinstance(n, ast.FunctionDef)]
        found += functions[-1:] if is_one else []
    return found


@dataclass(frozen=True)
class Where:
    """Where a slip is: the line in the changed text, and how lines begin that put something in its place."""

    line: int
    begins: str


def _wrong(
    tree: ast.Module, backwards: Sequence[ast.FunctionDef], name: str, folder: Path, most: int
) -> Iterator[tuple[Where, types.ModuleType, bool]]:
    """Yield the modules with a slip that tells in a gradient, or raises."""
    before = ast.unparse(tree).splitlines()
    expected = gradients(module_of("\n".join(before), folder), name)
    slips = [slip for backward in backwards for slip in wrong_ones(tree, backward)]
    for target, changed in _spread(slips, TRIED * most) if len(backwards) > 1 else slips:
        text = ast.unparse(changed)
        module = module_of(text, folder)
        given = gradients(module, name)
        if name not in [layer.name for layer in layers_of(module)]:  # as one that returns no loss any more
            continue
        if differ(expected, given):
            pairs = enumerate(zip(before, text.splitlines(), strict=False), start=1)
            line = next(i for i, (old, new) in pairs if old != new)
            is_taken_away = len(text.splitlines()) < len(before)
            yield Where(line, _left(target, text) if is_taken_away else target), module, given is None


def _left(target: str, text: str) -> str:
    """Return how the line begins that is all that is left of an array: what begins it, else the `return`."""
    array = target.partition("[")[0]
    return array if any(line.strip().startswith(f"{array} =") for line in text.splitlines()) else "return"


def _spread(found: Iterator[Any], most: int) -> list[Any]:
    """Return at most so many, spread evenly over all."""
    every = list(found)
    chosen = sorted({round(i * (len(every) - 1) / max(most - 1, 1)) for i in range(min(most, len(every)))})
    return [every[i] for i in chosen]


def _judge(found: Counter[str], report: Report | None, where: Where, name: str, *, raises: bool) -> None:
    """Count what was said of one wrong layer.

    The line itself is right, and another one that puts something in the same place: a slip may have taken
    a statement away.
    """
    found["wrong"] += 1
    if report is None and raises:  # Python says it, with the line
        found["told"], found["first"], found["named"] = (found[k] + 1 for k in ("told", "first", "named"))
        return
    if report is None or report.ok:
        found["undetected"] += 1
        print(f"  undetected: {name}: {where}", file=sys.stderr)
        return
    raised = [] if report.raised is None or report.raised.line is None else [report.raised.line]
    rows = [row.lines for row in report.culprits]
    told = [*raised, *(line for lines in rows for line in lines)]
    found["told"] += any(_is_meant(line, where) for line in told[:3])
    found["first"] += any(lines and _is_meant(lines[0], where) for lines in (raised, *rows))
    found["named"] += any(row.mistake and row.mistake.kind != "unexplained" for row in report.culprits)
    kinds = [row.mistake.kind for row in report.culprits if row.mistake]
    if not any(_is_meant(line, where) for line in told[:3]):
        print(f"  not told: {name}: {where} | {[line.text for line in told]} {kinds}", file=sys.stderr)
    elif not any(lines and _is_meant(lines[0], where) for lines in (raised, *rows)):
        print(f"  not first: {name}: {where} | {[line.text for line in told]} {kinds}", file=sys.stderr)
    elif "unexplained" in kinds:
        print(f"  not named: {name}: {where} | {[line.text for line in told]} {kinds}", file=sys.stderr)


def _is_meant(line: Line, where: Where) -> bool:
    # a scatter may be written as a call, and an item stands for its array
    of = where.begins
    alike = line.text.startswith((f"{of} ", f"{of}[", f"np.add.at({of},", f"np.subtract.at({of},"))
    return line.number == where.line or alike


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "name", nargs="?", default="", help="a part of the names of the layers that are tried, or a file's"
    )
    parser.add_argument("--most", type=int, default=12, help="of a layer's wrong ones")
    chosen = parser.parse_args()
    total: Counter[str] = Counter()
    np.seterr(all="ignore")
    for file in sorted(f for f in HERE.glob("*.py") if f.stem != "__init__"):
        total += measured(file, chosen.name, chosen.most)
    wrong = max(total["wrong"], 1)
    print(f"{total['right']} right layers, {total['false alarms']} false alarms")
    print(f"{total['wrong']} wrong ones, {total['undetected']} undetected")
    for what in ("told", "first", "named"):
        print(f"{what}: {total[what]} ({100 * total[what] / wrong:.1f}%)")


if __name__ == "__main__":
    main()
