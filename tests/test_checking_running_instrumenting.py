"""Python's own meaning: a backward runs as it stands, whatever its statements are, and however it ends."""

import ast
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import backhand
from altered import from_text
from backhand.checking.running.instrumenting import Watcher, run_statements
from backhand.checking.running.program import Source

# A backward with `return` in some block; {dw} is its last line.
BLOCKS = {
    "try and finally": """
        try:
            dx = dh * w
            {dw}
            return locals()
        finally:
            torch.zeros(1)
    """,
    "try and except": """
        try:
            dx = dh @ "no gradient"
        except TypeError:
            dx = dh * w
            {dw}
            return {{"dh": dh, "dx": dx, "dw": dw}}
    """,
    "try, except and else": """
        try:
            dx = dh * w
        except ZeroDivisionError:
            raise
        else:
            {dw}
            return {{"dh": dh, "dx": dx, "dw": dw}}
    """,
    "match": """
        match dh.dim():
            case 1:
                return {{}}
            case 2:
                dx = dh * w
                {dw}
                return locals()
    """,
    "with": """
        with torch.no_grad():
            dx = dh * w
            {dw}
            return locals()
    """,
    "while": """
        while True:
            dx = dh * w
            {dw}
            if dx is not None:
                return locals()
    """,
    "for and else": """
        for _ in range(2):
            dx = dh * w
        else:
            {dw}
            return locals()
    """,
    "all of them": """
        with torch.no_grad():
            for turn in range(3):
                if turn == 0:
                    continue
                try:
                    match turn:
                        case 1:
                            dx = dh * w
                            {dw}
                            return {{"dh": dh, "dx": dx, "dw": dw}}
                finally:
                    torch.zeros(1)
    """,
    "an early return that is not taken": """
        if not dh.numel():
            return locals()
        dx = dh * w
        {dw}
        return locals()
    """,
    "a comprehension and a lambda": """
        double = lambda value: 2 * value  # noqa
        dx = sum(dh * w / 2 for _ in range(2))
        {dw}
        return {{"dh": dh, "dx": double(dx) / 2, "dw": dw}}
    """,
    "a nested function": """
        def of_a_product(other):
            return dh * other
        dx = of_a_product(w)
        {dw}
        return dict(dh=dh, dx=dx, dw=dw)
    """,
    "walrus and several targets": """
        (dx := dh * w), None
        {dw}
        return {{"dh": dh, "dx": dx, "dw": dw}}
    """,
}
HEAD = """
import torch

def forward(x, w):
    h = x * w
    y = h.tanh()
    return locals()

def backward(dy, x, w, y):
    dh = dy * (1 - y**2)
"""
END = '\nout = "y"\n\ndef inputs(g):\n    return {n: torch.randn(4, 3, generator=g) for n in ("x", "w")}\n'


def in_block(name: str, dw: str) -> str:
    body = textwrap.dedent(BLOCKS[name]).format(dw=dw).strip("\n")
    return HEAD + textwrap.indent(body, "    ") + "\n" + END


@pytest.mark.parametrize("name", BLOCKS)
def test_a_right_backward_may_return_from_within_any_block(name: str) -> None:
    report = backhand.check(from_text(in_block(name, "dw = dh * x")))
    assert report.ok, str(report)
    assert [row.verdict for row in report.rows] == ["right"] * 3


@pytest.mark.parametrize("name", BLOCKS)
def test_a_wrong_line_within_any_block_is_the_culprit_and_nothing_else_is(name: str) -> None:
    report = backhand.check(from_text(in_block(name, "dw = -dh * x")))
    assert report.raised is None
    assert {row.name: row.verdict for row in report.rows} == {"h": "right", "x": "right", "w": "wrong"}
    assert report["w"].mistake.kind == "sign"
    assert [line.text.strip() for line in report["w"].lines] == ["dw = -dh * x"]


@pytest.mark.parametrize("name", BLOCKS)
def test_a_wrong_line_above_a_block_is_followed_by_what_is_returned_from_within(name: str) -> None:
    text = in_block(name, "dw = dh * x").replace("dh = dy * (1 - y**2)", "dh = dy * (1 - y)")
    report = backhand.check(from_text(text))
    assert {row.name: row.verdict for row in report.rows} == {"h": "wrong", "x": "follows", "w": "follows"}
    assert report["h"].mistake.kind == "wrong_point"


