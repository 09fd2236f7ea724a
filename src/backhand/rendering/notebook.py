"""The IPython extension: after `%load_ext backhand`, verdicts follow every cell that assigns gradients.

So they do a cell that calls a backward over NumPy.
"""

import ast
import contextlib
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from backhand.checking.merging import check_played
from backhand.checking.report import Report, Row
from backhand.checking.running.names import root
from backhand.checking.sources.namespaces import check_namespace
from backhand.checking.sources.sessions import Recording
from backhand.errors import CheckError
from backhand.rendering.terminal import as_text

if TYPE_CHECKING:
    from backhand.checking.sources.watching import Watching

# What a pair over NumPy is called, or a loss that returns its gradients.
MAY_BE_NUMPY = re.compile(r"backward|loss")
MAY_ASSIGN = re.compile(r"\bd\w")
# What may give a cell functions that it goes on to call.
DEFINES = ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom
LOOK = f"__import__({__name__!r}, fromlist=['look_around']).look_around()"
USAGE = (
    "%backhand shows the sheet; %backhand loss=NAME chooses the loss; %backhand off and on stop and go on."
)


@dataclass(frozen=True)
class Verdicts:
    """What follows a cell: the table of its gradients, the culprits among them in words."""

    report: Report

    def __repr__(self) -> str:
        return as_text(self.report)

    def _repr_html_(self) -> str:
        from backhand.rendering.html import as_fragment

        return as_fragment(self.report)


class Meanwhile(ast.NodeTransformer):
    """Lets what a cell defines or imports be watched before the cell itself calls it."""

    def visit_Module(self, node: ast.Module) -> ast.Module:
        """Return the cell with a look around after each definition, but for one at its end.

        One comes at once: before a cell `%autoreload` may have given a class other methods.
        """
        look_around()
        body: list[ast.stmt] = []
        for statement in node.body:
            body.append(statement)
            # before an import from the future nothing may stand
            is_future = isinstance(statement, ast.ImportFrom) and statement.module == "__future__"
            if isinstance(statement, DEFINES) and not is_future and statement is not node.body[-1]:
                body += (ast.copy_location(look, statement) for look in ast.parse(LOOK).body)
        return ast.fix_missing_locations(ast.Module(body, node.type_ignores))


