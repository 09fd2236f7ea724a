"""Give `backhand train` whatever bytes a file can hold, and see what it says: one line, or a right run.

Run as a program, in a process of its own, since it forks: python feeding.py FOLDER COUNT FIRST_SEED
prints a line of JSON for each file, with what was wrong, if anything.
"""

import csv
import io
import json
import os
import random
import re
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch

import backhand
from backhand import Run, TrainConfig
from backhand.cli import main as command_line

torch.set_num_threads(1)  # threads do not outlive a fork

MEMORY = 1 << 30
"""What a process may have beyond what it has before it reads the file."""

UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")
LETTERS = {
    "plain": "abcdefghij",
    "accents": "aeo\u0301\u0308\u0327\u0303ñéß",
    "emoji": "\U0001f468\u200d\U0001f469\U0001f3fd\u2764\ufe0f\U0001f1ea\U0001f1f8",
    "scripts": "абвгдαβγδאבגد中文字नमस्ते",
    "control": "ab\x1b[31m\x07\x08\x7f\x9b\x00\x0b\x0c\x1c\x1d\x85",
    "marks": "ab\u202e\u202d\u200f\u2066\u2069\u200b\ufeff\u00a0\u2028\u2029",
    "punctuation": ",;|\t\"'.-/\\ ()[]{}=+@",
}


def random_bytes(draw: random.Random) -> bytes:
    return draw.randbytes(draw.choice([0, 1, 3, 50, 3000]))


def word(draw: random.Random, letters: str, most: int = 12) -> str:
    return "".join(draw.choices(letters, k=draw.randint(0, most)))


def lines(draw: random.Random) -> bytes:
    """Lines of one alphabet, sometimes of two, with any line ends and encodings."""
    letters = "".join(draw.sample([*LETTERS.values()], draw.choice([1, 1, 2])))
    end = draw.choice(["\n", "\n", "\r\n", "\r", "\u2028", "\n\n \n"])
    letters = letters if draw.random() < 0.3 else letters.replace(".", "").replace("\0", "")
    text = end.join(word(draw, letters) for _ in range(draw.choice([2, 20, 60, 200])))
    others = ["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252"]
    encoding = draw.choice(["utf-8"] * 3 * len(others) + others)
    return text.encode(encoding, "replace")


def table(draw: random.Random) -> bytes:
    """A table: any delimiter, columns twice, ragged rows, fields in quotes with line ends inside."""
    delimiter, end = draw.choice(",;\t|:"), draw.choice(["\n", "\r\n"])
    width, letters = draw.randint(1, 6), draw.choice([*LETTERS.values()])
    rows = [[draw.choice(["name", "id", *[f"{word(draw, letters)}{i}"] * 3]) for i in range(width)]]
    for _ in range(draw.choice([0, 20, 60])):
        rows.append([word(draw, letters) for _ in range(width + (draw.random() < 0.01))])
    file = io.StringIO(newline="")
    quoting = draw.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
    written = csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=quoting, escapechar="\\")
    written.writerows(rows)
    return file.getvalue().encode(errors="replace")


def spoilt(draw: random.Random) -> bytes:
    """Lines or a table with a few bytes changed, taken away or put in."""
    data = bytearray(draw.choice([lines, table])(draw))
    for _ in range(draw.randint(1, 5)):
        i = draw.randrange(len(data) + 1)
        data[i : i + draw.randint(0, 2)] = draw.randbytes(draw.randint(0, 2))
    return bytes(data)


def huge(draw: random.Random) -> bytes:
    """Much of one thing: a long word, many words, many letters, many accents on one letter."""
    n = draw.choice([10_000, 300_000])
    return draw.choice(
        [
            lambda: b"a" * n + b"\nb\nab\nba\nbb\naa\nbab\naba\nabba\nbaab\n",
            lambda: b"ab\nba\nabb\n" * n,
            lambda: "\n".join(chr(0x4E00 + i % 2_000) for i in range(n)).encode(),
            lambda: ("a" + "\u0301" * n + "\n" + "b\nab\n" * 20).encode(),
            lambda: b",".join([b"name"] * n) + b"\n" + b"a,b\n" * 20,
            lambda: b'"' + b"a\n" * n,
            lambda: b"\n" * n,
        ]
    )()


KINDS: tuple[Callable[[random.Random], bytes], ...] = (random_bytes, lines, lines, table, table, spoilt, huge)


def expected(data: bytes, column: str | None) -> list[str] | None:
    """The words as Python itself reads them; None where that is not plain."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    if column is None:
        return [stripped for line in text.splitlines() if (stripped := line.strip())]
    for delimiter in ",;\t|":
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row]
        if rows and column in rows[0]:
            where = rows[0].index(column)
            return [w for row in rows[1:] if where < len(row) and (w := row[where].strip())]
    return None


def attempt(folder: Path, arguments: list[str]) -> int:
    """Run the command line in a process of its own, of bounded memory, with its output in two files."""
    pid = os.fork()
    if pid == 0:
        status = 3
        try:
            sys.stdout = (folder / "stdout").open("w", encoding="utf-8")
            sys.stderr = (folder / "stderr").open("w", encoding="utf-8")
            size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
            sys.argv = ["backhand", *arguments]
            status = 0
            command_line()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except BaseException as error:
            status = 3
            sys.stderr.write(f"Traceback: {error!r}")
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def wrong(folder: Path, status: int, data: bytes, column: str | None) -> str | None:
    """Say what is not as it should be after a command, if anything."""
    stdout, stderr = ((folder / name).read_text(encoding="utf-8") for name in ("stdout", "stderr"))
    if UNSHOWN.search(stdout + stderr):
        return "control characters on the screen"
    if status == 2:
        one_line = stderr.startswith("backhand: ") and stderr.count("\n") == 1
        return None if one_line and len(stderr) < 1500 else "not one line"
    if status:
        return f"status {status}"
    words = Run.load(folder / "run").words()
    right = expected(data, column)
    if right is not None and words != right:
        return f"other words: {words[:3]} {right[:3]}"
    return None


def main(root: Path, count: int, first: int) -> None:
    warm = root / "warm"
    backhand.train(TrainConfig(n_hidden=4, steps=20), out=warm)  # what is compiled at first is not counted
    for seed in range(first, first + count):
        draw = random.Random(seed)
        kind = KINDS[seed % len(KINDS)]
        data = kind(draw)
        column = draw.choice([None, "name"]) if kind is table else None
        folder = root / "trial"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "words").write_bytes(data)
        arguments = ["train", str(folder / "words"), "--out", str(folder / "run"), "--steps", "20"]
        arguments += ["--n-hidden", "4", *(["--column", column] if column else [])]
        status = attempt(folder, arguments)
        problem = wrong(folder, status, data, column)
        said = (folder / "stderr").read_text(encoding="utf-8").strip()[-200:]
        if status == 0 and problem is None:
            status = attempt(folder, ["sample", str(folder / "run"), "--n", "5"])
            problem = wrong(folder, status, data, column)
        told = {"seed": seed, "kind": kind.__name__, "status": status, "wrong": problem, "said": said}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
