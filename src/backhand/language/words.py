"""Reading a list of words, from text or CSV, and cleaning it."""

import codecs
import hashlib
import re
import stat
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

from anyascii import anyascii

from backhand.datasets import DATASETS
from backhand.errors import WordsError

from .tables import csv_column, refuse_table


def first(word: str) -> str:
    """Keep what stands before a slash: "Elx/Elche" becomes "Elx"."""
    return word.split("/", 1)[0].strip()


def swap(word: str) -> str:
    """Put the article in front: "Ballestero, El" becomes "El Ballestero", "Orxa, l'" becomes "l'Orxa"."""
    name, comma, article = word.rpartition(",")
    if not comma:
        return word
    name, article = name.strip(), article.strip()
    return article + name if article.endswith(("'", "’")) else f"{article} {name}"


def strip(word: str) -> str:
    """Remove brackets and quotes, apostrophes among them: "Noáin (Elorz)" becomes "Noáin Elorz"."""
    return " ".join(re.sub(r"[()\[\]{}<>\"'`´‘’‚“”„«»‹›]", "", word).split())


CLEANING: dict[str, Callable[[str], str]] = {
    "first": first,
    "swap": swap,
    "ascii": anyascii,
    "lower": str.lower,
    "strip": strip,
    "dots": lambda word: word.replace(".", ""),
    "nfc": lambda word: unicodedata.normalize("NFC", word),
}


def read_words(path: str | Path, column: str | None = None, clean: Sequence[str] = ()) -> list[str]:
    """Read a list of words: one a line, or one column of a CSV file.

    Args:
        path: a UTF-8 file, with or without a byte-order mark; any line ends; blank lines are passed over.
        column: the name of a column, in the file's first line; the file is then read as CSV, its fields
            divided by commas, semicolons, tabs or vertical bars.
        clean: names of cleaning steps, applied in this order: `first` (keep what is before a slash), `swap`
            ("Ballestero, El" to "El Ballestero"), `ascii` (transliterate accents and other scripts), `lower`,
            `strip` (remove brackets and quotes), `dots` (remove full stops), `nfc` (compose accents). White
            space at the ends of a word always goes.

    Returns:
        The words in the order of the file; a word that stands there twice comes twice.

    Raises:
        WordsError: the file cannot be read, is not UTF-8 text, lacks the column, is a table and no column
            was chosen, or holds no words; or a word holds ".", which ends a word in the model.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "towns.csv"
    >>> _ = file.write_text('town;county\\nElx/Elche;Alacant\\nBonillo, El;Albacete\\n')
    >>> read_words(file, column="town", clean=["first", "swap", "lower"])
    ['elx', 'el bonillo']
    """
    unknown = [step for step in clean if step not in CLEANING]
    if unknown:
        raise WordsError(f"there is no cleaning step {unknown[0]!r}; choose from {', '.join(CLEANING)}")
    text = read_text(Path(path))
    if column is None:
        refuse_table(text, path)
        lines = enumerate(text.splitlines(), 1)
    else:
        lines = csv_column(text, column, path)
    steps = [CLEANING[step] for step in clean]
    words = []
    for number, word in lines:
        for step in steps:
            word = step(word)
        word = word.strip()
        if "." in word:
            raise WordsError(
                f"{path}, line {number}: {word!r:.80} holds '.', which ends a word in the model; "
                "replace it, or add the cleaning step `dots`"
            )
        if word:
            words.append(word)
    if not words:
        raise WordsError(f"{path} holds no words; it should hold one a line, or give --column for a CSV file")
    return words


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file, without a byte-order mark."""
    try:
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise WordsError(f"{path} is a pipe or a device, not a file; save the words to a file first")
        data = path.read_bytes()
    except FileNotFoundError:
        raise WordsError(f"there is no file {str(path)!r}; give the path of a word list") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise WordsError(f"cannot read {str(path)!r}: {getattr(error, 'strerror', error)}") from None
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise WordsError(f"{path} is UTF-16; save the file as UTF-8")
    if b"\0" in data:
        raise WordsError(f"{path} is a binary file, not text; a word list is UTF-8 text with one word a line")
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise WordsError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from None


def hash_words(words: Sequence[str]) -> str:
    """Return the SHA-256 of the words in order, each ended by a line feed, as hexadecimal digits."""
    digest = hashlib.sha256()
    for start in range(0, len(words), 100_000):
        digest.update("".join(f"{word}\n" for word in words[start : start + 100_000]).encode())
    return digest.hexdigest()


def load_words(words: str | Path, column: str | None = None, clean: Sequence[str] = ()) -> list[str]:
    """Return an embedded list by its name (`names`, `municipios`), or read a file as `read_words` does.

    An embedded list has a column and cleaning steps of its own; those that are given here take their place.

    >>> len(load_words("names"))
    32257
    """
    dataset = DATASETS.get(str(words))
    if dataset is not None:
        return read_words(dataset.path, column or dataset.column, clean or dataset.clean)
    try:
        there = Path(words).exists()
    except OSError as error:
        raise WordsError(f"cannot read {str(words)!r:.200}: {error.strerror}") from None
    if not there:
        raise WordsError(
            f"there is no file {str(words)!r:.200}, nor an embedded list of that name ({', '.join(DATASETS)})"
        )
    return read_words(words, column, clean)
