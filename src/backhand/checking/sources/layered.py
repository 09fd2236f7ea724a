"""A layer over NumPy, or a whole model, as what is judged: how it is called, and where its gradients are."""

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np

from backhand.checking.mistakes.finding import listed
from backhand.checking.report import Report
from backhand.checking.running.instrumenting import run_function
from backhand.checking.running.program import Source, parameters_of, source_of
from backhand.checking.running.standin import stand_in
from backhand.checking.running.tracked import Tracked, wrapped
from backhand.checking.sources.arguments import is_what_arrives
from backhand.checking.sources.clipping import Clips
from backhand.checking.sources.composing import received
from backhand.checking.sources.costs import COSTS, cost_of, ends_of, labels_on, lacks_cost
from backhand.checking.sources.courses import word
from backhand.checking.sources.globals import (
    Globals,
    in_place,
    owner_of,
    seen_by,
    taking,
)
from backhand.checking.sources.held import (
    arrays_of,
    copied,
    gradients_left,
    once,
    output_left_by,
    plain_name,
    put,
    stored_gradients,
)
from backhand.checking.sources.numpy_truths import Call, Called, plainly, run_plainly
from backhand.checking.sources.overnumpy import is_float, moved
from backhand.checking.sources.pairs import Wiring
from backhand.checking.sources.parts import called_for_its_loss
from backhand.checking.sources.returned import (
    Returned,
    as_tuple,
    loss_among,
    names_returned,
)
from backhand.checking.sources.roles import asks_for_labels, calls_of, is_layer
from backhand.checking.sources.updating import (
    BEGUN,
    AtTheEnd,
    Steps,
    given_besides,
    in_proportion,
    rate_of,
    rates_asked,
    with_gradients,
)
from backhand.errors import CheckError


