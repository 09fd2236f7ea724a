"""A training step of the lecture's model, several ways, with one loss curve on the same minibatches."""

from .stepping import ENGINES, Engine, Running

__all__ = ["ENGINES", "Engine", "Running"]
