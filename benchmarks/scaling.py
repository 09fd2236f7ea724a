"""What a second process brings: the same training steps by one process and by all that torchrun has started.

    torchrun --nproc-per-node 2 benchmarks/scaling.py

Each row is a model and a batch: milliseconds a step by the fused engine on one process, with the others idle,
and on all of them together; and, once, what an exchange costs. The medians of rounds that take turns.
"""

import statistics
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from backhand import Contexts, TrainConfig, Vocabulary, load_words
from backhand.benching import word_peers
from backhand.engines import ENGINES, parallel
from backhand.engines.native_words import Moments, Settings
from backhand.engines.word_engines import WORD_ENGINES
from backhand.language.model import draw_parameters

ROUNDS, SECONDS = 7, 0.5
MLP = [(32, 200), (1024, 200), (8192, 200)]
WORDS = [("rnn", 32), ("rnn", 512), ("transformer", 64), ("transformer", 512)]
Steps = Callable[[], Tensor]


def mlp(batch: int, hidden: int, steps: int) -> tuple[Steps, Steps]:
    """Return steps of the lecture's model, on one process and on all."""
    words = load_words("names")
    vocabulary, config = Vocabulary.of(words), TrainConfig(n_hidden=hidden)
    contexts = Contexts(words, vocabulary, 3)
    generator = torch.Generator().manual_seed(1)
    parameters = draw_parameters(config, len(vocabulary), generator)
    Xs, Ys = contexts[torch.randint(0, len(contexts), (steps, batch), generator=generator)]
    rates = [0.01] * steps
    return tuple(lambda e=e: e(parameters, Xs, Ys, rates) for e in (ENGINES["fused"], parallel.mlp))


def of_words(kind: str, batch: int, steps: int) -> tuple[Steps, Steps]:
    """Return steps of a model of whole words, on one process and on all."""
    torch.manual_seed(1)
    words = load_words("names")
    X, Y, _ = Contexts(words, Vocabulary.of(words), 15).whole
    which = torch.randint(0, len(X), (steps, batch))
    parameters = word_peers.draw(word_peers.shapes_of(kind, V=27, e=64, m=64, T=16))
    moments = Moments(*({n: torch.zeros_like(p) for n, p in parameters.items()} for _ in range(2)))
    given = kind, parameters, X[which], Y[which], [1e-3] * steps, moments
    settings = Settings(heads=4 if kind == "transformer" else 1)
    return tuple(lambda e=e: e(*given, settings) for e in (WORD_ENGINES["fused"], parallel.words))


def milliseconds(steps: Steps) -> float:
    """Return how long a step takes on the slowest process."""
    dist.barrier()
    began = time.perf_counter()
    taken = len(steps())
    spent = torch.tensor(1e3 * (time.perf_counter() - began) / taken)
    dist.all_reduce(spent, dist.ReduceOp.MAX)
    return float(spent)


def idle() -> Tensor:
    """Take one step that is none."""
    return torch.zeros(1)


def compared(name: str, make: Callable[[int], tuple[Steps, Steps]]) -> None:
    """Print one row."""
    trial = milliseconds(make(3)[1])
    steps = max(3, min(500, int(1e3 * SECONDS / trial)))
    alone, together = make(steps)
    rounds = []
    for _ in range(ROUNDS):
        one = milliseconds(alone if dist.get_rank() == 0 else idle)
        rounds.append((one, milliseconds(together)))
    ratios = sorted(one / both for one, both in rounds)
    if dist.get_rank() == 0:
        one, both = (statistics.median(r[i] for r in rounds) for i in range(2))
        low, high = ratios[1], ratios[-2]
        print(f"{name:24} {one:9.3f} {both:9.3f}   {statistics.median(ratios):.2f} ({low:.2f} to {high:.2f})")


def exchange(numbers: int) -> None:
    """Print how long it takes to add up so many numbers."""
    part, times = torch.zeros(numbers), []
    for _ in range(200):
        began = time.perf_counter()
        dist.all_reduce(part)
        times.append(1e3 * (time.perf_counter() - began))
    if dist.get_rank() == 0:
        print(f"an exchange of {4 * numbers / 1000:.0f} KB: {statistics.median(times):.2f} ms")


def main() -> None:
    """Print them all."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for numbers in (12_297, 205_000):
        exchange(numbers)
    if dist.get_rank() == 0:
        print(f"\n{'':24} {'1, ms':>9} {f'{dist.get_world_size()}, ms':>9}   times as fast")
    for batch, hidden in MLP:
        compared(f"mlp, batch {batch}", lambda steps, b=batch, h=hidden: mlp(b, h, steps))
    for kind, batch in WORDS:
        compared(f"{kind}, batch {batch}", lambda steps, k=kind, b=batch: of_words(k, b, steps))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
