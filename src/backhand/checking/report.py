"""What a check found, as frozen data: one row for every tensor, mistakes, notes."""

import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from backhand.checking.running.program import Line
from backhand.checking.sheet import Sheet
from backhand.checking.sources.scripts import Unfinished
from backhand.errors import CheckError, WrongGradientError

Verdict = Literal["right", "wrong", "follows", "shape", "skipped", "todo", "vacuous"]


@dataclass(frozen=True)
class Mistake:
    """A mistake by name.

    In a gradient: missing_branch, repeated_branch, sign, scale, unreduced, overreduced, shape, transposed,
    wrong_upstream, wrong_point, swapped, overwritten, aliased, partial, zero, nonfinite, unexplained. In a
    whole function: ignores_upstream, layout, modifies_input, nondeterministic, dtype.

    Attributes:
        kind: one of these.
        message: what is wrong, where, expected and found.
        hint: the likely cause and what to try; it does not give the answer away.
        detail: facts of this kind, such as `branches` or `factor`.
        also: another explanation that fits as well, or an empty string.
    """

    kind: str
    message: str
    hint: str
    detail: dict[str, Any]
    also: str = ""


@dataclass(frozen=True)
class Row:
    """One tensor of the forward and its gradient.

    Attributes:
        name, gradient: `h` and `dh`.
        verdict: see `Verdict`.
        shape, got: the tensor's shape, and the gradient's, if there is one.
        exact, approximate, maxdiff: the hand-written gradient against autograd's, in the user's dtype.
        multiple: the error as a multiple of autograd's own error in that dtype; None where it has none.
        forward_line: where the forward makes the tensor.
        lines: where the backward assigns its gradient.
        used_by: the lines of the forward that use the tensor.
        mistake: for a culprit, what is wrong with it.
        note: one remark, or an empty string.
        cell: in a notebook, the cell that completes the gradient; it may be judged again in a later one.
    """

    name: str
    gradient: str
    verdict: Verdict
    shape: tuple[int, ...]
    got: tuple[int, ...] | None = None
    dtype: str = ""
    exact: bool | None = None
    approximate: bool | None = None
    maxdiff: float | None = None
    multiple: float | None = None
    forward_line: Line | None = None
    lines: tuple[Line, ...] = ()
    used_by: tuple[Line, ...] = ()
    mistake: Mistake | None = None
    note: str = ""
    cell: str = ""


@dataclass(frozen=True)
class Raised:
    """The backward raised an exception half-way."""

    error: str
    line: Line | None


@dataclass(frozen=True)
class Report:
    """Everything that a check found. `print(report)` shows it as a table.

    Attributes:
        title: what was checked.
        rows: in the order of the backward, the loss's end first.
        stress: failed stress checks.
        warnings: mistakes that do not show in the numbers, such as memory shared by two gradients.
        unmatched: gradients whose name fits no tensor; they are not judged.
        notes: remarks on the check itself.
        raised: the exception in which the backward ended, if it did.
        unfinished: the cells that raised, or the script, so that not everything was judged.
        precision: the dtype in which the verdict was made.
        draws: how many independent sets of inputs were tried.
        sheet: what a drawing needs besides: the code, the flow, small pictures; None where there is none.
    """

    title: str
    rows: tuple[Row, ...]
    stress: tuple[Mistake, ...] = ()
    warnings: tuple[Mistake, ...] = ()
    unmatched: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    raised: Raised | None = None
    unfinished: tuple[Unfinished, ...] = ()
    precision: str = "float64"
    draws: int = 1
    sheet: Sheet | None = field(default=None, repr=False, compare=False)

    @property
    def ok(self) -> bool:
        """Tell whether no gradient is wrong, misshapen or missing, and no stress check failed."""
        bad = any(row.verdict in ("wrong", "shape", "todo") for row in self.rows)
        return not bad and not self.stress and self.raised is None

    @property
    def culprits(self) -> tuple[Row, ...]:
        """The rows whose own line is at fault."""
        return tuple(row for row in self.rows if row.verdict in ("wrong", "shape"))

    def __getitem__(self, name: str) -> Row:
        """Return the row of a tensor, by its name or its gradient's: of several, a culprit or the last."""
        found = [row for row in self.rows if name in (row.name, row.gradient)]
        if not found:
            raise KeyError(name)
        return next((row for row in found if row in self.culprits), found[-1])

    def raise_if_wrong(self) -> None:
        """Raise `WrongGradientError` with the table as its message, unless everything is right."""
        if not self.ok:
            raise WrongGradientError(str(self))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for a program to read; floats that JSON cannot hold become None.

        The keys are the attributes of `Report`, `Row`, `Mistake` and `Line`, and `ok` and `culprits` (names).
        """
        data = {"ok": self.ok, "culprits": [row.name for row in self.culprits]}
        return data | _plain(asdict(replace(self, sheet=None), dict_factory=_without_sheet))

    def to_html(self, path: str | Path | None = None) -> str:
        """Return the report as one self-contained HTML page, and write it to a file if one is named.

        Raises:
            CheckError: the file cannot be written.
        """
        from backhand.rendering.html import as_html

        text = as_html(self)
        if path is not None:
            try:
                Path(path).write_text(text, encoding="utf-8")
            except OSError as error:
                raise CheckError(f"{path} cannot be written: {error.strerror}.") from None
        return text

    def _repr_html_(self) -> str:
        from backhand.rendering.html import as_frame

        return as_frame(self)

    def explain(self, name: str) -> str:
        """Return the rule for the operations that use a tensor, with the user's names: this gives it away."""
        from backhand.checking.explaining import explain

        return explain(self[name])

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))  # what IPython shows on a terminal

    def __str__(self) -> str:
        from backhand.rendering.terminal import as_text

        return as_text(self)


def _without_sheet(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: value for key, value in pairs if key != "sheet"}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int | bool):
        return value
    return str(value)
