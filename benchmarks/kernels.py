"""The checker against right and wrong Functions: `python benchmarks/kernels.py [--show] [--faults N] [NAME]`.

The Functions in `functions/` are right. Each is made wrong, one slip at a time, in a statement of its
backward; a slip counts where some gradient differs by more than 1%. Printed: right ones called wrong or
refused; of the wrong ones those detected, with the right inputs, the changed line among the first three or
first, and a name at all.
"""

import argparse
import ast
import importlib
import random
import sys
import tempfile
import time
import types
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy_pairs import module_of
from patterns import expression, filled, matched, statements
from torch import Tensor
from torch.autograd import Function

from backhand import check_function
from backhand.checking.report import Report
from backhand.errors import CheckError

FILES = (
    "norms",
    "gates",
    "activations",
    "losses",
    "divergences",
    "softmaxes",
    "sequences",
    "attention",
    "recurrences",
    "quantised",
    "layers",
    "spectra",
)
SEED = 3
EXPRESSIONS = (
    ("_a.mean(___)", "_a.sum(___)"),
    ("_a.sum(0)", "_a.mean(0)"),
    ("_a.sum(-1, keepdim=True)", "_a.mean(-1, keepdim=True)"),
    ("_a.sum(___)", "(2 * _a.sum(___))"),
    ("_a + _b", "_a - _b"),
    ("_a - _b", "_a + _b"),
    ("_a - _b", "_a"),
    ("_a + _b", "_a"),
    ("_a * _b", "_a"),
    ("_a * _b", "_b"),
    ("_a / _b", "_a"),
    ("_a / _b", "_a * _b"),
    ("_a @ _b", "-(_a @ _b)"),
    ("_a @ _b", "(_a @ _b) * 0.5"),
    ("1 - _a * _a", "1 - _a"),
    ("1 - _a", "1 + _a"),
    ("-_a", "_a"),
    ("_a.chunk(2, dim=-1)", "_a.chunk(2, dim=-1)[::-1]"),
    ("rotate_half(_a * _b)", "rotate_half(_a) * _b"),
    ("_a * rotate_half(_b)", "rotate_half(_a * _b)"),
    ("_a.flip(0).cumsum(0).flip(0)", "_a.cumsum(0)"),
    ("torch.exp(_a)", "_a"),
    ("_a**2", "_a"),
    ("torch.where(_a, _b, _c)", "torch.where(_a, _c, _b)"),
    ("(_a > 0)", "(_a < 0)"),
    ("_a.clone()", "torch.ones_like(_a)"),
    ("_a.conj()", "_a"),
    ("_a.imag", "_a.real"),
    ("2", "1"),
    ("0.5", "1.0"),
    ("1.0", "2.0"),
)
STATEMENTS = (
    ("_t += _v", "_t = _v"),
    ("_t -= _v", ""),
    ("_t *= _v", ""),
    ("_t.mul_(_v)", ""),
    ("_t.index_add_(0, _i, _v)", "_t[_i] = _v"),
    ("_t.scatter_add_(___)", ""),
    ("_t = _v", "_t = 2 * (_v)"),
)


def backward_of(tree: ast.Module, name: str) -> ast.FunctionDef:
    """Return the backward of a Function of a file."""
    top = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)
    return next(n for n in top.body if isinstance(n, ast.FunctionDef) and n.name == "backward")


def wrong_ones(text: str, name: str) -> Iterator[tuple[set[int], str]]:
    """Yield a file's text with one slip in the backward of one Function, and the lines that may be shown.

    One is the statement's own; where a statement is left out, those before and after it.
    """
    body = backward_of(ast.parse(text), name).body
    simple = [
        n
        for s in body
        for n in ast.walk(s)
        if isinstance(n, ast.stmt) and not isinstance(n, ast.If | ast.For)
    ]
    simple.sort(key=lambda n: n.lineno)
    for before, statement, after in zip(
        [simple[0], *simple], simple, [*simple[1:], simple[-1]], strict=False
    ):
        for node in ast.walk(statement):
            for put in _slips(node):
                lines = {before.lineno, after.lineno} if put == "pass" else {statement.lineno}
                yield lines, _replaced(text, node, put)


