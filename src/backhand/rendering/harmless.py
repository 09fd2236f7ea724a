"""A report whose texts can be shown: whatever is in the user's names, code and messages steers no screen."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from backhand.showing import plain

T = TypeVar("T")


def harmless(value: T) -> T:
    """Return a report, or a part of one, with every text in it as it can be shown.

    >>> harmless(("a\\x1b[31m", 3))
    ('a\\\\x1b[31m', 3)
    """
    return _shown(value)


def _shown(value: Any) -> Any:
    if isinstance(value, str):
        return plain(value, lines=True)
    if is_dataclass(value):
        own = {field.name: _shown(getattr(value, field.name)) for field in fields(value)}
        return type(value)(**own)
    if isinstance(value, Mapping):
        return {_shown(key): _shown(item) for key, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_shown(item) for item in value)
    return value
