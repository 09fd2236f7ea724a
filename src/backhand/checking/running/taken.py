"""The names that a source has taken, for those that are made up when its function is rewritten."""

import ast
from dataclasses import dataclass, replace

from backhand.checking.running.program import Source


@dataclass
class Taken:
    """The variables that are in use, and what the user wrote for those that are made up."""

    names: set[str]
    as_written: dict[str, str]

    def copy(self) -> "Taken":
        """Return another one, in which names can be taken that may not be needed."""
        return Taken(set(self.names), dict(self.as_written))

    def rewritten(self, source: Source, definition: ast.FunctionDef) -> Source:
        """Return a source whose function was rewritten with these variables."""
        return replace(
            source,
            statements=tuple(definition.body),
            definition=definition,
            local_names=frozenset(self.names),
            as_written=self.as_written,
        )

    def take(self, other: "Taken") -> None:
        """Take what another one has taken."""
        self.names |= other.names
        self.as_written |= other.as_written

    def another(self, name: str) -> str:
        """Return a name, or a longer one where it is taken, and take it."""
        free = name
        while free in self.names:
            free += "_"
        self.names.add(free)
        if free != name:
            self.as_written[free] = name
        return free
