"""Look at lines whose gradient is zero in exact arithmetic, by giving them other upstream gradients.

A bias before batch normalisation, or a maximum subtracted before a softmax, has a true gradient of zero: its
terms cancel, and so do the terms that it sends on. On the real upstream gradients a wrong line cannot be told
from a right one there. With random ones in their place it can.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from backhand.checking.mistakes.neighbourhood import Scene
from backhand.checking.running.executing import execute
from backhand.checking.running.names import as_gradient
from backhand.checking.running.sandbox import running
from backhand.checking.running.statements import reads
from backhand.checking.sources.protocol import Pass
from backhand.checking.verdicts.comparing import close, right_but_for_shape
from backhand.checking.verdicts.lives import Lives
from backhand.checking.verdicts.localising import Culprit, Judgement
from backhand.checking.verdicts.repairing import Observed, Repair, namespace_of, run_replaced
from backhand.checking.verdicts.variables import Variables


class Cancelling:
    """The extra runs on one draw that is right so far."""

    def __init__(self, chosen: Pass, judgement: Judgement):
        self.chosen = chosen
        self.judgement = judgement
        self._lives: Lives | None = None
        self._generator = torch.Generator().manual_seed(judgement.draw.seed)

    def look(self) -> None:
        """Add to the judgement what these runs show: culprits, and gradients changed through an alias."""
        given = [n for n in self.judgement.draw.trace.tensors if n in self.judgement.draw.user]
        cancelling = [n for n in given if n in self.judgement.vacuous]
        above = {n: self._cancelling_branches(n) for n in given if n not in cancelling}
        above = {n: branches for n, branches in above.items() if branches}
        if not cancelling or self._all_read_their_own(cancelling, list(above)):
            return
        for name in cancelling:
            self._own_line(name)
        for name, branches in above.items():
            for consumer in branches:
                self._branch(name, consumer)
                self._lucky(name)

    def _cancelling_branches(self, name: str) -> list[str]:
        consumers = self.judgement.draw.trace.consumers(name)
        if self.judgement.vacuous.isdisjoint(consumers):
            return []
        distinct = self._scene(name, {}).consumers
        return [c for c in distinct if c in self.judgement.vacuous and c in self.judgement.draw.user]

    def _all_read_their_own(self, cancelling: list[str], above: list[str]) -> bool:
        """Tell whether all lines in question are right for random upstream gradients.

        Only their own statements are run, which is all that a right backward needs. Where something does not
        fit, or cannot be run like this, the whole backward is run for each line.
        """
        draw, trace, source = self.judgement.draw, self.judgement.draw.trace, self.chosen.backward_source
        assert source is not None
        paths = Variables(source, draw.matched).path
        below = [n for n in draw.user if not set(above).isdisjoint(trace.consumers(n))]
        if not all(paths.get(n, "").isidentifier() for n in (*above, *below)):
            return False
        doubtful = [n for n in below if not self._reads_when_complete(n, above, paths)]
        asked = dict.fromkeys((*cancelling, *above, *doubtful))
        changed = {c for n in asked for c in trace.consumers(n)}
        random = {n: self._random(n) for n in draw.user if n in changed}
        if not all(paths.get(n, "").isidentifier() for n in (*asked, *random)):
            return False
        known = set(paths.values())
        lines = {n: source.with_temporaries(source.makers(paths[n]), known) for n in asked}
        used = {variable for its in lines.values() for s in its for variable in reads(s)}
        variables = namespace_of(self.chosen, draw, used) | {paths[n]: g for n, g in random.items()}
        versions = [value._version for value in random.values()]
        expected = trace.arriving(trace.gradients | random, asked)
        with running(draw.dtype, draw.seed + 1, draw.promote), torch.no_grad():
            for name in asked:
                own = dict(variables)
                own.pop(paths[name], None)
                try:
                    execute(lines[name], own, source.file)
                except Exception:  # a part of a function may not run by itself
                    return False
                value = as_gradient(own.get(paths[name]))
                if value is None or not _fits(value, expected[name]):
                    return False
        return versions == [value._version for value in random.values()]  # otherwise an alias was changed

    def _reads_when_complete(self, name: str, above: list[str], paths: dict[str, str]) -> bool:
        """Tell from the text whether a gradient's lines read those above only after their last change."""
        source = self.chosen.backward_source
        assert source is not None
        lines = source.with_temporaries(source.makers(paths[name]), set(paths.values()))
        for consumer in set(above).intersection(self.judgement.draw.trace.consumers(name)):
            readers = [s for s in lines if paths[consumer] in reads(s)]
            last = source.statements[source.makers(paths[consumer])[-1]]
            if not readers or readers[0].lineno <= last.lineno:
                return False
        return True

    def _lucky(self, name: str) -> None:
        """Look which lines below a branch that cancels read the gradient as it was before that branch.

        They are right only because the branch adds up to zero: a warning, not a fault.
        """
        draw = self.judgement.draw
        below = [t for t in draw.user if t in draw.trace.tensors and name in draw.trace.consumers(t)]
        siblings = [
            c for c in draw.trace.consumers(name) if c in draw.user and c not in self.judgement.vacuous
        ]
        idle = [t for t in below if t not in self._moved(below, [name])]
        if idle and siblings:
            for t in self._moved(idle, siblings):
                used = draw.matched[siblings[0]]
                self.judgement.lucky.setdefault(t, (used, draw.matched[name]))

    def _moved(self, names: list[str], consumers: list[str]) -> list[str]:
        """Return which gradients change when these upstream gradients are random."""
        draw = self.judgement.draw
        random = {c: self._random(c) for c in consumers}
        run, _, self._lives = run_replaced(
            self.chosen,
            draw,
            lambda tensor, _: random[tensor].clone() if tensor in random else None,
            self._lives,
            hurried=True,
        )
        seen = {n: run.observed[n].value for n in names if n in run.observed}
        return [n for n, value in seen.items() if value is not None and not close(value, draw.user[n])]

    def _random(self, name: str) -> Tensor:
        right = self.judgement.draw.trace.gradients[name]
        return torch.randn(right.shape, generator=self._generator).to(right)

    def _own_line(self, name: str) -> None:
        consumers = self._scene(name, {}).consumers
        found = self._run(name, consumers)
        if found is None:
            return
        seen, expected, handed = found
        before = self.judgement.draw.user[name]
        idle = seen.value is not None and close(seen.value, before)
        if seen.value is None or _fits(seen.value, expected) or (idle and bool(before.any())):
            return  # right, or a formula that does not use these gradients at all
        self._blame(name, seen, expected, handed)

    def _branch(self, name: str, consumer: str) -> None:
        """Look whether the branch through one consumer, which cancels, is there."""
        found = self._run(name, [consumer])
        if found is None or found[0].value is None or _fits(found[0].value, found[1]):
            return
        seen, expected, handed = found
        if not close(found[0].value, self.judgement.draw.user[name]):
            self._blame(name, seen, expected, handed)
            return
        scene = self._scene(name, {})
        found = self._run(name, scene.consumers)
        if found is None or found[0].value is None:
            return
        seen, expected, handed = found
        without = expected - self._scene(name, handed).contributions(scene.consumers)[consumer]
        if seen.value is not None and _fits(seen.value, without):
            self._blame(name, seen, expected, handed)

    def _run(self, name: str, consumers: Iterable[str]) -> tuple[Observed, Tensor, dict[str, Tensor]] | None:
        """Run the backward with random gradients of these consumers; return what becomes of one gradient."""
        draw = self.judgement.draw
        random: dict[str, Tensor] = {}
        for c in consumers:
            if c not in draw.user:
                return None
            random[c] = self._random(c)
        handed = draw.trace.gradients | random

        def replace(tensor: str, value: Tensor | None) -> Tensor | None:
            return random[tensor].clone() if tensor in random else None

        run, _, self._lives = run_replaced(self.chosen, draw, replace, self._lives, hurried=True)
        for changed, how in run.aliased.items():
            self.judgement.shared.setdefault(changed, how)
        if name not in run.observed or run.aliased:
            return None
        scene = self._scene(name, handed)
        parts = scene.contributions(scene.consumers)
        expected = torch.stack(list(parts.values())).sum(0) if parts else torch.zeros_like(scene.expected)
        return run.observed[name], expected, handed

    def _scene(self, name: str, handed: dict[str, Tensor]) -> Scene:
        draw = self.judgement.draw
        right = draw.trace.gradients
        return Scene(
            trace=draw.trace,
            name=name,
            value=draw.user[name],
            expected=right[name],
            handed=handed or right,
            given=frozenset(draw.user),
            gradient_names=draw.matched,
        )

    def _blame(self, name: str, seen: Observed, expected: Tensor, handed: dict[str, Tensor]) -> None:
        judgement = self.judgement
        judgement.right[name] = False
        judgement.culprits[name] = Culprit(name, seen.value, expected, handed, cancels=True)
        if judgement.repair is None:
            judgement.repair = Repair({}, [], {}, [])
        judgement.repair.observed[name] = seen


def _fits(value: Tensor, expected: Tensor) -> bool:
    return close(value, expected) or right_but_for_shape(value, expected)
