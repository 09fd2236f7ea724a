"""The course on a terminal: the exercise in focus with its verdicts, the list of all, and a plain summary."""

import io
import os
import sys

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.segment import Segment, Segments
from rich.table import Table
from rich.text import Text

from backhand.checking.meanings import VERDICTS
from backhand.learning.attempts import Attempt, Gradient
from backhand.learning.comparing import compared
from backhand.learning.lesson import Lesson
from backhand.learning.progress import Progress

# More gradients than this are shown in two columns, so that a whole exercise fits on a screen of 24 lines.
TALL = 8
# The lines of a screen that are for the keys, and for what takes a moment.
BELOW = 4
BLOCKS = "▁▂▃▄▅▆▇█"


class Screen:
    """A terminal on which a lesson is shown; each showing replaces the one before.

    Args:
        console: where to write; by default the terminal.
        enter: a key has to be followed by Enter.
    """

    def __init__(self, console: Console | None = None, *, enter: bool = False):
        self.console: Console = console or Console(highlight=False)
        self.enter = enter

    def wait(self, what: str) -> None:
        """Say below the lesson what takes a moment."""
        if self.console.is_terminal:
            self.console.print(Text(f" {what} ...", style="dim"))

    def show(self, lesson: Lesson) -> None:
        """Show the lesson as it is now."""
        if self.console.is_terminal:
            self.console.clear()
        lines = self.console.render_lines(_screen(lesson), pad=False)
        room = self.console.size.height - BELOW
        longer = self.console.is_terminal and len(lines) > room
        lesson.scrolled = min(lesson.scrolled, max(0, len(lines) - room))  # not past the end
        if longer:
            lines = lines[lesson.scrolled : lesson.scrolled + room]
        self.console.print(Segments([s for line in lines for s in (*line, Segment.line())]), end="")
        self.console.print(_footer(lesson, enter=self.enter, longer=longer))

    def leave(self, lesson: Lesson) -> None:
        """Say good-bye, and how to go on."""
        progress = lesson.progress
        if progress.done:
            self.console.print(f"\nAll {len(progress.attempts)} exercises are solved. Well done.")
            self.console.print(escape(_what_next(progress)))
        else:
            self.console.print(
                f"\n{progress.solved} of {len(progress.attempts)} solved. Everything is in "
                f"{escape(str(progress.folder))}/; the same command goes on from there."
            )


def progress_as_text(progress: Progress, *, colour: bool | None = None, width: int = 80) -> str:
    """Return the list of all exercises of a folder with how far each of them is."""
    if colour is None:
        colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    stream = io.StringIO()
    console = Console(
        file=stream,
        width=width,
        force_terminal=colour,
        force_jupyter=False,
        no_color=not colour,
        highlight=False,
    )
    console.print(_bar(progress, width))
    console.print()
    console.print(_list(progress))
    return "\n".join(line.rstrip() for line in stream.getvalue().rstrip("\n").split("\n"))


def _bar(progress: Progress, width: int = 80) -> Text:
    count = len(progress.attempts)
    left = Text("backhand learn", style="bold")
    marks = Text()
    for attempt in progress.attempts:
        marks.append("■" if attempt.done else "□", style="green" if attempt.done else "dim")
    right = Text.assemble(marks, f"  {progress.solved}/{count}")
    left.append(" " * max(2, width - len(left) - len(right) - 1))
    return left + right


def _list(progress: Progress) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(3):
        table.add_column(no_wrap=True)
    for attempt in progress.attempts:
        exercise = attempt.exercise
        if attempt.done:
            state = Text("solved", style="green")
        elif attempt.problem:
            state = Text("error", style="bold red")
        else:
            good = round(attempt.credit * len(attempt.gradients), 1)
            state = Text(f"{good:g} of {len(attempt.gradients)}", style="" if good else "dim")
        title = Text(f"{exercise.number:>2}. {exercise.title}")
        table.add_row(title, Text(exercise.file_name.removesuffix(".py"), style="dim"), state)
    return table


