"""Drawing what a benchmark found."""

import io
from typing import Any

from .report import BenchReport, Timing


def plot_bench(report: BenchReport) -> bytes:
    """Return a PNG: how many times faster than the lecture's loop, and what an example costs."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    sizes = sorted({(t.n_embd, t.n_hidden) for t in report.timings})
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(11, 3.6 * len(sizes)), layout="constrained")
        axes = figure.subplots(len(sizes), 2, squeeze=False)
        for (left, right), (n_embd, n_hidden) in zip(axes, sizes, strict=True):
            timings = [t for t in report.timings if (t.n_embd, t.n_hidden) == (n_embd, n_hidden)]
            names = list(dict.fromkeys(t.name for t in timings if t.failure is None))
            batches = sorted({t.batch_size for t in timings})
            for i, name in enumerate(names):
                own = {t.batch_size: t for t in timings if t.name == name and t.failure is None}
                draw_bars(left, own, batches, i / (len(names) + 1), 1 / (len(names) + 1))
                right.plot(list(own), [t.microseconds / b for b, t in own.items()], marker="o", label=name)
            left.set_xticks([k + 0.4 for k in range(len(batches))], [f"batch {b:,}" for b in batches])
            left.set(title=f"embedding {n_embd}, hidden {n_hidden}", ylabel="times the lecture's loop")
            right.set(xscale="log", yscale="log", xlabel="batch size", ylabel="microseconds an example")
            right.legend(loc="lower left", fontsize=7)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def draw_bars(axes: Any, own: dict[int, Timing], batches: list[int], offset: float, width: float) -> None:
    """Draw one contender's bar for each batch size, with its figure above it."""
    at = [k + offset for k, b in enumerate(batches) if b in own]
    bars = axes.bar(at, [t.ratio for t in own.values()], width)
    axes.bar_label(bars, fmt="%.1f", fontsize=6)
