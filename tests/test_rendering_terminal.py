"""The report as text, and the pytest fixture that shows it."""

import pytest
import torch

import backhand
from altered import altered
from backhand.passes import batch_norm, mlp_chunked, rnn
from backhand.rendering.terminal import as_text

pytest_plugins = ["pytester"]


def test_culprits_come_first_in_words_and_then_the_table_in_backward_order() -> None:
    text = str(backhand.check(altered(mlp_chunked, ("dcounts += dcounts_sum", "pass"))))
    lines = text.splitlines()
    assert lines[0] == "altered: wrong. 1 at fault, 20 follows."
    assert text.index("missing_branch") < text.index("dlogprobs")
    gradients = [
        line.split()[0] for line in lines[lines.index(next(x for x in lines if "maxdiff" in x)) + 1 :]
    ]
    assert gradients[:3] == ["dlogprobs", "dprobs", "dcounts_sum_inv"]
    assert gradients.index("dlogits") < gradients.index("dW2") < gradients.index("dhpreact")


def test_there_is_colour_only_where_it_is_asked_for() -> None:
    report = backhand.check(batch_norm)
    assert "\x1b[" not in as_text(report, colour=False)
    assert "\x1b[" in as_text(report, colour=True)
    assert "\x1b[" not in str(report)


def test_a_wrong_shape_is_shown_beside_the_right_one() -> None:
    wrong = altered(batch_norm, ("dbias = dy.sum(0)", "dbias = dy.sum(0)[None]"))
    assert "(1, 4), not (4,)" in str(backhand.check(wrong))


@pytest.mark.slow
def test_the_fixture_fails_with_the_table(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import torch
        def forward(x):
            loss = (x * x).sum()
            return locals()
        def backward(x):
            dx = -2 * x
            return locals()
        def test_right(check_pass):
            check_pass(forward, lambda x: {"dx": 2 * x}, inputs={"x": torch.randn(3)})
        def test_wrong(check_pass):
            check_pass(forward, backward, inputs={"x": torch.randn(3)})
        """
    )
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*dx: the right gradient with the opposite sign*"])


def test_the_turns_of_a_loop_that_only_follow_are_one_row_the_worst_of_them() -> None:
    def inputs(generator: torch.Generator) -> dict[str, torch.Tensor]:
        return {**rnn.inputs(generator), "x": torch.randn(9, 3, 2, generator=generator)}

    wrong = altered(rnn, ("(1 - hs[t] ** 2) * dhs[t]", "(1 - hs[t]) * dhs[t]"))
    report = backhand.check(wrong, inputs=inputs, draws=1)
    turns = [row for row in report.rows if row.name.startswith("hs[") and row.verdict == "follows"]
    assert len(turns) == 8
    worst = max(turns, key=lambda row: row.maxdiff)
    table = [line for line in as_text(report, colour=False).splitlines() if line.startswith("dhs[")]
    assert len(table) == 2  # and the last of all, which nothing follows
    assert any(line.startswith(f"{worst.gradient} and 7 more  follows") for line in table)
