"""What can go wrong, as exceptions. The command line prints each in one line, without a traceback."""


class BackhandError(Exception):
    """Something that the user can mend: bad input, a missing file, an option that does not fit.

    The message is one line: what is wrong, where, and what to try. `exit_status` is what the command line
        exits with.
    """

    exit_status = 2


def in_short(error: BaseException) -> str:
    """Return what an exception says, as Python's last line tells it: `ValueError: no`.

    >>> in_short(ValueError("no\\nand more"))
    'ValueError: no'
    """
    text = str(error).strip().split("\n", 1)[0].rstrip(" :.")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class ConfigError(BackhandError):
    """An option has a value that cannot work."""


class WordsError(BackhandError):
    """A list of words cannot be read, or cannot be used."""


class RunError(BackhandError):
    """A run folder cannot be made, read, written or continued."""


class NonFiniteError(BackhandError):
    """Training produced NaN or infinity: it failed, though it was not misused."""

    exit_status = 1


class JobError(BackhandError):
    """Of several processes that train together, another one has ended."""

    exit_status = 1


class CheckError(BackhandError):
    """A pass cannot be checked: its parts do not fit together, or a file cannot be read."""


class WrongGradientError(BackhandError):
    """A checked backward is wrong; the message is the report."""

    exit_status = 1


class LearnError(BackhandError):
    """The folder of a course cannot be written or read, or an exercise is not known."""
