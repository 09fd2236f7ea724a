"""Train on words of 20,000 different letters, sample, and print the time and the peak memory of each."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

LETTERS, STEPS, SAMPLED = 20_000, 200, 10_000


def make_words(path: Path) -> None:
    """Write words of three letters each, so that every letter is in some."""
    letters = [chr(0x4E00 + i) for i in range(LETTERS)]
    words = ("".join(letters[i - k] for k in range(3)) for i in range(LETTERS))
    path.write_text("\n".join(words), encoding="utf-8")


def do(what: str, folder: Path) -> None:
    """Do one of the two in this process, and print what it took."""
    import backhand
    from backhand.benching.machine import peak_megabytes

    before, began = peak_megabytes(), time.perf_counter()
    if what == "train":
        backhand.train(backhand.TrainConfig(words=str(folder / "w.txt"), steps=STEPS), out=folder / "run")
    else:
        assert len(backhand.sample(folder / "run", n=SAMPLED)) == SAMPLED
    seconds, peak = time.perf_counter() - began, peak_megabytes()
    print(f"{what}: {seconds:.0f} s, peak {peak:,.0f} MB, of which {before:,.0f} before it began")


def main() -> None:
    """Make the words, then train and sample, each in a process of its own."""
    if len(sys.argv) > 1:
        do(sys.argv[1], Path(sys.argv[2]))
        return
    with tempfile.TemporaryDirectory() as folder:
        make_words(Path(folder) / "w.txt")
        for what in ("train", "sample"):
            subprocess.run([sys.executable, __file__, what, folder], check=True)


if __name__ == "__main__":
    main()
