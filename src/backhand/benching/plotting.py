"""Drawing what a benchmark found."""

import io
from collections.abc import Iterable
from typing import Any

from .report import BenchReport, Timing


def plot_bench(report: BenchReport) -> bytes:
    """Return a PNG: bars of the ratios, and the cost as batch, hidden size and list of words grow."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    first = report.timings[0]
    peers = {(t.n_embd, t.n_hidden) for t in report.timings if t.batch_size != first.batch_size}
    sizes = sorted(peers or {(first.n_embd, first.n_hidden)})
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(11, 3.6 * (len(sizes) + 1)), layout="constrained")
        axes = figure.subplots(len(sizes) + 1, 2)
        for (bars, lines), size in zip(axes, sizes, strict=False):
            draw_size([t for t in report.timings if of(t, size)], bars, lines)
            bars.set_title(f"embedding {size[0]}, hidden {size[1]}")
        hidden, words = axes[-1]
        alike = [t for t in report.timings if (t.n_embd, t.batch_size) == (first.n_embd, first.batch_size)]
        draw_lines(hidden, ((t.name, t.n_hidden, t.microseconds) for t in alike))
        hidden.set(xlabel=f"hidden size (batch {first.batch_size})", ylabel="microseconds a step")
        draw_lines(words, ((e.name, e.words, e.seconds) for e in report.errands if e.words is not None))
        words.set(xlabel="words in the list", ylabel="seconds")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def of(t: Timing, size: tuple[int, int]) -> bool:
    """Return whether a contender was timed, on a model of this size."""
    return t.failure is None and (t.n_embd, t.n_hidden) == size


def draw_size(timings: list[Timing], bars: Any, lines: Any) -> None:
    """Draw how many times faster than the lecture's loop, and what an example costs as the batch grows."""
    names = list(dict.fromkeys(t.name for t in timings))
    batches = sorted({t.batch_size for t in timings})
    for i, name in enumerate(names):
        own = {t.batch_size: t for t in timings if t.name == name}
        at = [k + i / (len(names) + 1) for k, b in enumerate(batches) if b in own]
        drawn = bars.bar(at, [t.ratio for t in own.values()], 1 / (len(names) + 1))
        bars.bar_label(drawn, fmt="%.1f", fontsize=6)
    bars.set_xticks([k + 0.4 for k in range(len(batches))], [f"batch {b:,}" for b in batches])
    bars.set(ylabel="times the lecture's loop")
    draw_lines(lines, ((t.name, t.batch_size, t.microseconds / t.batch_size) for t in timings))
    lines.set(xlabel="batch size", ylabel="microseconds an example")


def draw_lines(axes: Any, points: Iterable[tuple[str, int, float]]) -> None:
    """Draw a line for each name through those of its points that were measured."""
    lines: dict[str, dict[int, float]] = {}
    for name, x, y in points:
        if y == y:  # not NaN
            lines.setdefault(name, {})[x] = y
    for name, line in lines.items():
        if len(line) > 1:
            axes.plot(sorted(line), [line[x] for x in sorted(line)], marker="o", label=name)
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(ticks := sorted({x for line in lines.values() for x in line}), [f"{x:,}" for x in ticks])
    axes.minorticks_off()
    if axes.lines:
        axes.legend(fontsize=7)
