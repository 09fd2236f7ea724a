"""Train on ten million made-up words, and print the time and the peak memory of the whole process."""

import random
import sys
import tempfile
import time
from pathlib import Path

WORDS, STEPS = 10_000_000, 2_000


def make_words(path: Path, count: int) -> None:
    """Write words of three to nine letters, a hundred thousand at a time."""
    draw = random.Random(0)
    with path.open("w", encoding="ascii") as file:
        for _ in range(count // 100_000):
            letters = "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=900_000))
            lengths = draw.choices(range(3, 10), k=100_000)
            file.writelines(letters[9 * i : 9 * i + k] + "\n" for i, k in enumerate(lengths))


def main() -> None:
    """Make the words, train, and print."""
    import backhand
    from backhand.benching.machine import peak_megabytes

    count = int(sys.argv[1]) if len(sys.argv) > 1 else WORDS
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "words.txt"
        make_words(path, count)
        began = time.perf_counter()
        run = backhand.train(backhand.TrainConfig(words=str(path), steps=STEPS), out=Path(folder) / "run")
    peak = peak_megabytes()
    print(f"{count:,} words, {STEPS:,} steps: {time.perf_counter() - began:.0f} s, peak {peak:,.0f} MB")
    print(f"losses {run.results}")


if __name__ == "__main__":
    main()
