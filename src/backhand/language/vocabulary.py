"""The symbols that a model knows: the letters of its words, and "." for the end.

A letter is what a reader takes for one: a grapheme cluster of Unicode (UAX 29), such as an "e" with a
combining accent, or an emoji of a family. Almost every list has letters of one code point only; it is encoded
by table.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import regex

from backhand.errors import WordsError

END = "."
SLICE = 100_000

CLUSTER = regex.compile(r"\X")
ALONE = regex.compile(r"\p{Grapheme_Cluster_Break=Other}*")
"""Code points that never form a cluster with each other."""

SHOWN = 60
"""How many letters a message lists."""


@dataclass(frozen=True)
class Vocabulary:
    """The letters, sorted and numbered from 1; "." is 0: it ends a word and fills the context before it.

    Attributes:
        letters: those of one code point.
        clusters: those of several, numbered after the others.

    >>> vocabulary = Vocabulary.of(["emma", "olivia"])
    >>> vocabulary.letters, vocabulary.stoi["e"], vocabulary.itos[0]
    ('aeilmov', 2, '.')
    >>> vocabulary.encode("emma"), vocabulary.decode([2, 5, 5, 1])
    ([2, 5, 5, 1], 'emma')
    """

    letters: str
    clusters: tuple[str, ...] = ()

    @classmethod
    def of(cls, words: Iterable[str]) -> "Vocabulary":
        """Collect the letters of some words."""
        points: set[str] = set()
        words = words if isinstance(words, Sequence) else list(words)
        for word in words:
            points.update(word)
        if ALONE.fullmatch("".join(points)):
            return cls("".join(sorted(points - {END})))
        letters: set[str] = set()
        for word in words:
            letters.update(CLUSTER.findall(word))
        letters.discard(END)
        single = (letter for letter in letters if len(letter) == 1)
        return cls("".join(sorted(single)), tuple(sorted(letter for letter in letters if len(letter) > 1)))

    def __len__(self) -> int:
        return len(self.letters) + len(self.clusters) + 1

    @cached_property
    def stoi(self) -> dict[str, int]:
        """From symbol to index."""
        return {symbol: i for i, symbol in self.itos.items()}

    @cached_property
    def itos(self) -> dict[int, str]:
        """From index to symbol."""
        return dict(enumerate([END, *self.letters, *self.clusters]))

    def encode(self, word: str) -> list[int]:
        """Return the indices of a word's letters, without the end."""
        indices = []
        for letter in self._letters_of(word):
            index = self.stoi.get(letter, 0)
            if index == 0:
                raise WordsError(
                    f"{word!r} holds {letter!r}, which the model has never seen; it knows {self._known()}"
                )
            indices.append(index)
        return indices

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
        dtype = np.uint8 if len(self) <= 256 else np.int32
        if self.clusters:
            parts = [np.array([*self.encode(word), 0], dtype) for word in words]
            return np.concatenate([np.zeros(before, dtype), *parts])
        # from code point to symbol; -1 where there is none
        index = np.full(max(map(ord, END + self.letters)) + 2, -1, dtype=np.int32)
        index[[ord(symbol) for symbol in self.itos.values()]] = np.arange(len(self))
        flat = np.zeros(before + sum(map(len, words)) + len(words), dtype)
        for start in range(0, len(words), SLICE):
            part = words[start : start + SLICE]
            text = END.join(part) + END
            points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
            codes = index[np.minimum(points, len(index) - 1)]
            if (codes < 0).any() or np.count_nonzero(codes == 0) != len(part):
                for word in part:
                    self.encode(word)  # raises for the word that holds an unknown letter, or an end
            flat[before : before + len(codes)] = codes
            before += len(codes)
        return flat

    def _letters_of(self, word: str) -> Iterable[str]:
        """Yield a word's letters; a cluster that is not known as one letter is taken as its code points."""
        if not self.clusters:
            yield from word
            return
        for cluster in CLUSTER.findall(word):
            yield from [cluster] if cluster in self.stoi else cluster

    def _known(self) -> str:
        """Return the letters as a message lists them."""
        if len(self) - 1 <= SHOWN:
            return repr("".join([*self.letters, *self.clusters]))
        return f"{(self.letters or ''.join(self.clusters))[:SHOWN]!r} and others, {len(self) - 1:,} in all"
