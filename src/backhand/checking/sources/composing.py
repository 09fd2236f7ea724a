"""Whole models over NumPy as functions: a forward, a cost of its output, a backward that begins at the cost.

So deeplearning.ai has them: `AL, caches = L_model_forward(X, parameters)`, `cost = compute_cost(AL, Y)`,
`grads = L_model_backward(AL, Y, caches)`. The names of the parameters say what each function receives.
"""

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from backhand.checking.running.program import parameters_of, source_of
from backhand.checking.sources.courses import word
from backhand.checking.sources.numpy_truths import Call, Called, plainly, run_plainly
from backhand.checking.sources.overnumpy import is_float
from backhand.checking.sources.returned import Returned, Returning, as_tuple, loss_among, names_returned
from backhand.checking.sources.roles import asks_for_labels, costs_among
from backhand.errors import CheckError

# A batch, features, hidden units of three layers: sizes differ, so that an exchanged axis cannot pass.
BATCH, SIZES = 4, (5, 3, 6)


@dataclass(frozen=True)
class Parts:
    """The functions of a model.

    Attributes:
        forward, cost, backward: the user's; no cost where the forward takes the labels, and gives it itself.
    """

    forward: Callable[..., Any]
    cost: Callable[..., Any] | None
    backward: Callable[..., Any]

    def of_all(self) -> tuple[Callable[..., Any], ...]:
        """Return them, the backward last."""
        return tuple(f for f in (self.forward, self.cost, self.backward) if f is not None)


def parts_of(backward: Callable[..., Any], named: Mapping[str, Callable[..., Any]]) -> Parts | None:
    """Return a backward's forward and cost, if it is that of a whole model: it asks for the labels.

    Args:
        backward: the function.
        named: all functions of its module.
    """
    forward = next((named[n] for n in _forwards(backward.__name__) if n in named), None)
    if forward is None or not asks_for_labels(backward):
        return None
    if asks_for_labels(forward):
        return Parts(forward, None, backward)
    costs = costs_among(named)
    # `backward_with_decay` begins at `cost_with_decay`, if there is one
    alike = [n for n in costs if _suffix(n) and _suffix(n) == _suffix(backward.__name__)]
    cost = next((named[n] for n in (*alike, *costs)), None)
    return Parts(forward, cost, backward) if cost is not None else None


def _suffix(name: str) -> str:
    return name.partition("_with_")[2]


def _forwards(backward: str) -> Iterator[str]:
    """Yield what the forward of a backward may be called."""
    for name in dict.fromkeys((backward, backward.partition("_with_")[0])):
        for back in ("backward", "back", "bwd"):
            for forward in ("forward", "feed_forward", "feedforward", "fwd"):
                yield name.replace(back, forward, 1) if back in name else ""


@dataclass(frozen=True)
class Composed(Returning):
    """A model, as `overnumpy.Subject`.

    Attributes:
        calls: its functions.
        kept: the inputs that are dictionaries of parameters, with the names of these.
        returned: the gradients.
    """

    calls: Parts
    kept: Mapping[str, tuple[str, ...]]
    returned: Returned

    @staticmethod
    def of(
        calls: Parts, kept: Mapping[str, tuple[str, ...]], inputs: Mapping[str, Any], seed: int
    ) -> "Composed":
        """Return the model, after one call has shown which gradients it gives.

        Raises:
            CheckError: it gives none.
        """
        plain = Composed(calls, kept, Returned(calls.backward, {}, {}, 0))
        run_plainly(plain, inputs, seed)
        backward, arguments = plain.backward(plain.forward(copy.deepcopy(dict(inputs))), {})
        try:
            found = as_tuple(plainly(backward, arguments))
        except Exception:  # it will be told with its line
            found = ...
        parameters = {n: v for n, v in inputs.items() if is_float(v) and word(n) not in ("x", "y")}
        returned = Returned.of(backward, found, {}, inputs, parameters=parameters)
        if not returned.places:
            raise CheckError(f"{plain.title} returns no gradient of {', '.join(parameters)}.")
        return replace(plain, returned=returned)

    @property
    def over_torch(self) -> bool:
        """It is over NumPy."""
        return False

    @property
    def title(self) -> str:
        """The backward's name."""
        return self.calls.backward.__name__

    @property
    def outputs(self) -> tuple[str, ...]:
        """It ends in its cost."""
        return ("loss",)

    @property
    def arrives(self) -> Mapping[str, str]:
        """Nothing arrives: the backward begins at the cost."""
        return {}

    def functions(self) -> Sequence[Callable[..., Any]]:
        """Return the user's functions, the backward last."""
        return self.calls.of_all()

    def forward(self, inputs: Mapping[str, Any], call: Call = plainly) -> Called:
        """Run the forward, then the cost of its output."""
        given = {n: v for n, v in inputs.items() if not any(n in names for names in self.kept.values())}
        given |= {d: {n: inputs[n] for n in names} for d, names in self.kept.items()}
        found = call(self.calls.forward, received(self.calls.forward, given))
        several = found if isinstance(found, tuple) else (found,)
        names = names_returned(self.calls.forward, len(several))
        made = [
            (name or f"output{i}", value) for i, (name, value) in enumerate(zip(names, several, strict=True))
        ]
        cost = self.calls.cost
        among = several if cost is None else plainly(cost, received(cost, given, made))
        among = among if isinstance(among, tuple) else (among,)
        return Called((among[loss_among(among, cost or self.calls.forward) or 0],), (given, made))

    def backward(
        self, called: Called, upstream: Mapping[str, Any]
    ) -> tuple[Callable[..., Any], dict[str, Any]]:
        """Return the backward, with what it asks for of the inputs and of what the forward gave."""
        return self.calls.backward, received(self.calls.backward, *called.state)


