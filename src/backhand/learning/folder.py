"""A learner's folder: the files of the course, written, judged and reset. Nothing else is stored."""

import os
from collections.abc import Mapping
from pathlib import Path

from backhand.errors import LearnError
from backhand.learning.attempts import unjudged
from backhand.learning.blanking import blank
from backhand.learning.course import Exercise, course, find
from backhand.learning.progress import Judge, Progress
from backhand.learning.referee import Referee
from backhand.writing import write_whole


def write_course(folder: Path, *, numpy: bool = False) -> tuple[Path, ...]:
    """Write the exercises that a folder lacks, and return their paths. A file that is there stays as it is.

    Raises:
        LearnError: the folder cannot be written.
    """
    return write_missing({folder / e.file_name: blank(e) for e in course(numpy=numpy)})


def write_missing(files: Mapping[Path, str]) -> tuple[Path, ...]:
    """Write the files that are not there, and return which; those that are there are the learner's.

    One that has another number, of a course before this one had more exercises, is the learner's too, and
    gets today's.

    Raises:
        LearnError: a folder cannot be written.
    """
    written = []
    for path, text in files.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if os.path.lexists(path):  # a link to nothing is not written through
                continue
            earlier = sorted(path.parent.glob(f"[0-9][0-9]_{path.name[3:]}"))
            if earlier:
                earlier[0].rename(path)
            else:
                write_whole(path, text.encode())
                written.append(path)
        except OSError as error:
            raise LearnError(
                f"cannot write in {path.parent}: {error.strerror}; choose another folder."
            ) from None
    return tuple(written)


def judge_folder(folder: str | Path, *, numpy: bool = False) -> Progress:
    """Judge every exercise of a folder; one whose file is not there is all `todo`.

    Args:
        folder: where `learn` wrote them.
        numpy: they are those of the course over NumPy.

    Raises:
        LearnError: there is no such folder.

    >>> import tempfile
    >>> from backhand.learning.course import find
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "01_product.py").write_text(find("product").solution_text)
    >>> judge_folder(folder).solved
    1
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise LearnError(f"{folder} is no folder; `backhand learn {folder}` makes one with the exercises.")
    with Referee() as referee:
        return judge_all(folder, referee.judge, numpy=numpy)


def judge_all(folder: Path, judge: Judge, *, numpy: bool = False) -> Progress:
    """Judge every exercise of a folder with a function that judges one; an untouched one need not run."""
    files = {e: folder / e.file_name for e in course(numpy=numpy)}
    return Progress(
        folder, tuple(unjudged(e, f, "") if _is_blank(f, e) else judge(e, f) for e, f in files.items())
    )


def reset_exercise(folder: str | Path, name: str, *, numpy: bool = False) -> Path | None:
    """Write an exercise anew, keeping the old file beside it.

    Args:
        folder: where the exercises are.
        name: of the exercise: `product`, `1` or `01_product.py`.
        numpy: it is one of the course over NumPy.

    Returns:
        Where the old file is kept, or None if there was none, or only an untouched one.

    Raises:
        LearnError: there is no such exercise, or the folder cannot be written.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "01_product.py"
    >>> _ = file.write_text("# my own")
    >>> reset_exercise(file.parent, "product").name
    '01_product.py.old'
    """
    exercise = find(name, numpy=numpy)
    folder = Path(folder)
    path = folder / exercise.file_name
    try:
        kept = None
        if os.path.lexists(path) and not _is_blank(path, exercise):
            kept = _free(path)
            path.rename(kept)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, blank(exercise).encode())
    except OSError as error:
        raise LearnError(f"cannot write {path}: {error.strerror}.") from None
    return kept


def _is_blank(path: Path, exercise: Exercise) -> bool:
    """Tell whether a file is as it was written; a link is the learner's own."""
    text = blank(exercise).encode()
    if path.is_symlink() or not path.is_file() or path.stat().st_size != len(text):
        return False
    return path.read_bytes() == text


def _free(path: Path) -> Path:
    """Return a name beside a file that is not taken: 01_product.py.old, 01_product.py.old2 and so on."""
    candidates = (path.with_name(f"{path.name}.old{n if n > 1 else ''}") for n in range(1, 10_000))
    return next(p for p in candidates if not os.path.lexists(p))