def _screen(lesson: Lesson) -> RenderableType:
    parts: list[RenderableType] = [_bar(lesson.progress)]
    if lesson.listing:
        parts.append(_list(lesson.progress))
    else:
        parts.append(Text())
        if lesson.solved_now is not None:
            parts += [*_solved(lesson), Text()]
        parts += _beside(lesson) if lesson.comparing else _exercise(lesson)
    return Group(*parts)


def _footer(lesson: Lesson, *, enter: bool, longer: bool) -> Text:
    keys = {"h": "hint", "n": "next", "p": "back", "1-9": "jump", "l": "list", "q": "quit"}
    if lesson.listing:
        keys = {"1-9": "jump", "l": "close", "q": "quit"}
    elif lesson.comparing:
        keys |= {"n": "go on"}
        del keys["h"]
    elif not lesson.more_hints:
        del keys["h"]
    if longer:
        keys = {"j k": "scroll"} | keys
    footer = Text("\n")
    for key, meaning in keys.items():
        footer.append(f" {key} ", style="reverse").append(f" {meaning}  ")
    return footer.append("and Enter" if enter else "", style="dim")


def _solved(lesson: Lesson) -> list[RenderableType]:
    exercise = lesson.solved_now
    assert exercise is not None
    parts: list[RenderableType] = [Text(f"Solved: {exercise.number}. {exercise.title}", style="bold green")]
    training = lesson.progress[exercise.name].training
    if training is not None:
        parts.append(Text(f"  {training_in_words(training.losses, training.difference)}"))
        parts.append(Text(f"  Names from your own backward: {', '.join(training.words)}"))
    if lesson.progress.done:
        parts.append(Text("That was the last one: all exercises are solved."))
        parts.append(Text(_what_next(lesson.progress)))
    return parts


def _what_next(progress: Progress) -> str:
    """Say what one who has solved everything may do."""
    own = next(a.path for a in progress.attempts if a.exercise.trains)
    return (
        f"What comes next: `backhand train --backward {own}` trains a model with your own backward, "
        "and `backhand check FILE` judges what you write from now on."
    )


def _beside(lesson: Lesson) -> list[RenderableType]:
    """Return the lines of what was solved now beside the textbook's, and what comes next."""
    assert lesson.solved_now is not None
    found = compared(lesson.progress[lesson.solved_now.name])
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("yours", "the textbook's"):
        table.add_column(heading, ratio=1, overflow="fold")
    for beside in found.differing:
        table.add_row(Text("\n".join(beside.own)), Text("\n".join(beside.textbook)))
    parts: list[RenderableType] = [Text(found.told), Text()]
    if found.differing:
        parts += [Padding(table, (0, 0, 1, 2))]
    if not lesson.progress.done:
        parts.append(Text(f"Next: {lesson.focus.number}. {lesson.focus.title}", style="bold"))
    return parts


