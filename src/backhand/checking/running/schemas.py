"""Whether the result of a torch operation is a tensor of its own, as torch's own schemas tell."""

from functools import cache
from typing import Any


@cache
def makes_its_own(name: str) -> bool:
    """Tell whether an operation surely returns new memory, not a view of what it is given, nor that itself.

    A composite operation may do otherwise than its schema says: `einsum` that only transposes gives a view.

    >>> [name for name in ("sum", "clone", "reshape", "T", "einsum", "add_") if makes_its_own(name)]
    ['sum', 'clone']
    """
    import torch  # not needed to read a text, in which hardly anything asks this

    try:
        packet = getattr(torch.ops.aten, name)
        return all(map(_is_fresh, (getattr(packet, overload) for overload in packet.overloads())))
    except (AttributeError, RuntimeError):  # none of torch's, or no schema that can be read
        return False


def _is_fresh(overload: Any) -> bool:
    from backhand.checking.running.private import is_composite

    schema = overload._schema
    if not any("Tensor" in str(returned.type) for returned in schema.returns):
        return True  # over numbers
    if any(argument.is_out for argument in schema.arguments) or "Dimname" in str(schema):
        return True  # not what a call by position reaches: `out=` is looked for where a change is
    return not is_composite(overload.name()) and all(
        returned.alias_info is None for returned in schema.returns
    )
