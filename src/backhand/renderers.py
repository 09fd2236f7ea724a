"""How results are shown, by name: whoever shows something registers here, so that the result knows nobody.

The places are text, so that to register costs nothing; a renderer is imported when it is first asked for.
"""

from pkgutil import resolve_name
from typing import Any

_places: dict[str, str] = {}


def register(name: str, place: str) -> None:
    """Say which function shows something.

    Args:
        name: what it makes of what, such as `report.text`.
        place: the function, as `module:function`.
    """
    _places[name] = place


def rendered(name: str, *value: object) -> Any:
    """Return a value, with what its renderer needs besides, as the renderer of this name shows it.

    >>> rendered("progress.text", None)
    Traceback (most recent call last):
    AttributeError: 'NoneType' object has no attribute 'attempts'
    """
    # the packages that register are imported with `backhand`, so that the name is always there
    return resolve_name(_places[name])(*value)
