"""Helpers written out in the place of their calls."""

import ast

import torch

from backhand.checking.running.inlining import inlined
from backhand.checking.running.instrumenting import surroundings
from backhand.checking.running.program import source_of


def slope(x, scale=2.0):
    s = torch.sigmoid(scale * x)
    return scale * s * (1 - s)


def pair(dy, w):
    dy = 2 * dy
    return dy * w, dy.sum(0)


def either(x):
    if x.dim() > 1:
        return x
    return -x


def uses_a_helper(dy, x):
    s = slope(x)
    return dy * s


def hands_on(dy, w):
    return pair(w=w, dy=dy.flip(0))


def calls_twice(dy, x):
    a = slope(x)
    b = slope(dy)
    return a * b


def ends_twice(x):
    return either(x)


def text_of(function) -> list[str]:
    source = source_of(function)
    assert source is not None
    return [ast.unparse(s) for s in inlined(source, surroundings(function)).statements]


def test_a_helper_stands_in_the_place_of_its_call_with_names_of_its_own() -> None:
    assert text_of(uses_a_helper) == [
        "scale = 2.0",
        "s_ = torch.sigmoid(scale * x)",
        "s = scale * s_ * (1 - s_)",
        "return dy * s",
    ]


def test_a_parameter_that_a_helper_changes_does_not_change_the_callers() -> None:
    assert text_of(hands_on) == [
        "dy_ = dy.flip(0)",
        "dy_ = 2 * dy_",
        "return (dy_ * w, dy_.sum(0))",
    ]


def test_its_lines_are_those_of_the_helper() -> None:
    source = source_of(uses_a_helper)
    assert source is not None
    numbers = [s.lineno for s in inlined(source, surroundings(uses_a_helper)).statements]
    first = slope.__code__.co_firstlineno
    assert numbers[1:3] == [first + 1, first + 2]


def test_what_is_called_twice_or_ends_in_two_places_is_left_as_it_is() -> None:
    assert text_of(calls_twice) == ["a = slope(x)", "b = slope(dy)", "return a * b"]
    assert text_of(ends_twice) == ["return either(x)"]
