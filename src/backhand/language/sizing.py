"""Refusing models that this machine's memory cannot hold, before it is asked to."""

import math
import os

from backhand.errors import ConfigError

from .config import TrainConfig
from .model_types import shapes_of

COPIES = 4
"""Parameters, the engine's padded ones, a copy to look for what went wrong, and one that is kept."""


def refuse_size(config: TrainConfig, vocab_size: int) -> None:
    """Raise if a model, or a step of its training, needs more memory than there is."""
    numbers = sum(math.prod(shape) for shape in shapes_of(config, vocab_size).values())
    inputs = config.block_size * (config.n_embd + 4)  # int64 contexts, twice, beside the embedding
    step = config.batch_size * (inputs + 4 * config.hidden + 3 * vocab_size)
    needed, there = 4 * (COPIES * numbers + step), memory()
    if needed > there:
        raise ConfigError(
            f"a model of {numbers:,} parameters, trained on {config.batch_size:,} contexts at a time, needs "
            f"{needed / 1e9:,.0f} GB of memory, and there are {there / 1e9:,.0f}; try a smaller --n-hidden, "
            "--n-embd, --block-size or --batch-size"
        )


def memory() -> int:
    """Return how many bytes of memory this process can have at most, as far as the system tells."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ImportError, ValueError, OSError):  # Windows
        return 1 << 40
    return physical if limit in (resource.RLIM_INFINITY, -1) else min(limit, physical)
