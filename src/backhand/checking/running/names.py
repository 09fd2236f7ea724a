"""The names that tensors and gradients go by; PyTorch is not needed for them."""

import difflib
from collections.abc import Container, Iterable, Mapping
from functools import lru_cache


@lru_cache(maxsize=4096)
def root(name: str) -> str:
    """Return the variable that a path starts with: `hs` of `hs[0]`."""
    return name.split("[", 1)[0]


def gradient_names(
    tensors: Iterable[str], given: Iterable[str], names: Mapping[str, str] | None
) -> dict[str, str]:
    """Return which of the given names is the gradient of which tensor: tensor name to gradient name.

    `d<name>` is taken first, then `d_<name>`, then the user's own mapping of gradient to tensor. Names are
    compared exactly: `dbn_diff_2` is not the gradient of `bn_diff2`.
    """
    present = set(given)
    mapped = {tensor: gradient for gradient, tensor in (names or {}).items()}
    found = {}
    for tensor in tensors:
        for candidate in (f"d{tensor}", f"d_{tensor}", mapped.get(tensor)):
            if candidate in present:
                found[tensor] = candidate
                break
    return found


# As alike as `dgian` and `dgain`, of five letters two exchanged; `dcounts2` and `dcounts_sum` are less so.
MISSPELT = 0.8


def nearest(name: str, candidates: Iterable[str], alike: float = 0.5) -> str:
    """Return a clause that suggests the names most like this one, or an empty string.

    >>> nearest("dgian", ["dgain", "dbias"], MISSPELT)
    '; did you mean dgain?'
    """
    close = difflib.get_close_matches(name, list(candidates), n=2, cutoff=alike)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def operation_called(node: str) -> str:
    """Return what people call the operation of a node of the graph, by autograd's name of it."""
    called = node.rpartition("::")[2].partition("Backward")[0].lower()
    # a write into a part; and all of a forward that autograd does not follow
    return {"copyslices": "assignment", "bydifferences": "forward"}.get(called, called)


def is_called_gradient(name: str, known: Container[str]) -> bool:
    """Tell whether a variable is called a gradient: that of one of these, of a letter, or simply so.

    >>> [is_called_gradient(name, {"gate"}) for name in ("dgate", "ds", "grad_h", "diff", "d")]
    [True, True, True, False, False]
    """
    of = name.removeprefix("d").removeprefix("_") if name.startswith("d") else ""
    return name.startswith("grad") or len(of) == 1 or of in known
