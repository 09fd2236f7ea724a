"""What autograd knows on the way: the gradient of each operation's result, and what each one sends back.

A hand-written backward makes the same tensors, under whatever names, in loops and in temporaries. Each is
labelled by the statement of the forward and the operation in it that it belongs to, so that a loop over
time gives a sequence, in the order in which a backward makes it: the latest first.
"""

import ast
import collections
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

from backhand.checking.running.containers import flatten
from backhand.checking.running.graph import edge_of
from backhand.checking.running.instrumenting import Watcher, run_function, run_statements
from backhand.checking.running.known import Known, Label, Seen, each_once
from backhand.checking.running.private import Clock, differentiated, results
from backhand.checking.running.sandbox import running
from backhand.checking.running.tracing import leaf_inputs, named_values
from backhand.checking.running.trials import Draw
from backhand.checking.running.values import Values
from backhand.checking.running.walking import Edge
from backhand.checking.sources.protocol import Pass

# A tensor with more consumers than this has too many sums of some of them; few have more than four.
CONSUMERS = 5
# No operation has more operands that play different parts; those of these play one, however few there are.
MANY = 3
ALIKE = ("CatBackward0", "StackBackward0")
# Everything that autograd hands on is kept for a while: no more of it than fits a laptop (512 MB of float64).
MOST_ELEMENTS = 2**26


def knowledge(chosen: Pass, draw: Draw) -> list[Known]:
    """Return the sequences that autograd knows for a draw; none where there is too much to be kept.

    The values that the forward itself makes come last.
    """
    made = Values()
    turns = _Turns(made)
    leaves = leaf_inputs(draw.trace.inputs, None)
    with running(draw.dtype, draw.seed, draw.promote), torch.enable_grad(), made:
        values = named_values(_forward(chosen, leaves, turns), leaves)
        made.ended(None)
    flat = flatten(values)
    outputs = [flat[name] for name in draw.trace.outputs]
    turns.clock.now({n: flat[n] for n in draw.trace.outputs})
    nodes = sorted(_nodes(outputs), key=turns.clock.of)
    if _elements(nodes, flat) > MOST_ELEMENTS:
        return []
    found = _Found(turns.labelled(nodes))
    for node in nodes:
        node.register_hook(found.hook(node))
    named = {n: flat[n] for n in draw.trace.wanted if n in flat and flat[n].requires_grad}
    upstream = [draw.trace.upstream[f"d{name}"] for name in draw.trace.outputs]
    gradients = differentiated(outputs, upstream, named.values())
    inputs = {n: g for n, g in zip(named, gradients, strict=True) if g is not None}
    return found.sequences(inputs, {n: edge_of(t) for n, t in named.items()}) + made.sequences()


def _elements(nodes: Iterable[Node], values: Mapping[str, Any]) -> int:
    """Return how many elements the operations' results have; where nothing tells, those with a name."""
    counted = sum(math.prod(there.shape) for node in nodes for there in results(node) or ())
    return counted or sum(v.numel() for v in values.values() if isinstance(v, Tensor))


def _forward(chosen: Pass, leaves: Mapping[str, Any], watcher: Watcher) -> object:
    """Run the forward, seen by a watcher where there is a source."""
    source = chosen.forward_source
    if chosen.runner is not None:
        return chosen.runner.forward(leaves, watcher)
    if source is None:
        return chosen.forward(**leaves)
    scope = getattr(chosen.forward, "scope", None)
    if scope is None:
        return run_function(chosen.forward, source, leaves, watcher).result
    namespace = scope(leaves)
    run_statements(source, namespace, watcher)
    return {k: v for k, v in namespace.items() if not k.startswith("__")}


class _Turns(Watcher):
    """Notes after each statement of the forward what time it is, in operations."""

    def __init__(self, made: Values) -> None:
        self.made = made
        self.clock = Clock()
        self.seen: list[tuple[int, ast.stmt]] = []

    def ran(self, step: int, statement: ast.stmt, variables: Mapping[str, Any]) -> None:
        """Take note of a statement."""
        self.seen.append((self.clock.now(variables), statement))
        self.made.ended(statement)

    def labelled(self, nodes: Iterable[Node]) -> "dict[Node, _Place]":
        """Return where each operation stands."""
        found: dict[Node, _Place] = {}
        count: collections.Counter[str] = collections.Counter()
        turns: collections.Counter[ast.stmt] = collections.Counter()
        at = 0
        for node in nodes:
            age = self.clock.of(node)
            while at < len(self.seen) and self.seen[at][0] <= age:
                turns[self.seen[at][1]] += 1
                at += 1
                count.clear()
            statement = self.seen[at][1] if at < len(self.seen) else None
            turn = turns[statement] if statement is not None else 0
            found[node] = _Place(statement, node.name(), count[node.name()], turn, age)
            count[node.name()] += 1
        return found