def _slips(node: ast.AST) -> Iterator[str]:
    """Yield what may stand in the place of a node."""
    if isinstance(getattr(node, "ctx", None), ast.Store) or not hasattr(node, "lineno"):
        return
    read: Any = statements if isinstance(node, ast.stmt) else lambda text: [expression(text)]
    for old, new in STATEMENTS if isinstance(node, ast.stmt) else EXPRESSIONS:
        bound = matched(read(old)[0], node, {})
        if bound is not None:
            yield ast.unparse(ast.fix_missing_locations(filled(read(new)[0], bound)))
    if isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple):
        yield from _misreturned([ast.unparse(g) for g in node.value.elts])


def _misreturned(gradients: list[str]) -> Iterator[str]:
    """Yield returns with no gradient for one input, or with two of them in each other's place."""
    for i, gradient in enumerate(gradients):
        if gradient != "None":
            yield "return " + ", ".join([*gradients[:i], "None", *gradients[i + 1 :]])
    for i in range(len(gradients) - 1):
        yield "return " + ", ".join([*gradients[:i], gradients[i + 1], gradients[i], *gradients[i + 2 :]])


def _replaced(text: str, node: Any, put: str) -> str:
    lines = text.splitlines(keepends=True)
    before = "".join(lines[: node.lineno - 1]) + lines[node.lineno - 1][: node.col_offset]
    after = lines[node.end_lineno - 1][node.end_col_offset :] + "".join(lines[node.end_lineno :])
    return before + (put if isinstance(node, ast.stmt) else f"({put})") + after


def parts_of(module: types.ModuleType, name: str) -> tuple[type[Function], Any, Any]:
    """Return a Function, its reference and its inputs: `rms_norm_inputs` for `RMSNorm`."""
    own = {key.replace("_", "").lower(): value for key, value in vars(module).items()}
    return getattr(module, name), own[f"{name.lower()}reference"], own[f"{name.lower()}inputs"]


def gradients(function: type[Function], inputs: Mapping[str, Any]) -> dict[str, Tensor | None] | None:
    """Return a Function's gradients on one set of inputs; None where it raises."""
    leaves = {n: _leaf(v) for n, v in inputs.items()}
    torch.manual_seed(SEED)
    try:
        found = function.apply(*(v.clone() if isinstance(v, Tensor) else v for v in leaves.values()))
        outputs = [o for o in (found if isinstance(found, tuple) else (found,)) if o.requires_grad]
        generator = torch.Generator().manual_seed(SEED)
        upstream = [torch.randn(o.shape, generator=generator) for o in outputs]
        wanted = {n: v for n, v in leaves.items() if isinstance(v, Tensor) and v.requires_grad}
        got = torch.autograd.grad(outputs, list(wanted.values()), upstream, allow_unused=True)
    except Exception:  # a slip may well raise
        return None
    return dict(zip(wanted, got, strict=True))


def _leaf(value: Any) -> Any:
    is_float = isinstance(value, Tensor) and value.is_floating_point()
    return value.clone().requires_grad_() if is_float else value


def changed_ones(right: Mapping[str, Tensor | None], wrong: Mapping[str, Tensor | None]) -> set[str]:
    """Return the inputs whose gradients differ."""
    return {n for n in right if not _are_close(right[n], wrong[n])}