class Counting:
    """A context manager that knows how often it was entered and left, and in what order."""

    def __init__(self) -> None:
        self.inside: list[int] = []
        self.entered = self.left = 0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        self.entered += 1
        self.inside.append(self.entered)
        mine = self.entered
        try:
            yield
        finally:
            assert self.inside.pop() == mine, "left in the order in which they were entered"
            self.left += 1


@pytest.mark.parametrize(
    "line", ["dx = dy @ dy", "raise ValueError('no')", "dx = 2 * dy", "return 3", "exit()"]
)
def test_every_context_manager_of_a_backward_is_left_however_it_ends(line: str) -> None:
    module = from_text(
        "def forward(x):\n    y = 2 * x\n    return locals()\n\n"
        "def backward(dy, x):\n    with managed():\n        with managed():\n"
        f"            {line}\n    return locals()\n"
    )
    module.managed = managed = Counting()
    try:
        backhand.check(module, inputs={"x": torch.randn(2, 3)}, out="y")
    except backhand.CheckError:
        assert line in ("return 3", "exit()")  # no dictionary of gradients; what ends Python is not judged
    assert managed.entered > 1
    assert managed.left == managed.entered


def test_every_context_manager_of_a_script_is_left_though_its_statement_raises(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    script = tmp_path / "script.py"
    script.write_text(
        "import torch\nfrom contextlib import contextmanager\nfrom pathlib import Path\n\n"
        "@contextmanager\ndef noted():\n"
        f"    file = Path({str(log)!r}).open('a')\n    file.write('in ')\n"
        "    try:\n        yield\n    finally:\n        file.write('out ')\n        file.close()\n\n"
        "x = torch.randn(2, 3, requires_grad=True)\nh = 2 * x\nloss = h.sum()\ndh = torch.ones_like(h)\n"
        "with noted():\n    dx = dh @ dh\n"
    )
    report = backhand.check_file(script)
    assert report["h"].verdict == "right"
    assert not report.ok or report.unfinished
    told = log.read_text().split()
    assert told
    assert told == ["in", "out"] * (len(told) // 2)


def test_a_finally_runs_once_each_time_that_the_backward_does() -> None:
    calls: list[str] = []

    def forward(x):
        y = 2 * x
        return locals()

    def backward(dy):
        try:
            calls.append("began")
            dx = 2 * dy
            return locals()
        finally:
            calls.append("ended")

    assert backhand.check(forward, backward, inputs={"x": torch.randn(3)}, out="y").ok
    assert calls == ["began", "ended"] * (len(calls) // 2)


def test_a_loop_that_only_an_exception_ends_is_judged_up_to_it() -> None:
    module = from_text(
        "import torch\n\ndef forward(x):\n    y = 2 * x\n    return locals()\n\n"
        "def backward(dy, x):\n    dx = torch.zeros_like(x)\n    t = len(x) - 1\n"
        "    while t >= 0:\n        dx[t] = 2 * dy[t]\n        t += 1\n    return {'dx': dx}\n"
    )
    report = backhand.check(module, inputs={"x": torch.randn(3, 4)}, out="y")
    assert report.raised is not None
    assert report.raised.error.startswith("IndexError")
    assert report["x"].verdict == "wrong"


class Doubling(Watcher):
    """Doubles what the second statement adds, and looks at nothing else."""

    def __init__(self) -> None:
        self.shown: list[int] = []

    def looks(self, step: int, statement: ast.stmt) -> bool:
        return step == 1

    def added(self, step: int, statement: ast.stmt, value: Any) -> Any:
        return 2 * value

    def ran(self, step: int, statement: ast.stmt, variables: Any) -> None:
        self.shown.append(step)


def test_a_watcher_is_shown_the_statements_that_it_looks_at_and_no_others() -> None:
    watcher, namespace = Doubling(), {"a": 1}
    run = run_statements(Source(tuple(ast.parse("a += 1\na += 10\na += 100").body), ()), namespace, watcher)
    assert namespace["a"] == 122
    assert watcher.shown == [1]
    assert run.steps == 3