def received(
    function: Callable[..., Any], given: Mapping[str, Any], made: Sequence[tuple[str, Any]] = ()
) -> dict[str, Any]:
    """Return what a function receives of the inputs and of what the forward made: by name, else in order."""
    found: dict[str, Any] = {}
    by_word = {word(n): v for n, v in given.items()}
    data = [v for n, v in given.items() if word(n) != "y"]  # `feedforward(a)`, and `backprop(x, y)`
    caches = [v for n, v in made[1:]]
    for name, p in parameters_of(function).items():
        if name in given or word(name) in by_word:
            found[name] = given.get(name, by_word.get(word(name)))
        elif name in dict(made):
            found[name] = dict(made)[name]
        elif word(name) == "x" and data:
            found[name] = data[0]
        elif p.default is not p.empty or not made:
            continue
        elif "cache" in name.lower() and caches:
            found[name] = caches[-1]
        else:
            found[name] = made[0][1]
    return found


Draw = Callable[[np.random.Generator], dict[str, Any]]
# Numbers that a model's functions may ask for.
OPTIONS = (("reg(ularization)?|lambda?(_?d)?|l2|decay", 0.1), ("keep_?prob|p|drop(out)?(_?rate)?", 0.7))


def drawing(calls: Parts) -> tuple[Draw, Mapping[str, tuple[str, ...]]] | Exception | None:
    """Return what draws a model's inputs, and which of these stand in a dictionary.

    None where they are not known; what the model raised if it runs on none. It has as many layers as its text
    names, else three; a batch in columns or in rows; one output with labels of 0 and 1, or several with
    one-hot ones. The first is taken of which some gradient is not zero.
    """
    names = list(parameters_of(calls.forward))
    holder = next((n for n in names if re.search("param|weight", n.lower())), None)
    data = next((n for n in names if word(n) == "x"), None)
    labels = next((n for n in parameters_of(calls.cost or calls.forward) if word(n) == "y"), None)
    options = _options(calls)
    needed = {n for n, p in parameters_of(calls.forward).items() if p.default is p.empty}
    if data is None or labels is None or holder is None or needed - {data, labels, holder, *options}:
        return None
    depth = _depth(calls)
    keys = tuple(f"{kind}{i}" for i in range(1, depth + 1) for kind in ("W", "b"))
    fallback, raised = None, None
    for columns in (True, False):
        for classes in (1, 3):
            draw = _draw(data, labels, depth, columns, classes, options)
            try:
                gives = _gives(calls, {holder: keys}, draw)
            except Exception as error:  # another size may fit
                raised = raised or error
                continue
            if gives:
                return draw, {holder: keys}
            fallback = fallback or (draw, {holder: keys})
    return fallback or raised


def _options(calls: Parts) -> dict[str, float]:
    """Return the numbers that some of its functions must be given; the same for all."""
    needed = [n for f in calls.of_all() for n, p in parameters_of(f).items() if p.default is p.empty]
    return {n: value for n in needed for what, value in OPTIONS if re.fullmatch(what, n.lower())}


def _depth(calls: Parts) -> int:
    texts = [s.lines for f in calls.of_all() if (s := source_of(f)) is not None]
    numbers = re.findall(r"""["']W(\d)["']""", "\n".join(line for lines in texts for line in lines))
    return max(map(int, numbers), default=3)


def _draw(
    data: str, labels: str, depth: int, columns: bool, classes: int, options: Mapping[str, float]
) -> Draw:
    sizes = [*SIZES[:depth], classes] if depth <= len(SIZES) else [*SIZES, *[4] * (depth - 3), classes]

    def draw(rng: np.random.Generator) -> dict[str, Any]:
        def shaped(shape: tuple[int, int], scale: float) -> np.ndarray:
            return scale * rng.normal(size=shape if columns else shape[::-1])

        x = shaped((sizes[0], BATCH), 1.0)
        hot = (
            rng.integers(0, 2, size=(1, BATCH))
            if classes == 1
            else np.eye(classes)[:, rng.permutation(BATCH) % 3]
        )
        found: dict[str, Any] = {**options, data: x, labels: (hot if columns else hot.T).astype(np.int64)}
        for i in range(depth):
            found[f"W{i + 1}"] = shaped((sizes[i + 1], sizes[i]), sizes[i] ** -0.5)
            found[f"b{i + 1}"] = shaped((sizes[i + 1], 1), 0.5)
        return found

    return draw


def _gives(calls: Parts, kept: Mapping[str, tuple[str, ...]], draw: Draw) -> bool:
    """Tell whether a model's backward gives something else than zero on such inputs.

    Raises:
        Exception: the forward or its cost does not run on them, or gives no number.
    """
    inputs = draw(np.random.default_rng(0))
    model = Composed(calls, kept, Returned(calls.backward, {}, {}, 0))
    with np.errstate(all="ignore"):
        called = model.forward(copy.deepcopy(inputs))
        if not np.isfinite(float(called.outputs[0])):
            raise ValueError("the cost is no finite number")
    try:
        model = Composed.of(calls, kept, inputs, 0)
        found = model.gradients(plainly(*model.backward(called, {})), called)
    except Exception:  # it will be told with its line
        return False
    return any(np.max(np.abs(g), initial=0.0) > 1e-12 for g in found.values() if g is not None)
