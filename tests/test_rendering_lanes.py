"""The flow as lanes beside the rows."""

from backhand.rendering.lanes import Arc, segments


def test_arcs_that_overlap_have_lanes_of_their_own():
    place = {"a": 0, "b": 1, "c": 2, "d": 3}
    arcs = [Arc("a", "d"), Arc("b", "c"), Arc("a", "b"), Arc("c", "d"), Arc("a", "elsewhere")]
    rows, lanes = segments(arcs, place, 4)
    assert lanes == 2
    assert [(s.part, s.lane) for s in rows[1]] == [("end", 0), ("begin", 0), ("pass", 1)]


def test_arcs_to_the_elements_of_a_list_run_together():
    place = {"W": 0, "hs[0]": 1, "hs[1]": 2, "y": 3}
    arcs = [Arc("W", "hs[0]"), Arc("W", "hs[1]"), Arc("hs[0]", "hs[1]"), Arc("hs[0]", "y"), Arc("hs[1]", "y")]
    rows, lanes = segments(arcs, place, 4)
    assert lanes == 3
    assert [[(s.part, s.arc.source) for s in sorted(row, key=lambda s: s.lane)] for row in rows] == [
        [("begin", "W")],
        [("begin", "hs[0]"), ("pass", "W"), ("end", "W"), ("begin", "hs[0]")],
        [("end", "hs[0]"), ("end", "W"), ("pass", "hs[0]"), ("begin", "hs[0]")],
        [("end", "hs[0]")],
    ]
    assert segments([Arc("a", "b"), Arc("a", "c")], {"a": 0, "b": 1, "c": 2}, 3)[1] == 2


def test_an_arc_may_begin_where_another_one_ends_in_the_same_lane() -> None:
    place = {"a": 0, "b": 2, "c": 4}
    shown, lanes = segments([Arc("a", "b"), Arc("b", "c")], place, 5)
    assert lanes == 1
    assert [sorted(s.part for s in row) for row in shown] == [
        ["begin"],
        ["pass"],
        ["begin", "end"],
        ["pass"],
        ["end"],
    ]
    assert segments([Arc("a", "b"), Arc("a", "c")], place, 5)[1] == 2
    above_a_shorter_one = {"a": 0, "b": 2, "c": 3}  # which has its lane already
    assert segments([Arc("a", "b"), Arc("b", "c")], above_a_shorter_one, 4)[1] == 1