@dataclass(frozen=True)
class Class:
    """A layer, as `overnumpy.Subject`.

    Attributes:
        layer: the object, which is copied for each call.
        calls: the names of its forward and its backward; of a model those of its loss and of what gives the
            gradients, perhaps the same.
        wiring: what the backward's parameters receive.
        outputs: the names of the outputs.
        parameters: where on the layer each parameter lies, by its name.
        shapes: of the parameters.
        returned: the gradients that are returned.
        stored: where on the layer each other gradient lies afterwards, by its name; in parts where several
            layers share a parameter.
        named: which input or parameter each gradient belongs to.
        unjudged: arrays on the layer that change its output, and of which no gradient is found.
        begins: whether the backward begins at the loss, for it asks for the labels.
        cost: a method's name, or a function, that gives the loss, where the forward does not.
        assumed: what the cost is taken for, in words, where none is written.
        left: where on the layer the forward leaves its output, if it returns none.
        steps: the parameters that the backward moves.
        of_rows: what is made of a loss that is given for each row, their `mean` or their `sum`.
        ended: the backward raised, so that its text alone tells what it returns.
    """

    layer: Any
    calls: tuple[str, str]
    wiring: Wiring
    outputs: tuple[str, ...]
    parameters: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    returned: Returned
    stored: Mapping[str, tuple[str, ...]]
    named: Mapping[str, str]
    unjudged: tuple[str, ...] = ()
    begins: bool = False
    cost: Callable[..., Any] | str | None = None
    left: str = ""
    steps: Steps = field(default_factory=lambda: Steps({}, {}))
    of_rows: str = ""
    assumed: str = ""
    ended: bool = False

    @property
    def over_torch(self) -> bool:
        """It is over NumPy."""
        return False

    @cached_property
    def _is_model(self) -> bool:
        """Whether it is one; its methods are read once, not at every call of thousands."""
        return bool(calls_of(type(self.layer)))

    @property
    def title(self) -> str:
        """The class's name."""
        return type(self.layer).__name__

    @staticmethod
    def of(layer: Any, inputs: Mapping[str, Any], seed: int) -> "Class":
        """Return the layer, after one call has shown where its gradients are.

        Raises:
            CheckError: there are none.
        """
        plain = Class._called(layer, inputs)
        layer, calls, wiring, outputs = plain.layer, plain.calls, plain.wiring, plain.outputs
        backward = getattr(layer, calls[1])
        outs = run_plainly(plain, inputs, seed)
        if len(outs) < len(outputs):
            names = names_returned(getattr(layer, calls[0]), len(outs))
            made = {n: out for n, out in zip(names, outs, strict=True) if n is not None}
            asked = [*parameters_of(backward)]
            taking = wiring.taking(made, inputs, asked) if len(made) == len(outs) else None
            wiring, outputs = (taking, taking.outputs(list(inputs))) if taking else (wiring, outputs)
            plain = replace(plain, wiring=wiring, outputs=outputs)
        if len(outs) < len(outputs):
            raise CheckError(
                f"{plain.title}.{calls[1]} asks for {listed(list(wiring.upstream))}, but {calls[0]} gives "
                f"{len(outs)} of which an upstream gradient may arrive: what the rest is, is not known."
            )
        kept = plain.kept_by_a_call(inputs, seed)
        begun, after, given = plain.tried(inputs, outs, seed)
        # a sum over all axes leaves a number, which may be a gradient, but no parameter
        found = {where: a for where, a in arrays_of(layer) if a.ndim and is_float(a)}
        before = {where: a for where, a in found.items() if where not in kept}
        taken = {*inputs, *outputs, *wiring.upstream}
        floats = {n: v for n, v in inputs.items() if is_float(v) and not (plain.begins and word(n) == "y")}
        held = {plain_name(where, inputs): where for where in once(before)}
        arrays = {n: before[where] for n, where in held.items()}
        returned = Returned.of(backward, given, floats, taken, parameters=arrays, loss=calls[0] == calls[1])
        parameters = {n: held[n] for n in returned.named.values() if n not in floats}
        left = dict(arrays_of(after))
        more, stored, named = stored_gradients(before, left, parameters, inputs, [*returned.named, *taken])
        parameters |= more
        for where, tensor in gradients_left(
            backward, begun, left, floats, {**returned.named, **named}, given
        ):
            stored[where], named[where] = (where,), tensor
        others = {w: a for w, a in before.items() if not any(a is before[p] for p in parameters.values())}
        needed = [w for w in once(others) if plain.depends_on(w, inputs, outs, seed)]
        went = [w for w in needed if w in left and not np.array_equal(begun[w], left[w])]
        moved = {plain_name(w, inputs): w for w in went}
        steps = plain.steps_of(moved, inputs, outs, seed)
        moved = moved if steps.places else {}
        if not (returned.places or stored or moved):
            raise CheckError(f"{plain.title} returns no gradient, and leaves none on itself.")
        parameters |= moved
        return replace(
            plain,
            parameters=parameters,
            unjudged=tuple(plain_name(w, []) for w in needed if w not in moved.values()),
            shapes={n: before[where].shape for n, where in parameters.items()},
            returned=returned,
            stored=stored,
            named={**returned.named, **named, **steps.tensors},
            steps=steps,
            ended=given is ...,
        )

    @staticmethod
    def _called(layer: Any, inputs: Mapping[str, Any]) -> "Class":
        """Return the layer, after the first call, with how it is called alone."""
        calls = ends_of(type(layer))
        forward, backward = (getattr(layer, name) for name in calls)
        assumed = COSTS[0].told if lacks_cost(layer, calls) else ""
        cost = COSTS[0].function if assumed else cost_of(layer, calls)
        begins = not calls_of(type(layer)) and (asks_for_labels(backward) or bool(assumed))
        begins = begins and (cost is not None or asks_for_labels(forward))
        made = names_returned(forward, None)
        if not isinstance(layer, Globals):  # the first of either is what is judged, and what arrives
            made = tuple(n for n in made[1:] if n in [*parameters_of(backward)][1:])
        wiring = Wiring.of(backward, [*inputs, *given_besides(backward), *filter(None, made)], cached=False)
        if begins:
            wiring = Wiring((), "", ())
        elif not calls_of(type(layer)) and not wiring.upstream and is_what_arrives(layer, calls, inputs):
            wiring = Wiring(wiring.shared, "", ())
        outputs = wiring.outputs(list(inputs))
        plain = Class(
            layer, calls, wiring, outputs, {}, {}, Returned(backward, {}, {}, 0), {}, {}, (), begins, cost
        )
        plain = replace(plain, left=output_left_by(forward, layer), assumed=assumed)
        plain = replace(plain, layer=made_by_a_call(plain, inputs))
        if begins and np.ndim(plain.forward(copy.deepcopy(dict(inputs))).outputs[0]):
            plain = replace(plain, of_rows="mean")
        return plain

    def steps_of(
        self, moved: Mapping[str, str], inputs: Mapping[str, Any], outputs: Sequence[np.ndarray], seed: int
    ) -> Steps:
        """Return the steps by which a backward moves parameters, if they are gradients; none otherwise."""
        places, tensors = {f"d{n}": w for n, w in moved.items()}, {f"d{n}": n for n in moved}
        steps = Steps(places, tensors, rate_of(getattr(self.layer, self.calls[1]), self.layer))
        if not self.is_of_gradients(steps, inputs, outputs, seed):
            return Steps({}, {})
        return self.with_names(steps, inputs, outputs, seed)

    def is_of_gradients(
        self, steps: Steps, inputs: Mapping[str, Any], outputs: Sequence[np.ndarray], seed: int
    ) -> bool:
        """Tell whether the steps of a backward are its gradients, not what an optimiser makes of them."""
        if not steps.places:
            return False
        stepping = replace(self, steps=steps)
        once = stepping.stepped(inputs, outputs, seed)
        if self.begins:  # there is nothing to be doubled; Adam's first step is as long for each element
            several = [np.abs(step) for step in once.values() if step.size > 1]
            return not all(np.ptp(step) <= 1e-6 * np.max(step) for step in several)
        return in_proportion(once, stepping.stepped(inputs, outputs, seed, 2.0))

    def with_names(
        self, steps: Steps, inputs: Mapping[str, Any], outputs: Sequence[np.ndarray], seed: int
    ) -> Steps:
        """Return steps whose gradients are called as the backward's variables that hold them."""
        seen, own = AtTheEnd(), {}

        def watched(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
            source = with_gradients(source_of(function), steps, (), owner_of(self.layer, function))
            own.update(arguments)
            return run_function(function, source, arguments, seen).result if source is not None else None

        stepping = replace(self, steps=steps)
        found = stepping.stepped(inputs, outputs, seed)
        stepping.stepped(inputs, outputs, seed, call=watched)
        return steps.called_as(found, {n: v for n, v in seen.variables.items() if n not in own})

    def stepped(
        self,
        inputs: Mapping[str, Any],
        outputs: Sequence[np.ndarray],
        seed: int,
        scale: float = 1.0,
        call: Call = plainly,
    ) -> dict[str, np.ndarray]:
        """Return the gradients that steps show, the upstream gradients scaled."""
        parameters = {self.steps.tensors[g]: w for g, w in self.steps.places.items()}
        own = dict(arrays_of(self.layer))
        moving = replace(self, parameters=parameters)
        _, after, _ = moving.tried(
            {**inputs, **{n: own[w].astype(float) for n, w in parameters.items()}}, outputs, seed, scale, call
        )
        rates = rates_asked(getattr(after, self.calls[1]))
        return self.steps.gradients(after, rates, dict(arrays_of(after)))

    def kept_by_a_call(self, inputs: Mapping[str, Any], seed: int) -> set[str]:
        """Return where something lies that the last call has left, such as its input: it is no parameter.

        Nor is what each call makes anew, as the cells of a layer over time with copies of its parameters:
        what it is before makes no difference to what it is after.
        """
        rng = np.random.default_rng(seed)
        others = {n: moved(v, rng) if is_float(v) else _mixed(v, rng) for n, v in inputs.items()}
        before = dict(arrays_of(self.layer))
        try:
            after = dict(arrays_of(self.forward(copy.deepcopy(others)).state[0]))
        except Exception:  # it asks for the very numbers that it was given
            return set()
        kept = {w for w, a in before.items() if w not in after or not np.array_equal(a, after[w])}
        layer = copied(self.layer)
        rest = {w: a for w, a in before.items() if w not in kept and a.ndim and is_float(a)}
        shifted = {w: moved(rest[w], rng) for w in once(rest)}
        for where, value in shifted.items():
            put(layer, where, value)
        try:
            there = dict(arrays_of(replace(self, layer=layer).forward(copy.deepcopy(others)).state[0]))
        except Exception:  # it asks for the very numbers that lie there
            return kept
        return kept | {w for w in shifted if w not in there or not np.array_equal(there[w], shifted[w])}

    def depends_on(
        self, where: str, inputs: Mapping[str, Any], outputs: Sequence[np.ndarray], seed: int
    ) -> bool:
        """Tell whether an array on the layer, moved a little, changes the outputs."""
        layer = copied(self.layer)
        put(layer, where, moved(dict(arrays_of(layer))[where], np.random.default_rng(seed)))
        try:
            after = run_plainly(replace(self, layer=layer), inputs, seed)
        except CheckError:  # it may be numbers of another kind, such as sorted ones
            return False
        return not all(map(np.array_equal, after, outputs))

    def tried(
        self,
        inputs: Mapping[str, Any],
        outputs: Sequence[np.ndarray],
        seed: int,
        scale: float = 1.0,
        call: Call = plainly,
    ) -> tuple[dict[str, np.ndarray], Any, Any]:
        """Call the two once; return the arrays on the layer before and the layer after the backward.

        The third is the tuple that it gave, `...` if it raised.
        """
        rng = np.random.default_rng(seed)
        called = self.forward(copy.deepcopy(dict(inputs)))
        pairs = zip(self.outputs, outputs, strict=True)
        upstream = {f"d{n}": scale * rng.normal(size=out.shape) for n, out in pairs}
        backward, arguments = self.backward(called, upstream)
        layer = called.state[0]
        begun = {w: a.copy() for w, a in arrays_of(layer)}
        try:
            with in_place(layer), Clips().left_out():
                return begun, layer, as_tuple(call(backward, arguments))
        except Exception:  # it will be told with its line
            return begun, layer, ...

    def drawn_parameter(self, name: str, rng: np.random.Generator) -> np.ndarray:
        """Return a parameter; a model's of a size that keeps what it computes near one."""
        shape = self.shapes[name]
        fan_in = np.prod(shape) / max(shape, default=1) if self.outputs == ("loss",) else 1
        return np.asarray(rng.normal(size=shape)) / np.sqrt(max(fan_in, 1))

    @property
    def arrives(self) -> Mapping[str, str]:
        """By which parameter of the backward the upstream gradient of each output arrives."""
        return self.wiring.arrives(self.outputs)

    def functions(self) -> Sequence[Callable[..., Any]]:
        """Return the two methods, the backward last."""
        return getattr(self.layer, self.calls[0]), getattr(self.layer, self.calls[1])

    def forward(self, inputs: Mapping[str, Any], call: Call = plainly) -> Called:
        """Run the forward of a copy that has these parameters."""
        layer = copied(self.layer)
        for name, where in self.parameters.items():
            put(layer, where, inputs[name])
        if any(isinstance(v, Tracked) for v in inputs.values()):
            modules = {n: v for n, v in vars(layer).items() if isinstance(v, ModuleType)}
            vars(layer).update({n: stand_in(v) for n, v in modules.items()})  # as `self.xp = np`
            others = {w: a for w, a in arrays_of(layer) if a.ndim and is_float(a)}
            for where in once(others):  # what is held twice stays one
                put(layer, where, wrapped(others[where]))
        given = {n: v for n, v in inputs.items() if n not in self.parameters}
        # a model's gradients come from a call of their own, which begins where this one did
        after = copied(layer) if self._is_model else layer
        forward = getattr(layer, self.calls[0])
        asked = parameters_of(forward)
        with in_place(layer):
            own = {n: v for n, v in given.items() if n in asked}
            whole = self.calls[0] == self.calls[1]
            found = called_for_its_loss(forward, own, call) if whole else call(forward, own)
            found = _outputs(getattr(layer, self.left, None) if found is None else found)
            made = self._made(layer, found, given)
            if self.cost is not None:
                cost = getattr(layer, self.cost) if isinstance(self.cost, str) else self.cost
                found = _outputs(plainly(cost, received(cost, labels_on(layer) | given, made)))
        first = loss_among(found, forward) or 0 if self.outputs == ("loss",) and self.cost is None else 0
        found = found[first : first + len(self.outputs)]
        if self.of_rows:
            found = (found[0].sum() / (len(found[0]) if self.of_rows == "mean" else 1),)
        if self.steps.places:
            begun = {g: inputs[n] for g, n in self.steps.tensors.items()}
            arrays = {g: v.copy() for g, v in begun.items() if isinstance(v, np.ndarray)}
            setattr(layer, BEGUN, arrays)
        return Called(found, (after, given, made))

    def _made(self, layer: Any, found: tuple[Any, ...], given: Mapping[str, Any]) -> list[tuple[str, Any]]:
        """Return what a backward that begins at the loss may ask for: its forward's output, by name.

        A loss's is the predictions, or what its forward has made of them and left on the layer.
        """
        if self.begins and self.cost is None and not isinstance(layer, Globals):
            name, predictions = next((n, v) for n, v in given.items() if word(n) != "y")
            made: Any = getattr(layer, self.left, None)
            return [(name, made if np.shape(made) == np.shape(predictions) else predictions)]
        names = names_returned(getattr(layer, self.calls[0]), len(found))
        return [(n or f"output{i}", value) for i, (n, value) in enumerate(zip(names, found, strict=True))]

    def backward(
        self, called: Called, upstream: Mapping[str, Any]
    ) -> tuple[Callable[..., Any], dict[str, Any]]:
        """Return the backward of that copy, with its arguments."""
        pairs = zip(self.wiring.upstream, self.outputs, strict=False)
        layer, inputs, made = called.state
        backward = getattr(layer, self.calls[1])
        inputs = inputs | given_besides(backward)
        if self.begins:
            return backward, received(backward, inputs, made)
        arguments = {p: upstream[f"d{o}"] for p, o in pairs}
        arguments |= {n: v for n, v in made if n in self.wiring.shared}
        there = {**dict(made), **inputs}
        arguments |= {p: there[n] for p, n in self.wiring.renamed.items()}
        return backward, arguments | {n: inputs[n] for n in self.wiring.shared if n in inputs}

    def within(self, called: Called) -> AbstractContextManager[None]:
        """Let the backward see what it finds outside of its arguments."""
        return in_place(called.state[0])

    def seen(self, called: Called) -> Mapping[str, Any]:
        """Return what its source takes besides the backward's arguments."""
        return seen_by(called.state[0], getattr(called.state[0], self.calls[1]))

    def gradients(self, returned: Any, called: Called) -> Mapping[str, Any]:
        """Return what was returned, and what was left on the layer, by name."""
        left = dict(arrays_of(called.state[0]))
        sums = {
            name: sum(left[where] for where in places) if all(where in left for where in places) else None
            for name, places in self.stored.items()
        }
        layer = called.state[0]
        rates = rates_asked(getattr(layer, self.calls[1]))
        return self.returned.gradients(returned) | sums | self.steps.gradients(layer, rates, left)

    @property
    def on_layers(self) -> frozenset[str]:
        """The gradients that lie on layers which this one holds."""
        there = {"layer": self.layer}
        owners = {g: where.rpartition(".")[0] for g, places in self.stored.items() for where in places[:1]}
        return frozenset(g for g, o in owners.items() if o and is_layer(type(eval(f"layer.{o}", there))))

    def mended(self, returned: Any, called: Called, gradients: Mapping[str, Any]) -> Any:
        """Return other gradients as they were returned, and put those that the layer holds where they lie.

        Raises:
            ValueError: one of them is the sum of what lies in several places.
        """
        for gradient, places in self.stored.items():
            (where,) = places
            put(called.state[0], where, gradients[gradient])
        return self.returned.mended(returned, gradients)

    def noting(self, report: Report) -> Report:
        """Return a report that says what was taken for the gradients, and for the loss."""
        notes = list(report.notes)
        if self.steps.places:
            moved, by = listed(list(self.steps.tensors.values())), f", divided by {self.steps.rate}"
            notes.append(
                f"{self.calls[1]} moves {moved} and keeps no gradient of it: the step is judged"
                f"{by * bool(self.steps.rate)}."
            )
        if self.of_rows:
            notes.append(f"{self.calls[0]} gives a loss for each row: their {self.of_rows} is judged.")
        if self.assumed:
            notes.append(f"no cost is written beside it: judged as the gradient of {self.assumed}.")
        return replace(report, notes=tuple(notes))

    @property
    def source(self) -> Source | None:
        """The backward's statements, at whose end the gradients are returned by name."""
        return self._source

    @cached_property
    def _source(self) -> Source | None:
        source = self.returned.source()
        if source is None or source.definition is None or not self.parameters:
            return source
        backward = getattr(self.layer, self.calls[1])
        owner = owner_of(self.layer, backward)
        places = {name: [f"{owner}{where}" for where in wheres] for name, wheres in self.stored.items()}
        sums = {name: " + ".join(wheres) for name, wheres in places.items()}
        named = {name: name for name in self.steps.variables}
        stepping = with_gradients(self.returned.original, self.steps, [*self.parameters.values()], owner)
        return taking(self.returned.source(sums | named, stepping), seen_by(self.layer, backward))


def made_by_a_call(plain: Class, inputs: Mapping[str, Any]) -> Any:
    """Return a layer with the parameters that its first call makes, if it makes some."""
    try:
        once = plain.forward(copy.deepcopy(dict(inputs))).state[0]
        kept = replace(plain, layer=once).kept_by_a_call(inputs, 0)
    except Exception:  # it will be told
        return plain.layer
    before = dict(arrays_of(plain.layer))
    new = [w for w, a in arrays_of(once) if a.ndim and is_float(a) and w not in kept and w not in before]
    return once if new else plain.layer


def _mixed(value: Any, rng: np.random.Generator) -> Any:
    """Return whole numbers in another order."""
    is_whole = isinstance(value, np.ndarray) and value.dtype.kind in "iu"
    return rng.permuted(value) if is_whole else value


def _outputs(returned: Any) -> tuple[Any, ...]:
    return returned if isinstance(returned, tuple) else (returned,)
