import tracemalloc
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from backhand import Contexts, Vocabulary, load_words, split_words
from backhand.errors import WordsError

WORDS = st.lists(st.text("abcñ", min_size=1, max_size=6), min_size=1, max_size=12)


def lecture_loop(words: list[str], stoi: dict[str, int], block_size: int) -> tuple[Tensor, Tensor]:
    """The contexts one at a time, the plain way."""
    X, Y = [], []
    for word in words:
        context = [0] * block_size
        for symbol in word + ".":
            X.append(context)
            Y.append(stoi[symbol])
            context = [*context[1:], stoi[symbol]]
    return torch.tensor(X), torch.tensor(Y)


@pytest.mark.seconds
@given(WORDS, st.integers(1, 8))
def test_contexts_are_those_of_the_plain_loop(words: list[str], block_size: int) -> None:
    vocabulary = Vocabulary.of(words)
    contexts = Contexts(words, vocabulary, block_size)
    X, Y = contexts[:]
    expected_X, expected_Y = lecture_loop(words, vocabulary.stoi, block_size)
    assert torch.equal(X, expected_X)
    assert torch.equal(Y, expected_Y)
    rows = torch.randint(0, len(contexts), (2, 5), generator=torch.Generator().manual_seed(1))
    assert torch.equal(contexts[rows][0], expected_X[rows])
    assert torch.equal(contexts[rows][1], expected_Y[rows])


@given(WORDS, st.sampled_from([1, 2, 3, 40]))
@settings(deadline=None)
def test_merged_contexts_count_every_pair(words: list[str], block_size: int) -> None:
    vocabulary = Vocabulary.of(words)
    contexts = Contexts(words, vocabulary, block_size)  # 40 letters do not fit the packed integers
    X, Y = lecture_loop(words, vocabulary.stoi, block_size)
    counted: dict[tuple[int, ...], int] = {}
    for chunk in contexts.merged.chunks(size=3):
        for row, y, count in zip(chunk.rows.tolist(), chunk.Y.tolist(), chunk.counts.tolist(), strict=True):
            pair = (*chunk.X[row].tolist(), y)
            counted[pair] = counted.get(pair, 0) + count
    expected: dict[tuple[int, ...], int] = {}
    for x, y in zip(X.tolist(), Y.tolist(), strict=True):
        expected[*x, y] = expected.get((*x, y), 0) + 1
    assert counted == expected


def test_merging_leaves_few_rows_of_a_real_list() -> None:
    words = load_words("names")
    contexts = Contexts(words, Vocabulary.of(words), 3)
    assert contexts.merged.counts.sum() == len(contexts)
    assert len(contexts.merged.X) < len(contexts) / 20


@pytest.mark.parametrize(
    ("seed", "expected"), [(42, [182_625, 22_655, 22_866]), (666, [182_426, 22_807, 22_913])]
)
def test_the_lectures_list_gives_the_lectures_splits(
    lecture_words: list[str], seed: int, expected: list[int]
) -> None:
    vocabulary = Vocabulary.of(lecture_words)
    assert len(vocabulary) == 27
    assert max(map(len, lecture_words)) == 15
    splits = split_words(lecture_words, seed)
    assert [len(Contexts(split, vocabulary, 3)) for split in splits] == expected


def test_splitting_keeps_every_word_and_leaves_the_list_alone() -> None:
    words = [f"w{i}" for i in range(57)]
    train, dev, test = split_words(words, seed=3)
    assert (len(train), len(dev), len(test)) == (45, 6, 6)
    assert sorted(train + dev + test) == sorted(words)
    assert words == [f"w{i}" for i in range(57)]
    assert split_words(words, seed=4).train != train


@pytest.mark.parametrize("count", range(1, 6))
def test_too_few_words_to_split_are_refused(count: int) -> None:
    with pytest.raises(WordsError, match=f"{count} words are too few to split .* at least 6"):
        split_words(["word"] * count)


def test_six_words_are_enough_to_split() -> None:
    assert [len(split) for split in split_words("abcdef")] == [4, 1, 1]


