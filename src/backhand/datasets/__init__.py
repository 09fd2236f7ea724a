"""Two lists of words that come with the package; README.md beside this file tells where they are from."""

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
