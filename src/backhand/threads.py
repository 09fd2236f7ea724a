"""How many cores PyTorch computes on."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Let PyTorch compute on one core for as long as the context, or the function under it, lasts.

    It divides whatever has more than some 32,000 numbers among all cores. Where that is little work, the
    cores mostly wait for one another, spinning, and slow down whatever else runs on them.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
