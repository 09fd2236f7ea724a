from collections import Counter
from itertools import islice

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import backhand
from backhand import Run, TrainConfig
from backhand.errors import ConfigError, WordsError
from backhand.language.drawing import BLOCK, LONGEST, ONE_BY_ONE, draw_words, tabulate
from backhand.language.model import Model, draw_parameters
from backhand.language.word_models import WordModel


def lecture_loop(run: Run, count: int) -> list[str]:
    """The lecture's sampling cell, on the parameters of a run."""
    C, W1, b1, W2, b2, bngain, bnbias = run.model.parameters.values()
    g = torch.Generator().manual_seed(2147483647 + 10)
    words = []
    for _ in range(count):
        out, context = [], [0] * 3
        while True:
            embcat = C[torch.tensor([context])].view(1, -1)
            hprebn = embcat @ W1 + b1
            hpreact = bngain * (hprebn - run.model.bnmean) / run.model.bnstd + bnbias
            probs = F.softmax(torch.tanh(hpreact) @ W2 + b2, dim=1)
            ix = int(torch.multinomial(probs, num_samples=1, generator=g).item())
            context = [*context[1:], ix]
            if ix == 0:
                break
            out.append(ix)
        words.append("".join(run.vocabulary.itos[i] for i in out))
    return words


def test_words_are_drawn_as_the_lecture_draws_them(small_run: Run) -> None:
    assert [s.word for s in backhand.sample(small_run, n=50)] == lecture_loop(small_run, 50)


def test_each_word_tells_whether_the_training_list_has_it(small_run: Run) -> None:
    known = set(backhand.load_words("names"))
    samples = backhand.sample(small_run, n=300)
    assert all(s.new == (s.word not in known) for s in samples)
    assert 0 < sum(s.new for s in samples) < 300
    assert all(s.new for s in backhand.sample(small_run, n=50, new_only=True))


