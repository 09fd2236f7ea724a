"""What a check found, as frozen data: one row for every tensor, mistakes, notes."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from backhand.checking.meanings import VERDICTS, Verdict
from backhand.errors import CheckError, WrongGradientError
from backhand.renderers import rendered
from backhand.writing import write_whole

Picture = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Line:
    """A line of the user's code: its number in its file (counted from 1) and its text."""

    number: int
    text: str
    file: str | None = None


@dataclass(frozen=True)
class Unfinished:
    """A cell, or with an empty name the whole script, that ended in an exception."""

    cell: str
    error: str
    line: Line


@dataclass(frozen=True)
class Raised:
    """The backward raised an exception half-way."""

    error: str
    line: Line | None


class Facts(dict[str, Any]):
    """The facts of a mistake: a dictionary that is never changed, so that a mistake can be hashed."""

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("the detail of a mistake is not to be changed; dict(detail) is a copy that can be.")

    if not TYPE_CHECKING:  # to a type checker they are those of a dictionary
        __setitem__ = __delitem__ = __ior__ = _refuse
        clear = pop = popitem = setdefault = update = _refuse

    def __hash__(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return hash(frozenset(self))  # a value may be a list; equal facts have equal names, which is enough

    def __reduce__(self) -> tuple[type, tuple[dict[str, Any]]]:
        return Facts, (dict(self),)  # pickle would set the items of a plain subclass one by one


@dataclass(frozen=True)
class Mistake:
    """A mistake by name.

    Attributes:
        kind: one of `backhand.checking.meanings.KINDS`, where each has its meaning.
        message: what is wrong, where, expected and found.
        hint: the likely cause and what to try; it does not give the answer away.
        detail: facts of this kind, such as `branches` or `factor`; a dictionary that cannot be changed.
        also: another explanation that fits as well, or an empty string.
    """

    kind: str
    message: str
    hint: str
    detail: Mapping[str, Any]
    also: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "detail", Facts(self.detail))


@dataclass(frozen=True)
class Row:
    """One tensor of the forward and its gradient.

    Attributes:
        name, gradient: `h` and `dh`.
        verdict: one of `backhand.checking.meanings.VERDICTS`, where each has its meaning.
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
class Code:
    """One statement of the user's code, or the head of a compound one.

    Attributes:
        number, file: as in `Line`.
        text: all of its lines, without their indentation.
        depth: how many compound statements it stands in.
    """

    number: int
    text: str
    depth: int = 0
    file: str | None = None


@dataclass(frozen=True)
class Numbers:
    """A hand-written gradient against autograd's, element by element.

    Attributes:
        differing, total: how many elements differ by more than `rtol` and `atol`, and of how many.
        worst: the index of the largest difference, with what was `expected` and `found` there.
    """

    differing: int
    total: int
    worst: tuple[int, ...]
    expected: float
    found: float
    rtol: float
    atol: float


@dataclass(frozen=True)
class Pictures:
    """A tensor, its two gradients and their difference, each pooled to at most 10 x 18; None where missing.

    Pooling keeps the element of largest size in each block, so that one wrong element among many still shows.
    """

    value: Picture | None = None
    hand: Picture | None = None
    autograd: Picture | None = None
    difference: Picture | None = None
    numbers: Numbers | None = None


@dataclass(frozen=True)
class Sheet:
    """The code, which tensor feeds which, and the pictures by tensor name, drawn when they are asked for."""

    forward: tuple[Code, ...]
    backward: tuple[Code, ...]
    outputs: tuple[str, ...]
    feeds: Mapping[str, tuple[str, ...]]
    pictures: Mapping[str, Pictures]


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
        truth: where the right gradients come from.
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
    truth: str = "autograd"

    @property
    def ok(self) -> bool:
        """Tell whether no gradient is wrong, misshapen or missing, and no stress check failed."""
        return not self.wrong and all(row.verdict != "todo" for row in self.rows)

    @property
    def wrong(self) -> bool:
        """Tell whether something is at fault: what is only missing is not wrong."""
        return bool(self.culprits or self.stress) or self.raised is not None

    @property
    def culprits(self) -> tuple[Row, ...]:
        """The rows whose own line is at fault."""
        return tuple(row for row in self.rows if VERDICTS[row.verdict].at_fault)

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
            CheckError: the file cannot be written; an older one is still there then.
        """
        text: str = rendered("report.html", self)
        if path is not None:
            write_page(Path(path), text)
        return text

    def _repr_html_(self) -> str:
        return rendered("report.inline", self)

    def explain(self, name: str) -> str:
        """Return the rule for the operations that use a tensor, with the user's names: this gives it away."""
        return rendered("row.rule", self[name], {row.name: row.shape for row in self.rows})

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))  # what IPython shows on a terminal

    def __str__(self) -> str:
        return rendered("report.text", self)


def write_page(path: Path, text: str) -> None:
    """Write an HTML page whole or not at all; raise `CheckError` where it cannot be written."""
    try:
        write_whole(path, text.encode(errors="backslashreplace"))
    except OSError as error:
        raise CheckError(f"{path} cannot be written: {error.strerror}.") from None


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
