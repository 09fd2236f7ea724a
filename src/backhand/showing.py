"""Text of the user's that is harmless to show: it can neither steer a terminal nor turn what follows."""

import re

# control characters, halves of surrogate pairs, separators of lines and paragraphs, marks of direction
UNSHOWN = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f\\ud800-\\udfff\\u2028\\u2029\\u061c\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069]"
)
UNSHOWN_OF_LINES = re.compile(f"(?![\\n\\t]){UNSHOWN.pattern}")


def plain(text: str, *, lines: bool = False) -> str:
    """Return text for a screen or a line of a file: a control character as Python writes it, as `\\x1b`.

    So are the marks that turn the direction of what follows. Joiners stay, which emoji and some scripts need.

    Args:
        text: what is to be shown.
        lines: it may have several lines, and tabs.

    >>> plain("a\\x1b[31mb")
    'a\\\\x1b[31mb'
    """
    unshown = UNSHOWN_OF_LINES if lines else UNSHOWN
    return unshown.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
