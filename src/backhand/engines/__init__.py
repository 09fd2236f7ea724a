"""A training step of the lecture's model, several ways, with one loss curve on the same minibatches."""

from backhand.passes import mlp_chunked

from . import native
from .native import NativeEngineWarning
from .stepping import Engine, Running, by_autograd, by_hand, descend

ENGINES: dict[str, Engine] = {
    "autograd": descend(by_autograd),
    "chunked": descend(by_hand(mlp_chunked)),
    "fused": native.fused,
    "native": native.engine,
}

__all__ = ["ENGINES", "Engine", "NativeEngineWarning", "Running"]