# An operation of the forward, and what it sends back.
_Sent = tuple[Node, Tensor]


@dataclass(frozen=True)
class _Place:
    """Where an operation stands: in which statement, which of its name in there, in which turn, and when."""

    statement: ast.stmt | None
    operation: str
    number: int
    turn: int
    age: int

    @property
    def in_all_turns(self) -> tuple[ast.stmt | None, str, int]:
        """What is the same in all turns."""
        return self.statement, self.operation, self.number


class _Found:
    """What the hooks saw."""

    def __init__(self, places: Mapping[Node, _Place]):
        self.places = places
        self.results: list[tuple[Node, int, Tensor]] = []
        self.operands: list[tuple[Node, int, Tensor]] = []
        self.sent: dict[Edge, list[_Sent]] = {}

    def hook(self, node: Node) -> Any:
        """Return the hook of one operation."""

        def seen(sent: Sequence[Tensor | None], arrived: Sequence[Tensor | None]) -> None:
            self.results += [(node, i, g.detach()) for i, g in enumerate(arrived) if g is not None]
            for i, (g, (operand, number)) in enumerate(zip(sent, node.next_functions, strict=False)):
                if g is not None and operand is not None:
                    self.operands.append((node, i, g.detach()))
                    self.sent.setdefault((operand, number), []).append((node, g.detach()))

        return seen

    def sequences(self, inputs: Mapping[str, Tensor], leaves: Mapping[str, Edge]) -> list[Known]:
        """Return what was seen, turn by turn, with the gradients of the inputs, which hang at these edges."""
        found: dict[Any, list[Seen]] = {}
        labels: dict[Any, tuple[Label, Any]] = {}

        def add(key: Any, label: Label, of: Any, seen: Seen) -> None:
            found.setdefault(key, []).append(seen)
            labels.setdefault(key, (label, of))

        for name, value in inputs.items():
            add(("input", name), Label("input", name=name), leaves[name], Seen(0, 0, value))
        for kind, seen in (("result", self.results), ("operand", self.operands)):
            for node, i, value in seen:
                place = self.places[node]
                label = Label(kind, ((place.statement, place.operation),))  # type: ignore[arg-type]
                one = Seen(place.age, place.turn, value)
                of = self._of((node, i) if kind == "result" else node.next_functions[i])
                add((kind, place.in_all_turns, i), label, of, one)
                # all of one name within a statement as well, for a forward whose loop is in an expression;
                # and all that is sent to the operands of a `stack`, for these are the turns of a loop, or its
                # chunks
                add((kind, place.statement, place.operation, "all", i), label, of, one)
                is_row = len(node.next_functions) > MANY or place.operation in ALIKE
                if kind == "operand" and is_row:
                    add((kind, place, "operands"), label, of, Seen(i, i, value))
        for edge, consumers in self.sent.items():
            for some in self._sums(sorted(consumers, key=lambda consumer: self.places[consumer[0]].age)):
                places = tuple(self.places[node] for node, _ in some)
                operations = dict.fromkeys((place.statement, place.operation) for place in places)
                label = Label("part", tuple(operations))
                total = torch.stack([value for _, value in some]).sum(0)
                one = Seen(places[0].age, places[0].turn, total)
                add(("part", tuple(place.in_all_turns for place in places)), label, self._of(edge), one)
        return each_once(found, labels)

    def _sums(self, consumers: Sequence[_Sent]) -> Iterator[tuple[_Sent, ...]]:
        """Yield the sets of consumers whose sum a running gradient may hold before the others are added.

        Of what is used in all turns of a loop these are the uses in some statements, the others left out.
        """
        if len(consumers) <= CONSUMERS:
            for size in range(2, len(consumers) + 1):
                yield from itertools.combinations(consumers, size)
            return
        uses: dict[ast.stmt | None, list[_Sent]] = {}
        for consumer in consumers:
            uses.setdefault(self.places[consumer[0]].statement, []).append(consumer)
        for size in range(1, len(uses)) if len(uses) <= CONSUMERS else ():
            for some in itertools.combinations(uses.values(), size):
                yield tuple(itertools.chain.from_iterable(some))

    def _of(self, edge: tuple[Node | None, int]) -> Any:
        """Return what stands for a tensor in all turns: the operation that makes it, or its leaf."""
        node, number = edge
        if node is None or node not in self.places:
            return edge
        return self.places[node].in_all_turns, number


def _nodes(outputs: Iterable[Tensor]) -> set[Node]:
    """Return the operations that made the outputs, without those that gather the leaves' gradients."""
    stack = [t.grad_fn for t in outputs]
    seen: set[Node] = set()
    while stack:
        node = stack.pop()
        if node is not None and node not in seen and node.name() != "torch::autograd::AccumulateGrad":
            seen.add(node)
            stack += [following for following, _ in node.next_functions]
    return seen