def test_the_end_is_symbol_0_and_letters_are_sorted() -> None:
    vocabulary = Vocabulary.of(["zoë", "ana b"])
    assert vocabulary.itos == {0: ".", 1: " ", 2: "a", 3: "b", 4: "n", 5: "o", 6: "z", 7: "ë"}
    assert vocabulary.stoi == {symbol: i for i, symbol in vocabulary.itos.items()}
    assert len(vocabulary) == 8


def test_an_unknown_letter_is_named_with_its_word() -> None:
    vocabulary = Vocabulary("abn")
    with pytest.raises(WordsError, match=r"'cab' holds 'c', which the model has never seen; it knows 'abn'"):
        vocabulary.encode("cab")
    for word in ("anc", "an\U0001f600", "a.n"):
        with pytest.raises(WordsError, match="which the model has never seen"):
            Contexts(["ban", word], vocabulary, 3)


def test_more_than_256_symbols_fit() -> None:
    words = [chr(0x4E00 + i) + chr(0x4E00 + i + 1) for i in range(400)]
    vocabulary = Vocabulary.of(words)
    contexts = Contexts(words, vocabulary, 2)
    X, Y = contexts[:]
    assert vocabulary.decode(Y[-3:-1].tolist()) == words[-1]
    assert vocabulary.decode(X[-1].tolist()) == words[-1]


@pytest.mark.parametrize(("symbols", "size"), [(256, 1), (257, 4)])
def test_a_byte_holds_256_symbols_and_no_more(symbols: int, size: int) -> None:
    letters = [chr(0x4E00 + i) for i in range(symbols - 1)]
    vocabulary = Vocabulary.of(letters)
    contexts = Contexts(letters, vocabulary, 2)
    X, Y = lecture_loop(letters, vocabulary.stoi, 2)
    assert len(vocabulary) == symbols
    assert contexts.flat.element_size() == size
    assert torch.equal(contexts[:][0], X)
    assert torch.equal(contexts[:][1], Y)


@pytest.mark.parametrize("block_size", [38, 39])
def test_contexts_that_fill_64_bits_to_the_last_are_merged_right(block_size: int) -> None:
    """With three symbols, 39 digits fit below 2**63, and 40 do not, though they do below 2**64."""
    assert 3**39 < 2**63 < 3**40 < 2**64
    words = ["b" * 45, "a" + "b" * 44, "b" * 45]
    vocabulary = Vocabulary.of(words)
    merged = Contexts(words, vocabulary, block_size).merged
    X, Y = lecture_loop(words, vocabulary.stoi, block_size)
    found = Counter()
    for row, y, count in zip(merged.rows.tolist(), merged.Y.tolist(), merged.counts.tolist(), strict=True):
        found[*merged.X[row].tolist(), y] += count
    assert found == Counter((*x, y) for x, y in zip(X.tolist(), Y.tolist(), strict=True))


def test_contexts_take_a_byte_a_letter() -> None:
    words = load_words("names") * 10
    vocabulary = Vocabulary.of(words)
    tracemalloc.start()
    contexts = Contexts(words, vocabulary, 8)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert contexts.flat.element_size() == 1
    assert contexts.windows.untyped_storage().data_ptr() == contexts.flat.untyped_storage().data_ptr()
    assert peak < 16 * len(contexts)  # making them takes little more than a slice at a time
    assert len(contexts) == sum(len(word) + 1 for word in words)


def test_a_letter_is_a_grapheme_cluster() -> None:
    family, accented = "\U0001f468\u200d\U0001f469\u200d\U0001f467", "e\u0301"
    words = [f"a{family}b", f"{accented}a", "ba"]
    vocabulary = Vocabulary.of(words)
    assert (vocabulary.letters, vocabulary.clusters) == ("ab", (accented, family))
    assert vocabulary.encode(words[0]) == [1, 4, 2]
    contexts = Contexts(words, vocabulary, 2)
    assert contexts.flat.tolist() == [0, 0, 1, 4, 2, 0, 3, 1, 0, 2, 1, 0]
    assert vocabulary.decode([3, 4]) == accented + family
    with pytest.raises(WordsError, match="which the model has never seen"):
        vocabulary.encode("e\u0302")
