"""The ladder: what each type of model reaches by the plain command, and in what processor time.

    python benchmarks/ladder.py names.txt --out runs/ladder

trains every type with three seeds, each in a process of its own, and prints the table of docs/ladder.md. Runs
that are in the folder already are not trained again, so that it can be stopped and gone on with.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

TYPES = ("bigram", "mlp", "rnn", "gru", "transformer")
SEEDS = (2147483647, 1, 2)
"""The default one first."""

COMMAND = "import sys; from backhand.cli import main; sys.exit(main())"
NOTES = "ladder.json"
"""What was found of a run, beside its own files."""


def trained(words: str, kind: str, seed: int, folder: Path) -> dict[str, Any]:
    """Train a type by the plain command; return its results and the processor time of all that it did."""
    notes = folder / NOTES
    if notes.exists():
        return json.loads(notes.read_text())
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    options = ["--type", kind, "--seed", str(seed), "--out", str(folder), "--overwrite", "--json"]
    one_core = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "train", words, *options],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=one_core,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found = json.loads(done.stdout) | {"type": kind, "seed": seed, "seconds": seconds}
    notes.write_text(json.dumps(found, indent=2) + "\n")
    return found


def spread(values: list[float], digits: int) -> str:
    """Return the median of some values, and from where to where they go."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def row(runs: list[dict[str, Any]]) -> str:
    """Return a type's line of the table."""
    losses = [spread([run["results"][split] for run in runs], 4) for split in ("train", "dev", "test")]
    seconds = spread([run["seconds"] for run in runs], 0)
    return " | ".join([f"| {runs[0]['type']}", f"{runs[0]['step']:,}", *losses, seconds]) + " |"


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("words", help="a list of words, as train takes it")
    parser.add_argument("--out", type=Path, default=Path("runs/ladder"), help="a folder for the runs")
    parser.add_argument("--types", nargs="*", choices=TYPES, default=TYPES)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    print("| type | steps | train | dev | test | seconds of one core |\n|---|---|---|---|---|---|")
    for kind in asked.types:
        runs = [trained(asked.words, kind, seed, asked.out / f"{kind}-{seed}") for seed in SEEDS]
        print(row(runs), flush=True)


if __name__ == "__main__":
    main()
