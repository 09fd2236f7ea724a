"""`watch`: each backward over NumPy of a module or a class is judged when it is called, in any program."""

from collections.abc import Callable
from types import ModuleType

from backhand.checking.sources.roles import is_layer
from backhand.checking.sources.watching import Watching, judged_in_time
from backhand.errors import CheckError
from backhand.rendering.terminal import as_text


def watch(target: ModuleType | type) -> Callable[[], None]:
    """Print a verdict after the first call of each backward over NumPy, on the numbers of that call.

    In a notebook `%load_ext backhand` does the same after each cell.

    Args:
        target: a module, whose pairs, losses and layers are watched, or a class with both methods.

    Returns:
        A function that ends it, and puts everything back as it was.

    Raises:
        CheckError: it is neither.

    >>> import numpy as np
    >>> class Double:
    ...     def forward(self, x):
    ...         return 2 * x
    ...     def backward(self, dout):
    ...         return dout
    >>> stop = watch(Double)
    >>> layer = Double()
    >>> _ = layer.backward(layer.forward(np.array([1.0, 2.0])))  # doctest: +ELLIPSIS
    Double: wrong. 1 at fault...
    >>> stop()
    """

    def tell() -> None:
        with watching.apart():
            for seen in watching.take():
                try:
                    print(as_text(judged_in_time(seen)))  # noqa: T201
                except CheckError as error:
                    print(f"backhand: {error}")  # noqa: T201

    watching = Watching(tell)
    if isinstance(target, ModuleType):
        watching.watch(vars(target))
        return lambda: watching.release(vars(target))
    if not is_layer(target):
        raise CheckError(f"{target!r} is no module and no class with a forward and a backward.")
    watching.watch_layer(target)
    return watching.release_layers
