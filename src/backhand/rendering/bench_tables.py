"""What a benchmark found, as text for a terminal of 80 columns."""

from collections.abc import Iterator
from itertools import groupby

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from backhand.benching import BenchReport, Errand, Timing, WordTiming
from backhand.benching.report import Measured

LEGEND = """ratio: how many times as fast as the lecture's loop
of peak: the dense work of a plain step, at the rate of a large matrix product;
  with whole words, what of it nothing can leave out
off by: the largest difference of a loss from a float64 run"""


def bench_tables(report: BenchReport) -> RenderableType:
    """Show the machine, a table for each model size, the errands, the memory and `differentiable`."""
    machine = ", ".join(f"{name} {value}" for name, value in report.machine.items())
    parts: list[RenderableType] = [Text(machine, style="dim")]
    parts.append(Text(f"a large matrix product: {report.peak_gflops:.0f} GFLOP/s on one core", style="dim"))
    parts.append(Text(LEGEND, style="dim"))
    for (n_embd, n_hidden), timings in groupby(report.timings, lambda t: (t.n_embd, t.n_hidden)):
        parts += [Text(), Text(f"embedding {n_embd}, hidden {n_hidden}"), timing_table(list(timings))]
    for kind, timings in groupby(report.types, lambda t: t.kind):
        parts += [Text(), Text(f"{kind}, ratio to PyTorch's eager mode"), type_table(list(timings))]
    if report.errands:
        parts += [Text(), errand_table(report.errands)]
    if report.peak_memory:
        memory = plain_table("peak memory", "MB")
        for name, megabytes in report.peak_memory.items():
            memory.add_row(name, f"{megabytes:,.0f}")
        parts += [Text(), memory]
    if report.overheads:
        parts += [Text(), overhead_table(report)]
    if report.kept:
        parts += [Text(), kept_table(report)]
    return Group(*parts)


def plain_table(*columns: str) -> Table:
    """Return a table whose first column is text, and the others figures."""
    table = Table(Column(columns[0], no_wrap=True), box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns[1:]:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def timing_table(timings: list[Timing]) -> RenderableType:
    """Show one row a contender and batch size, and why some were not timed."""
    table = plain_table("", "us a step", "quartiles", "ratio", "of peak", "off by")
    for batch_size, own in groupby(timings, lambda t: t.batch_size):
        table.add_row(f"batch {batch_size:,}", style="bold")
        for t in own:
            table.add_row(f"  {t.name}", *cells(t))
        table.add_section()
    failures = dict.fromkeys(f"{t.name}: {t.failure}" for t in timings if t.failure is not None)
    return Group(table, *(Text(line, style="red") for line in failures))


def cells(t: Measured) -> Iterator[str]:
    """Yield the time, its quartiles, the ratio, the share of the peak and the loss's error."""
    if t.failure is not None:
        yield "not timed"
        return
    yield figure(t.microseconds)
    yield f"{figure(t.low)} to {figure(t.high)}"
    yield f"{t.ratio:.1f}"
    yield f"{t.share_of_peak:.0%}"
    yield f"{t.loss_error:.0e}"


def type_table(timings: list[WordTiming]) -> RenderableType:
    """Show one row a contender, and why some were not timed."""
    table = plain_table("", "us a step", "quartiles", "ratio", "of peak", "off by")
    for t in timings:
        table.add_row(t.name, *cells(t))
    failures = [f"{t.name}: {t.failure}" for t in timings if t.failure is not None]
    return Group(table, *(Text(line, style="red") for line in failures))


def errand_table(errands: tuple[Errand, ...]) -> Table:
    """Show what is done beside training, and with how many words where that was varied."""
    table = plain_table("beside training", "words", "seconds", "quartiles")
    for e in errands:
        words = "" if e.words is None else f"{e.words:,}"
        table.add_row(e.name, words, f"{e.seconds:.3g}", f"{e.low:.3g} to {e.high:.3g}")
    return table


def overhead_table(report: BenchReport) -> Table:
    """Show what `differentiable` costs beside a bare Function."""
    table = plain_table("differentiable, 32 x 200", "us", "bare", "times as long", "quartiles")
    for o in report.overheads:
        spread = f"{o.low:.2f} to {o.high:.2f}"
        table.add_row(o.name, figure(o.microseconds), figure(o.bare), f"{o.ratio:.2f}", spread)
    return table


def kept_table(report: BenchReport) -> Table:
    """Show the bytes that passes keep between forward and backward."""
    table = plain_table("kept for the backward, MB", "by hand", "autograd", "torch's own")
    for name, kept in report.kept.items():
        counts = (kept.by_hand, kept.by_autograd, kept.by_torch)
        table.add_row(name, *("" if count is None else f"{count / 1e6:.3g}" for count in counts))
    return table


def figure(microseconds: float) -> str:
    """Return a time with three digits at least."""
    return f"{microseconds:,.0f}" if microseconds >= 100 else f"{microseconds:.3g}"
