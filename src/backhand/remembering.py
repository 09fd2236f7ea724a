"""`memory`: how many bytes a pass keeps between its forward and its backward."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from backhand.differentiating import differentiable


@dataclass(frozen=True)
class Memory:
    """Bytes that are kept from the forward for the backward, beside the inputs, which are there anyway.

    Attributes:
        by_hand: what the hand-written backward asks for.
        by_autograd: what autograd keeps of the same forward.
        by_torch: what torch's own operation keeps; None where none was given to compare with.
    """

    by_hand: int
    by_autograd: int
    by_torch: int | None = None


def memory(
    textbook: Any, inputs: Mapping[str, Any], *, reference: Callable[..., Any] | None = None
) -> Memory:
    """Measure what a pass saves between forward and backward.

    Every floating-point input needs a gradient, as in training. A storage that several saved tensors share
    counts once; what an input stands in does not count.

    Args:
        textbook: the pass, an object with `forward` and `backward`, as `check` takes it.
        inputs: its inputs by name.
        reference: torch's own operation, called with the same inputs by name.

    Returns:
        The bytes, beside what autograd would keep of the same forward.

    >>> from backhand.passes import layer_norm
    >>> drawn = layer_norm.inputs(torch.Generator().manual_seed(0))
    >>> memory(layer_norm, drawn)
    Memory(by_hand=144, by_autograd=264, by_torch=None)
    """
    named = textbook.forward
    outputs = getattr(textbook, "out", "loss")
    names = [outputs] if isinstance(outputs, str) else list(outputs)

    def plain(**given: Any) -> list[Tensor]:
        values = named(**given)
        return [values[name] for name in names]

    return Memory(
        saved_bytes(differentiable(textbook), inputs),
        saved_bytes(plain, inputs),
        None if reference is None else saved_bytes(reference, inputs),
    )


def saved_bytes(function: Callable[..., Any], inputs: Mapping[str, Any]) -> int:
    """Return the bytes that a function's graph keeps, beside its inputs."""

    def leaf(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.detach().clone().requires_grad_(value.is_floating_point())
        if isinstance(value, list | tuple):
            return [leaf(item) for item in value]
        return value

    given = {name: leaf(value) for name, value in inputs.items()}
    own = {
        t.untyped_storage().data_ptr()
        for value in given.values()
        for t in (value if isinstance(value, list) else [value])
        if isinstance(t, Tensor)
    }
    found: dict[int, int] = {}
    kept: list[Tensor] = []  # so that no freed storage's address is used again

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        function(**given)
    return sum(found.values())
