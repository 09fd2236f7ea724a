"""What a benchmark found, as text for a terminal."""

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from backhand.benching import BenchReport, Timing


def bench_tables(report: BenchReport) -> RenderableType:
    """Show the machine, a table for each model size, the errands and the peak memory."""
    machine = ", ".join(f"{name} {value}" for name, value in report.machine.items())
    parts: list[RenderableType] = [Text(machine, style="dim")]
    parts.append(Text(f"a large matrix product: {report.peak_gflops:.0f} GFLOP/s on one core", style="dim"))
    for size in sorted({(t.n_embd, t.n_hidden) for t in report.timings}):
        timings = [t for t in report.timings if (t.n_embd, t.n_hidden) == size]
        title = f"embedding {size[0]}, hidden {size[1]}: microseconds a step (and quartiles)"
        parts += [Text(), Text(title), timing_table(timings)]
    if report.errands:
        errands = Table("beside training", box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
        errands.add_column("seconds (quartiles)", justify="right")
        for errand in report.errands:
            errands.add_row(errand.name, f"{errand.seconds:.3f} ({errand.low:.3f} to {errand.high:.3f})")
        parts += [Text(), errands]
    if report.peak_memory:
        memory = Table("peak memory", box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
        memory.add_column("MB", justify="right")
        for name, megabytes in report.peak_memory.items():
            memory.add_row(name, f"{megabytes:,.0f}")
        parts += [Text(), memory]
    return Group(*parts)


def timing_table(timings: list[Timing]) -> RenderableType:
    """Show one row a contender, and for each batch size its time, ratio and share of the peak."""
    batches = sorted({t.batch_size for t in timings})
    table = Table("", box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for batch_size in batches:
        table.add_column(f"batch {batch_size:,}", justify="right")
    for name in dict.fromkeys(t.name for t in timings):
        own = {t.batch_size: t for t in timings if t.name == name}
        table.add_row(name, *(cell(own[b]) if b in own else "" for b in batches))
    failures = {f"{t.name}: {t.failure}" for t in timings if t.failure is not None}
    return Group(table, *(Text(line, style="red") for line in sorted(failures)))


def cell(t: Timing) -> str:
    """Return the time, its quartiles, the ratio and the share of the peak, or that there are none."""
    if t.failure is not None:
        return "not timed"
    times = f"{t.microseconds:,.0f} ({t.low:,.0f} to {t.high:,.0f})"
    return f"{times}\n{t.ratio:.1f}x the lecture's, {t.share_of_peak:.0%} of peak"
