"""Dropout's masks: a hash of where an element stands."""

import torch

from backhand.engines import dropping

# a reference implementation of splitmix64 gives these, seeded with 1234567
AFTER_1234567 = (6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431)


def word_batch(n: int = 40, T: int = 6) -> torch.Tensor:
    X = torch.randint(1, 4, (n, T))
    X[:, 0] = 0
    return X


def test_the_hash_is_splitmix64() -> None:
    golden = dropping.GOLDEN
    states = torch.tensor(1234567) + golden * torch.arange(4)
    assert [int(x) % 2**64 for x in dropping.mix(states)] == list(AFTER_1234567)


def test_the_share_that_is_asked_for_is_dropped_and_the_mean_is_one() -> None:
    for rate in (0.0, 0.2, 0.7):
        masks = dropping.masks(torch.arange(600).view(100, 6), 3, 40, rate=rate, seed=5, step=2)
        assert masks.shape == (3, 2, 100, 6, 40)
        assert masks.dtype == torch.float32
        kept = torch.tensor(1 / (1 - rate))
        assert bool(((masks == 0) | (masks == kept)).all())
        assert abs((masks == 0).double().mean().item() - rate) < 0.005
        assert abs(masks.mean().item() - 1) < 0.02


def test_seed_step_layer_branch_and_element_each_change_what_is_dropped() -> None:
    X = torch.arange(240).view(40, 6)  # no two words begin alike
    ask = {"rate": 0.5, "seed": 1, "step": 1}
    masks = dropping.masks(X, 2, 10, **ask)
    others = [
        masks[1, 0],
        masks[0, 1],
        dropping.masks(X, 1, 10, **ask | {"seed": 2})[0, 0],
        dropping.masks(X, 1, 10, **ask | {"step": 2})[0, 0],
        masks[0, 0].roll(1, 0),
        masks[0, 0].roll(1, 1),
        masks[0, 0].roll(1, 2),
    ]
    for other in others:
        agree = (masks[0, 0] == other).double().mean().item()
        assert 0.45 < agree < 0.55  # as two coins do; 2400 tosses leave 1%
    assert torch.equal(masks, dropping.masks(X, 2, 10, **ask))


def test_words_share_their_masks_as_far_as_they_begin_alike() -> None:
    X = word_batch()
    masks = dropping.masks(X, 1, 12, rate=0.5, seed=3, step=0)[0, 0]
    for i in range(len(X)):
        for j in range(i):
            for t in range(X.shape[1]):
                alike = torch.equal(X[i, : t + 1], X[j, : t + 1])
                assert torch.equal(masks[i, t], masks[j, t]) == alike
