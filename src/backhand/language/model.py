"""The model: seven parameters, the statistics of batch norm, and what it makes of a context."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .config import TrainConfig
from .contexts import Contexts
from .vocabulary import Vocabulary


def draw_parameters(config: TrainConfig, vocab_size: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw the initial parameters in the lecture's order and with its scales, float32 on the CPU.

    Gain and bias of batch norm come from a second generator, seeded with the next seed, so that the first
    one's stream goes on with the indices of the minibatches.

    Args:
        config: gives block_size, n_embd, n_hidden and the second generator's seed.
        vocab_size: symbols, the end included.
        generator: draws C, W1, b1, W2, b2.
    """
    fan_in, n_hidden = config.n_embd * config.block_size, config.hidden
    second = torch.Generator().manual_seed(config.seed + 1)
    return {
        "C": torch.randn((vocab_size, config.n_embd), generator=generator),
        "W1": torch.randn((fan_in, n_hidden), generator=generator) * (5 / 3) / fan_in**0.5,  # gain of tanh
        "b1": torch.randn(n_hidden, generator=generator) * 0.1,
        "W2": torch.randn((n_hidden, vocab_size), generator=generator) * 0.1,
        "b2": torch.randn(vocab_size, generator=generator) * 0.1,
        "bngain": torch.randn((1, n_hidden), generator=second) * 0.1 + 1.0,
        "bnbias": torch.randn((1, n_hidden), generator=second) * 0.1,
    }


def parameter_shapes(config: TrainConfig, vocab_size: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the parameters, in the order of `draw_parameters`."""
    fan_in, n_hidden = config.n_embd * config.block_size, config.hidden
    return {
        "C": (vocab_size, config.n_embd),
        "W1": (fan_in, n_hidden),
        "b1": (n_hidden,),
        "W2": (n_hidden, vocab_size),
        "b2": (vocab_size,),
        "bngain": (1, n_hidden),
        "bnbias": (1, n_hidden),
    }


def count_parameters(parameters: Mapping[str, Tensor]) -> int:
    """Return how many numbers the parameters hold."""
    return sum(p.numel() for p in parameters.values())


def hprebn(parameters: Mapping[str, Tensor], X: Tensor) -> Tensor:
    """Return what batch norm is given for contexts X (n, block_size): (n, n_hidden)."""
    return parameters["C"][X.long()].flatten(1) @ parameters["W1"] + parameters["b1"]


def rows_at_once(width: int) -> int:
    """Return how many rows of so many float32 numbers to compute at once: 64 MB, and at most 65,536."""
    return max(1, min(1 << 16, (1 << 24) // width))


@dataclass(frozen=True)
class Model:
    """A model to use: parameters, and the mean and deviation of batch norm, each (1, n_hidden)."""

    vocabulary: Vocabulary
    parameters: dict[str, Tensor]
    bnmean: Tensor
    bnstd: Tensor

    @property
    def block_size(self) -> int:
        """How many symbols of context the model sees."""
        return self.parameters["W1"].shape[0] // self.parameters["C"].shape[1]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Parameters and statistics, by name."""
        return self.parameters | {"bnmean": self.bnmean, "bnstd": self.bnstd}

    def to(self, device: str) -> "Model":
        """Return the model on a device."""
        parameters = {name: p.to(device) for name, p in self.parameters.items()}
        return Model(self.vocabulary, parameters, self.bnmean.to(device), self.bnstd.to(device))

    def copy(self) -> "Model":
        """Return a model that stays as it is when this one's parameters are trained further."""
        parameters = {name: p.clone() for name, p in self.parameters.items()}
        return Model(self.vocabulary, parameters, self.bnmean.clone(), self.bnstd.clone())

    @torch.no_grad()
    def logits(self, X: Tensor) -> Tensor:
        """Return the logits for contexts X, integers (n, block_size): (n, vocabulary)."""
        p = self.parameters
        bnraw = (hprebn(p, X) - self.bnmean) / self.bnstd  # (n, n_hidden)
        return torch.tanh(p["bngain"] * bnraw + p["bnbias"]) @ p["W2"] + p["b2"]

    def loss(self, contexts: Contexts) -> float:
        """Return the mean cross entropy over all contexts, in nats a symbol; summed in float64."""
        total = 0.0
        for X, rows, Y, counts in contexts.merged.chunks(rows_at_once(len(self.vocabulary))):
            logprobs = torch.log_softmax(self.logits(X), 1)[rows, Y]
            total -= (logprobs.double() * counts).sum().item()
        return total / len(contexts)


@torch.no_grad()
def calibrate(parameters: Mapping[str, Tensor], contexts: Contexts) -> tuple[Tensor, Tensor]:
    """Measure the mean and deviation of batch norm's input, each (1, n_hidden), over all contexts.

    The deviation is sqrt(variance + 1e-5), with Bessel's correction, as in the training step. Sums are
    float64.
    """
    n = len(contexts)
    first = second = torch.zeros((), dtype=torch.float64)
    for X, rows, _, counts in contexts.merged.chunks(rows_at_once(len(parameters["b1"]))):
        weights = torch.zeros(len(X), 1, dtype=torch.float64, device=X.device)
        weights.index_add_(0, rows, counts[:, None].double())  # how often each context occurs
        values = hprebn(parameters, X).double()
        first = first + (weights * values).sum(0, keepdim=True)
        second = second + (weights * values.square()).sum(0, keepdim=True)
    mean = first / n
    var = (second - n * mean.square()) / (n - 1)
    dtype = parameters["W1"].dtype
    return mean.to(dtype), (var + 1e-5).sqrt().to(dtype)
