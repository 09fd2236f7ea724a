"""Run `backhand bench` in full, and keep what it found beside this script: recorded.json and recorded.png."""

import json
import sys
from pathlib import Path

from backhand.benching import bench
from backhand.benching.plotting import plot_bench

if __name__ == "__main__":
    here = Path(__file__).parent
    report = bench(watch=lambda text: print(text, file=sys.stderr, flush=True))
    (here / "recorded.json").write_text(json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8")
    (here / "recorded.png").write_bytes(plot_bench(report))