def _are_close(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.shape == b.shape and float((a - b).abs().max()) <= 0.01 * float(a.abs().max())


def report_on(module: types.ModuleType, name: str) -> Report | str:
    """Return the report on one Function, or why it was refused."""
    try:
        return check_function(*parts_of(module, name))
    except CheckError as refused:
        return str(refused)


def judged(report: Report | str, lines: set[int], inputs: set[str]) -> dict[str, bool]:
    """Return what a report on a wrong Function has right."""
    if isinstance(report, str) or report.ok:
        return {"detected": False, "right inputs": False, "line first": False, "line": False, "named": False}
    wrong = {row.name for row in report.rows if row.verdict in ("wrong", "shape", "follows")}
    told = [row for row in report.culprits if row.mistake is not None]
    return {
        "detected": True,
        "right inputs": wrong == inputs,
        "line first": bool(told) and all({at.number for at in row.lines[:1]} & lines for row in told),
        "line": bool(told) and all({at.number for at in row.lines[:3]} & lines for row in told),
        "named": bool(told) and all(row.mistake.kind != "unexplained" for row in told if row.mistake),
    }


@dataclass(frozen=True)
class Original:
    """A right Function, and the text of its file."""

    module: types.ModuleType
    text: str
    name: str

    @staticmethod
    def all(part: str) -> list["Original"]:
        """Return those with this part in their names."""
        found = []
        for file in FILES:
            module = importlib.import_module(f"functions.{file}")
            text = Path(str(module.__file__)).read_text(encoding="utf-8")
            names = [n.name for n in ast.parse(text).body if isinstance(n, ast.ClassDef) and part in n.name]
            found += [Original(module, text, name) for name in names]
        return found

    def faults(self, most: int, folder: Path) -> Iterator[tuple[types.ModuleType, set[int], set[str]]]:
        """Yield wrong ones, with the lines that may be shown and the inputs whose gradients differ."""
        _, _, draw = parts_of(self.module, self.name)
        inputs = draw(torch.Generator().manual_seed(SEED))
        expected = gradients(getattr(self.module, self.name), inputs)
        assert expected is not None, self.name
        wrong = list(wrong_ones(self.text, self.name))
        random.Random(SEED).shuffle(wrong)
        for lines, text in wrong:
            module = module_of(text, folder)
            got = gradients(getattr(module, self.name), inputs)
            if most and got is not None and (differing := changed_ones(expected, got)):
                most -= 1
                yield module, lines, differing


def measured(original: Original, most: int, folder: Path, show: bool) -> Counter[str]:
    """Count what is said of a Function as it is, and made wrong."""
    found = Counter(right=1)
    report = report_on(original.module, original.name)
    found["false refusals"] += isinstance(report, str)
    found["false alarms"] += isinstance(report, Report) and not report.ok
    if isinstance(report, str) or not report.ok:
        print(f"{original.name}: {report}", flush=True)
    for module, lines, inputs in original.faults(most, folder):
        report = report_on(module, original.name)
        said = judged(report, lines, inputs)
        found.update({k: int(v) for k, v in said.items()} | {"wrong": 1})
        if show and not all(said.values()):
            lacks = ", ".join(k for k, v in said.items() if not v)
            text = Path(str(module.__file__)).read_text(encoding="utf-8").splitlines()[min(lines) - 1].strip()
            print(
                f"{original.name}: `{text}` {sorted(inputs)}: not {lacks}\n    {_in_short(report)}",
                flush=True,
            )
    return found


def _in_short(report: Report | str) -> str:
    if isinstance(report, str):
        return report
    rows = [(r.mistake, [at.text for at in r.lines]) for r in report.culprits]
    told = [f"{m.kind}: {m.message} {lines}" for m, lines in rows if m is not None]
    return "; ".join([*told, *(s.message for s in report.stress), *report.notes[-1:]])


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("name", nargs="?", default="", metavar="NAME", help="only those with it in theirs")
    parser.add_argument("--show", action="store_true", help="print what failed")
    parser.add_argument("--faults", type=int, default=6, metavar="N", help="at most so many of each")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    found = Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        for original in Original.all(chosen.name):
            began = time.process_time()
            found.update(measured(original, chosen.faults, Path(folder), chosen.show))
            print(f"{original.name}: {time.process_time() - began:.1f} s", file=sys.stderr, flush=True)
    print(f"\n{found['right']} right Functions: {found['false alarms']} false alarms,", end=" ")
    print(f"{found['false refusals']} false refusals\n{found['wrong']} wrong ones")
    for what in ("detected", "right inputs", "line", "line first", "named"):
        print(f"  {what:14}{found[what]:5}  {100 * found[what] / max(found['wrong'], 1):5.1f}%")


if __name__ == "__main__":
    main()