def training_in_words(losses: tuple[float, ...], difference: float) -> str:
    """Return a loss curve as a row of blocks, with where it began and ended.

    >>> training_in_words((3.0, 2.5, 2.0), 0.0)
    '█▄▁  3.00 to 2.00 nats in 3 steps, as with autograd (largest difference 0).'
    """
    size = max(1, len(losses) // 40)
    means = [sum(losses[i : i + size]) / len(losses[i : i + size]) for i in range(0, len(losses), size)]
    low, high = min(means), max(means)
    blocks = "".join(BLOCKS[int((m - low) / ((high - low) or 1) * 7)] for m in means)
    return (
        f"{blocks}  {means[0]:.2f} to {means[-1]:.2f} nats in {len(losses)} steps, "
        f"as with autograd (largest difference {difference:.1g})."
    )


def _exercise(lesson: Lesson) -> list[RenderableType]:
    attempt = lesson.attempt
    exercise = attempt.exercise
    title = Text(f"{exercise.number}. {exercise.title}", style="bold")
    parts: list[RenderableType] = [title, Text(f"   edit {attempt.path} and save it", style="dim"), Text()]
    if attempt.problem:
        parts += [Text(attempt.problem, style="red"), Text()]
    parts.append(Padding(_gradients(attempt), (0, 0, 0, 2)))
    parts += _unfinished(attempt)
    parts += _faults(attempt)
    if attempt.printed:
        parts.append(Text("\nyour file printed", style="dim"))
        parts.append(Padding(Text("\n".join(attempt.printed), style="dim"), (0, 0, 0, 2)))
    if attempt.training is not None and not attempt.training.matches:
        parts.append(Text(f"\nThe loss curve does not match: {attempt.training.error or 'it drifts away'}."))
    if attempt.done:
        parts.append(Text("\nThis one is solved.", style="green"))
    for number, hint in enumerate(lesson.hints, start=1):
        parts.append(Text.assemble("\n", (f"hint {number}, the {hint.kind}", "bold cyan")))
        parts.append(Padding(Text(hint.text), (0, 0, 0, 2)))
    return parts


def _gradients(attempt: Attempt) -> Table:
    """Return the verdicts; in two columns where there are many of them."""
    gradients = attempt.gradients
    wide = len(gradients) > TALL
    height = (len(gradients) + 1) // 2 if wide else len(gradients)
    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(5 if wide else 4):
        table.add_column(no_wrap=True)
    for i in range(height):
        cells = _cells(gradients[i], short=wide)
        if wide and i + height < len(gradients):
            cells += [Text("     "), *_cells(gradients[i + height], short=True)]
        table.add_row(*cells)
    return table


def _unfinished(attempt: Attempt) -> list[RenderableType]:
    """Return what two columns have no room for: what is right so far, and what waits for another gradient."""
    if len(attempt.gradients) <= TALL:
        return []
    told = [f"{g.name}: {g.reason}" for g in attempt.gradients if g.so_far]
    waiting = [f"{g.name} for {g.waits_for}" for g in attempt.gradients if g.waits_for and not g.so_far]
    if waiting:
        told.append(f"waiting: {', '.join(waiting)}")
    return [Padding(Text("\n".join(told), style="dim"), (1, 0, 0, 2))] if told else []


def _cells(gradient: Gradient, *, short: bool) -> list[Text]:
    """Return name and verdict, and unless it must be short, shape and what it waits for."""
    faded = "dim" if gradient.verdict in ("follows", "todo") else ""
    verdict = "so far" if gradient.so_far else gradient.verdict
    cells = [Text(gradient.name, style=faded), Text(verdict, style=VERDICTS[gradient.verdict].style)]
    if short:
        return cells
    shape = gradient.shape
    if gradient.row is not None and gradient.verdict == "shape":
        shape = f"{gradient.row.got}, not {gradient.row.shape}"
    waits = f"waits for {gradient.waits_for}" if gradient.waits_for else ""
    if gradient.so_far:
        waits = gradient.reason
    return [*cells, Text(shape, style="dim"), Text(waits, style="dim")]


def _faults(attempt: Attempt) -> list[RenderableType]:
    """Return the culprits in words, each with its lines."""
    parts: list[RenderableType] = []
    for gradient in attempt.gradients:
        if not VERDICTS[gradient.verdict].at_fault or gradient.row is None:
            continue
        mistake = gradient.row.mistake
        kind = mistake.kind.replace("_", " ") if mistake else ""
        parts.append(Text.assemble("\n", (gradient.name, "bold red"), "  ", (kind, "bold yellow")))
        for line in gradient.row.lines:
            parts.append(Text.assemble((f"  {line.number:>4} | ", "dim"), line.text))
        if mistake is not None:
            parts.append(Padding(Text(mistake.message), (0, 0, 0, 2)))
    for failure in attempt.report.stress if attempt.report and not parts else ():
        parts.append(Text.assemble("\n", (failure.kind.replace("_", " "), "bold red")))
        parts.append(Padding(Text(f"{failure.message}\n{failure.hint}"), (0, 0, 0, 2)))
    return parts
