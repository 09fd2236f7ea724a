"""Run `backhand bench` in full, and keep what it found: recorded.json, recorded.png, and README.md's tables.

python benchmarks/record.py            # some six minutes on an idle machine
python benchmarks/record.py --tables   # only write the tables again, from recorded.json
"""

import json
import sys
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BEGIN, END = "<!-- written by record.py from here -->\n", "<!-- to here -->\n"

Recorded = dict[str, Any]


def record() -> None:
    """Run the benchmark, and write what it found."""
    from backhand.benching import bench
    from backhand.benching.plotting import plot_bench

    report = bench(watch=lambda text: print(text, file=sys.stderr, flush=True))
    (HERE / "recorded.json").write_text(json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8")
    (HERE / "recorded.png").write_bytes(plot_bench(report))


def with_tables(text: str, recorded: Recorded) -> str:
    """Return README's text with the tables of a recorded run in their place."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + "\n" + "\n".join(tables(recorded)) + "\n" + END + after


def tables(recorded: Recorded) -> Iterator[str]:
    """Yield the lines of all tables, with their headings."""
    m = recorded["machine"]
    yield f"{m['processor']}, {m['vectors']}, {m['cores']} cores; {m['system']}; Python {m['python']},"
    yield f"torch {m['torch']}, numba {m['numba']}, numpy {m['numpy']}, JAX {m['jax']}."
    yield f"A 1024-square sgemm reaches {recorded['peak_gflops']:.0f} GFLOP/s on one core.\n"
    yield "![bars and lines of the tables below](recorded.png)\n"
    for (n_embd, n_hidden), own in groupby(recorded["timings"], lambda t: (t["n_embd"], t["n_hidden"])):
        timings = list(own)
        if len({t["batch_size"] for t in timings}) > 1:
            yield f"### Embedding {n_embd}, hidden {n_hidden}\n"
            yield from timing_tables(timings, "batch_size", "batch")
    first = recorded["timings"][0]
    growing = [t for t in recorded["timings"] if same(t, first, "n_embd", "batch_size")]
    if len({t["n_hidden"] for t in growing}) > 1:
        few = {t["name"] for t in growing if t["n_hidden"] != first["n_hidden"]}
        growing = sorted((t for t in growing if t["name"] in few), key=lambda t: t["n_hidden"])
        yield f"### Embedding {first['n_embd']}, batch {first['batch_size']}, as the hidden layer grows\n"
        yield from timing_tables(growing, "n_hidden", "hidden")
    yield "### Beside training\n"
    errands = ((e["name"], words_of(e), spread(e, "seconds")) for e in recorded["errands"])
    yield from table(("", "words", "seconds (quartiles)"), errands)
    yield "### Peak memory\n"
    yield "Of a process that trains 30 steps at batch 8,192, embedding 10, hidden 200, imports included:\n"
    yield from table(("", "MB"), ((name, f"{mb:,.0f}") for name, mb in recorded["peak_memory"].items()))


def same(a: Recorded, b: Recorded, *names: str) -> bool:
    """Return whether two timings have the same sizes."""
    return all(a[name] == b[name] for name in names)


def words_of(errand: Recorded) -> str:
    """Return how many words something was done with, where that was varied."""
    return f"{errand['words']:,}" if errand["words"] else ""


def timing_tables(timings: list[Recorded], by: str, label: str) -> Iterator[str]:
    """Yield a table of times and one of ratios, with a column for each size."""
    sizes = list(dict.fromkeys(t[by] for t in timings))
    found = {(t["name"], t[by]): t for t in timings if t["microseconds"] is not None}
    names = list(dict.fromkeys(name for name, _ in found))
    head = ("", *(f"{label} {size:,}" for size in sizes))
    yield "Microseconds a step (quartiles):\n"
    times = lambda name: (spread(found.get((name, size)), "microseconds") for size in sizes)  # noqa: E731
    yield from table(head, ((name, *times(name)) for name in names))
    yield "Times the lecture's loop, and (native only) times JAX and share of the sgemm peak:\n"
    native, jax = ([found.get((name, size)) for size in sizes] for name in ("native", "JAX jit + scan"))
    rows = [(name, *(number(found.get((name, size)), "ratio") for size in sizes)) for name in names[1:]]
    if all(jax):
        pairs = zip(jax, native, strict=True)
        rows.append(
            ("native, times JAX", *(f"{j['microseconds'] / t['microseconds']:.1f}" for j, t in pairs))
        )
    rows.append(("native, share of the peak", *(f"{t['share_of_peak']:.0%}" for t in native)))
    yield from table(head, rows)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """Yield a Markdown table, its figures to the right, and an empty line."""
    head = list(head)
    yield f"| {' | '.join(head)} |"
    yield "|---" + "|---:" * (len(head) - 1) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def number(found: Recorded | None, what: str) -> str:
    """Return a figure with one decimal."""
    return f"{found[what]:.1f}" if found else "not timed"


def spread(found: Recorded | None, what: str) -> str:
    """Return a median with its quartiles, to three digits or more."""
    if found is None:
        return "not timed"
    figures = (found[name] for name in (what, "low", "high"))
    median, low, high = (f"{x:,.0f}" if x >= 100 else f"{x:#.3g}".rstrip(".") for x in figures)
    return f"{median} ({low} to {high})"


if __name__ == "__main__":
    if "--tables" not in sys.argv:
        record()
    readme, kept = HERE / "README.md", (HERE / "recorded.json").read_text(encoding="utf-8")
    readme.write_text(with_tables(readme.read_text(encoding="utf-8"), json.loads(kept)), encoding="utf-8")