class Extension:
    """The extension in one IPython shell."""

    def __init__(self, shell: Any):
        self.shell = shell
        self.recording: Recording = Recording()
        self.active: bool = True
        self.meanwhile: Meanwhile = Meanwhile()
        self.watching: Watching | None = None
        self._told: set[str] = set()

    def watch(self) -> None:
        """Watch the pairs over NumPy that the session has now."""
        space = self.shell.user_ns
        found = list(space.items())
        if not any(callable(v) and (MAY_BE_NUMPY.search(n) or hasattr(v, "backward")) for n, v in found):
            return
        from backhand.checking.sources.watching import Watching  # who checks torch does without

        self.watching = self.watching or Watching()
        self.watching.watch(space)

    def release(self) -> None:
        """Watch nothing any more."""
        if self.watching is not None:
            self.watching.release(self.shell.user_ns)

    def after_cell(self, result: Any) -> None:
        """Judge what a cell assigned or called; whatever goes wrong in here is one line."""
        try:
            text = result.info.raw_cell if result.info is not None else ""
            if self.active and text:
                self.watch()
                self._judge_calls()
            if not self.active or not text or not result.success:
                return
            label = f"In[{result.execution_count or self.shell.execution_count}]"
            gradients = self.recording.add(label, text, self.shell.user_ns)
            if gradients and MAY_ASSIGN.search(text):
                self._show(Verdicts(self._of_cell(label, gradients)))
        except Exception as error:  # never break a cell
            print(f"backhand: {_one_line(error)}")  # noqa: T201

    def _judge_calls(self) -> None:
        """Show a verdict for each pair that the cell called, also if it raised after that."""
        if self.watching is None:
            return
        from backhand.checking.sources.watching import judged_in_time

        with self.watching.apart():
            for seen in self.watching.take():
                try:
                    self._show(Verdicts(judged_in_time(seen)))
                except CheckError as error:
                    print(f"backhand: {_one_line(error)}")  # noqa: T201

    def _report(self, draws: int) -> Report:
        if self.recording.knows_the_loss():
            played = self.recording.as_played(self.shell.user_ns)
            return check_played(played, "this session", draws=draws, seed=0, goes_on=True)
        return check_namespace(self.shell.user_ns, self.recording.loss)

    def _of_cell(self, label: str, gradients: tuple[str, ...]) -> Report:
        """Return the report cut down to what one cell assigned, and the culprits that it follows."""
        whole = self._report(draws=1)
        rows = [row for row in whole.rows if root(row.gradient) in gradients]
        if any(row.verdict == "follows" for row in rows):
            rows = [row for row in whole.rows if row in rows or row in whole.culprits]
        rows = [row if row.cell == label else self._in_short(row) for row in rows]
        self._told |= {r.mistake.message for r in rows if r in whole.culprits and r.mistake is not None}
        if all(row.cell == label for row in rows):
            rows = [replace(row, cell="") for row in rows]  # the title tells it
        return replace(whole, title=label, rows=tuple(rows), notes=(), unmatched=())

    def _in_short(self, row: Row) -> Row:
        """Return a culprit of another cell without what was told of it before."""
        if row.mistake is None or row.mistake.message not in self._told:
            return row
        kind = row.mistake.kind.replace("_", " ")
        return replace(row, mistake=None, lines=(), note=f"{kind}, as told of {row.cell}")

    def magic(self, line: str) -> None:
        """Do what `%backhand ...` asks for."""
        line = line.strip()
        if line in ("on", "off"):
            self.active = line == "on"
        elif line.startswith("loss="):
            self.recording = Recording(line.removeprefix("loss=").strip())
        elif line:
            print(USAGE)  # noqa: T201
        else:
            try:
                self._show(self._report(draws=3))
            except Exception as error:  # told in one line
                print(f"backhand: {_one_line(error)}")  # noqa: T201

    def _show(self, shown: object) -> None:
        from IPython.display import display

        display(shown)


def _one_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0] or type(error).__name__


def look_around() -> None:
    """Watch what a cell has given the session so far; whatever goes wrong is told after the cell."""
    from IPython.core.getipython import get_ipython

    extension = getattr(get_ipython(), "backhand_extension", None)  # the cell may have unloaded it
    if extension is not None and extension.active:
        with contextlib.suppress(Exception):
            extension.watch()


def load_ipython_extension(shell: Any) -> None:
    """Start judging the cells of an IPython shell: `%load_ext backhand`.

    >>> from IPython.core.interactiveshell import InteractiveShell
    >>> shell = InteractiveShell()
    >>> load_ipython_extension(shell)
    >>> shell.backhand_extension.active
    True
    """
    unload_ipython_extension(shell)
    extension = Extension(shell)
    shell.backhand_extension = extension
    extension.watch()
    shell.events.register("post_run_cell", extension.after_cell)
    shell.ast_transformers.append(extension.meanwhile)
    shell.register_magic_function(extension.magic, "line", "backhand")


def unload_ipython_extension(shell: Any) -> None:
    """Stop: `%unload_ext backhand`.

    >>> from IPython.core.interactiveshell import InteractiveShell
    >>> shell = InteractiveShell()
    >>> load_ipython_extension(shell)
    >>> unload_ipython_extension(shell)
    >>> shell.backhand_extension is None
    True
    """
    extension = getattr(shell, "backhand_extension", None)
    if extension is not None:
        shell.events.unregister("post_run_cell", extension.after_cell)
        shell.ast_transformers.remove(extension.meanwhile)
        extension.release()
        shell.backhand_extension = None
