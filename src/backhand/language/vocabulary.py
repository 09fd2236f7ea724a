"""The symbols that a model knows: the letters of its words, and "." for the end."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from backhand.errors import WordsError

END = "."
SLICE = 100_000


@dataclass(frozen=True)
class Vocabulary:
    """The letters, sorted and numbered from 1; "." is 0: it ends a word and fills the context before it.

    >>> vocabulary = Vocabulary.of(["emma", "olivia"])
    >>> vocabulary.letters, vocabulary.stoi["e"], vocabulary.itos[0]
    ('aeilmov', 2, '.')
    >>> vocabulary.encode("emma"), vocabulary.decode([2, 5, 5, 1])
    ([2, 5, 5, 1], 'emma')
    """

    letters: str

    @classmethod
    def of(cls, words: Iterable[str]) -> "Vocabulary":
        """Collect the letters of some words."""
        letters: set[str] = set()
        for word in words:
            letters.update(word)
        return cls("".join(sorted(letters - {END})))

    def __len__(self) -> int:
        return len(self.letters) + 1

    @cached_property
    def stoi(self) -> dict[str, int]:
        """From symbol to index."""
        return {symbol: i for i, symbol in self.itos.items()}

    @cached_property
    def itos(self) -> dict[int, str]:
        """From index to symbol."""
        return dict(enumerate(END + self.letters))

    def encode(self, word: str) -> list[int]:
        """Return the indices of a word's letters, without the end."""
        for letter in word:
            if letter not in self.letters:
                raise WordsError(
                    f"{word!r} holds {letter!r}, which the model has never seen; it knows {self.letters!r}"
                )
        return [self.stoi[letter] for letter in word]

    def decode(self, indices: Iterable[int]) -> str:
        """Return the symbols of some indices as one string."""
        return "".join(self.itos[i] for i in indices)

    def encode_all(self, words: Sequence[str], before: int = 0) -> np.ndarray:
        """Return all words in one flat array of the smallest fitting integers, each followed by 0.

        Vectorised, a slice at a time, so that little more than the result is ever in memory. `before`
        zeros stand in front of the first word.

        >>> Vocabulary("abc").encode_all(["ab", "c"], before=1)
        array([0, 1, 2, 0, 3, 0], dtype=uint8)
        """
        # from code point to symbol; -1 where there is none
        index = np.full(max(map(ord, END + self.letters)) + 2, -1, dtype=np.int32)
        index[[ord(symbol) for symbol in self.itos.values()]] = np.arange(len(self))
        size = before + sum(map(len, words)) + len(words)
        flat = np.zeros(size, dtype=np.uint8 if len(self) <= 256 else np.int32)
        for start in range(0, len(words), SLICE):
            part = words[start : start + SLICE]
            text = END.join(part) + END
            points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
            codes = index[np.minimum(points, len(index) - 1)]
            if (codes < 0).any() or np.count_nonzero(codes == 0) != len(part):
                for word in part:
                    self.encode(word)  # raises for the word that holds an unknown letter, or an end
            flat[before : before + len(codes)] = codes
            before += len(codes)
        return flat