def test_the_seed_decides_the_words(small_run: Run) -> None:
    first, again, other = (backhand.sample(small_run, n=10, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_every_word_begins_with_the_prefix(small_run: Run) -> None:
    samples = backhand.sample(small_run, n=30, prefix="qua")
    assert all(s.word.startswith("qua") for s in samples)
    assert any(len(s.word) > 3 for s in samples)


def test_a_low_temperature_draws_the_likeliest_word_and_a_high_one_many(small_run: Run) -> None:
    cold = {s.word for s in backhand.sample(small_run, n=20, temperature=1e-4)}
    greedy = {s.word for s in backhand.sample(small_run, n=20, top_k=1)}
    assert len(cold) == 1
    assert cold == greedy
    letters = "".join(s.word for s in backhand.sample(small_run, n=100, temperature=100.0))
    assert set(letters) == set(small_run.vocabulary.letters)


def test_top_k_allows_only_the_k_likeliest_symbols(small_run: Run) -> None:
    start = small_run.model.logits(torch.zeros(1, 3, dtype=torch.int64))[0]
    allowed = {small_run.vocabulary.itos[i] for i in start.topk(3).indices.tolist()}
    assert {s.word[:1] or "." for s in backhand.sample(small_run, n=200, top_k=3)} == allowed


def test_a_model_that_never_ends_a_word_is_cut_off(small_run: Run) -> None:
    b2 = small_run.model.parameters["b2"].clone()
    b2[0] = -1e9
    endless = backhand.language.model.Model(
        small_run.vocabulary,
        {**small_run.model.parameters, "b2": b2},
        small_run.model.bnmean,
        small_run.model.bnstd,
    )
    words = islice(draw_words(endless, torch.Generator().manual_seed(1)), 2)
    assert [len(word) for word in words] == [LONGEST, LONGEST]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"prefix": "zoë"}, WordsError, "'zoë' holds 'ë', which the model has never seen"),
        ({"n": 0}, ConfigError, "-n is 0"),
        ({"top_k": 0}, ConfigError, "--top-k is 0"),
        ({"temperature": 0.0}, ConfigError, "--temperature is 0.0"),
        ({"temperature": float("nan")}, ConfigError, "--temperature is nan"),
        ({"seed": -1}, ConfigError, "--seed is -1"),
    ],
)
def test_options_that_cannot_work_are_refused(
    small_run: Run, options: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        backhand.sample(small_run, **options)
    assert message in str(caught.value)


def test_new_words_are_not_sought_for_ever(small_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    likeliest = backhand.sample(small_run, n=1, top_k=1)[0].word
    monkeypatch.setattr(Run, "words", lambda run: [likeliest])
    with pytest.raises(ConfigError, match="1000 words in a row were known ones; try a higher --temperature"):
        backhand.sample(small_run, top_k=1, new_only=True)


def test_the_words_of_a_smaller_count_are_the_first_of_a_larger_one(small_run: Run) -> None:
    few, many = (backhand.sample(small_run, n=n) for n in (ONE_BY_ONE + 50, ONE_BY_ONE + BLOCK + 10))
    assert many[: len(few)] == few


def test_a_model_of_whole_words_computes_few_more_words_than_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vocabulary = backhand.Vocabulary("abcdefghijklmnopqrstuvwxyz")  # too many contexts for a table
    config = backhand.RnnConfig(steps=1, n_embd=2, n_hidden=3, block_size=4)
    model = WordModel.drawn(vocabulary, config, torch.Generator().manual_seed(3))
    seen: list[int] = []

    def counted(model: WordModel, X: Tensor) -> Tensor:
        seen.append(len(X))
        return torch.zeros(len(X), 27)

    monkeypatch.setattr(WordModel, "logits", counted)
    draws = (draw_words(model, torch.Generator().manual_seed(4)) for _ in "12")
    few, many = (list(islice(words, n)) for words, n in zip(draws, (ONE_BY_ONE + 50, 3000), strict=True))
    assert many[: len(few)] == few
    assert max(seen) == 1000


@pytest.mark.seconds
@pytest.mark.parametrize("block_size", [1, 4])
def test_words_drawn_many_at_once_follow_the_distributions_of_the_model(block_size: int) -> None:
    """Expected against observed first and second letters; with block size 4, without and with a table."""
    vocabulary = backhand.Vocabulary("abcdefghijklmnopqrstuvwxyz" if block_size == 4 else "abé")
    config = TrainConfig(block_size=block_size, n_embd=5, n_hidden=8)
    parameters = draw_parameters(config, len(vocabulary), torch.Generator().manual_seed(3))
    parameters["W2"] *= 5  # far from uniform
    model = Model(vocabulary, parameters, torch.zeros(1, 8), torch.ones(1, 8))
    stream = draw_words(model, torch.Generator().manual_seed(4), temperature=0.9, top_k=len(vocabulary) - 1)
    words = list(islice(stream, ONE_BY_ONE, ONE_BY_ONE + 2 * BLOCK))
    frequent = [letter for letter, _ in Counter(w[:1] for w in words).most_common(3)]
    for before in ("", *filter(None, frequent)):
        context = ([0] * block_size + vocabulary.encode(before))[-block_size:]
        logits = model.logits(torch.tensor([context]))[0] / 0.9
        logits[logits.argmin()] = float("-inf")
        after = [w[len(before) :] for w in words if w.startswith(before)]
        count = len(after)
        assert count > 500
        for symbol, p in enumerate(logits.softmax(0).tolist()):
            seen = sum((w[:1] or ".") == vocabulary.itos[symbol] for w in after)
            assert abs(seen - count * p) <= 5 * (count * p * (1 - p)) ** 0.5 + 1e-3


def test_the_table_holds_what_the_model_says_of_each_context(small_run: Run) -> None:
    def distributions(X: torch.Tensor) -> torch.Tensor:
        return small_run.model.logits(X).softmax(1)

    contexts = torch.randint(0, len(small_run.vocabulary), (500, 3))
    tabled = tabulate(small_run.model, distributions)
    assert tabled is not distributions
    assert torch.allclose(tabled(contexts), distributions(contexts), rtol=0, atol=1e-6)


@pytest.mark.seconds
def test_words_drawn_many_at_once_respect_the_prefix_and_the_longest_length(small_run: Run) -> None:
    generator = torch.Generator().manual_seed(1)
    words = list(islice(draw_words(small_run.model, generator, prefix="qua"), ONE_BY_ONE, 2 * ONE_BY_ONE))
    assert all(word.startswith("qua") for word in words)
    endless = Model(**vars(small_run.model) | {"parameters": dict(small_run.model.parameters)})
    endless.parameters["b2"] = endless.parameters["b2"].index_fill(0, torch.tensor([0]), float("-inf"))
    words = list(islice(draw_words(endless, generator), ONE_BY_ONE - 1, ONE_BY_ONE + 1))
    assert {len(word) for word in words} == {LONGEST}


def test_the_patience_for_known_words_begins_anew_with_each_new_one(
    small_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = [s.word for s in backhand.sample(small_run, n=2500)]
    counts = Counter(drawn)
    new = [next(w for w in drawn[i:] if counts[w] == 1) for i in (400, 1100, 1800, 2400)]
    monkeypatch.setattr(Run, "words", lambda run: [w for w in drawn if w not in new])
    samples = backhand.sample(small_run, n=len(new), new_only=True)
    assert [s.word for s in samples] == new


def test_more_of_the_likeliest_symbols_than_there_are_leaves_out_none(small_run: Run) -> None:
    everything = backhand.sample(small_run, n=ONE_BY_ONE + 5, top_k=len(small_run.vocabulary))
    assert backhand.sample(small_run, n=ONE_BY_ONE + 5, top_k=10_000) == everything
    assert backhand.sample(small_run, n=ONE_BY_ONE + 5) == everything
