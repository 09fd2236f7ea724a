"""Two lists of words that come with the package; README.md beside this file tells where they are from.

The lecture's own list does not come along; it is known when it is seen."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Dataset:
    """A word list that comes with the package, and how to read it with `read_words`."""

    path: Path
    column: str | None
    clean: tuple[str, ...]
    about: str


HERE = Path(__file__).parent

DATASETS = {
    "names": Dataset(
        HERE / "us-names-2018.txt",
        column=None,
        clean=(),
        about="32,257 first names of 2018 (US Social Security Administration, public domain)",
    ),
    "municipios": Dataset(
        HERE / "municipios.csv",
        column="municipio",
        clean=("first", "swap", "ascii", "lower", "strip"),
        about="8,133 municipalities of Spain (names fixed by the national statistics institute, open data)",
    ),
}

LECTURE_LISTS = frozenset({"816d2a728695db28a20e17eae61c9c423091a511b3df09a06a489dccbf0876c7"})
"""The SHA-256, as `hash_words` gives it, of names.txt of karpathy/makemore, which the lecture trains on."""
