"""A learner's own backward as an engine that trains the language model: checked first, refused if wrong."""

from pathlib import Path

from backhand.engines.stepping import Engine, by_hand, descend
from backhand.errors import LearnError, WrongGradientError
from backhand.learning.course import course
from backhand.learning.loading import load
from backhand.learning.referee import Referee

# The exercises with the whole language model, which alone can train it.
WHOLE = ("mlp_fused", "mlp_chunked")


def engine_of(path: Path) -> Engine:
    """Return the engine that trains with the backward of a learner's file, once it is found to be right.

    Raises:
        LearnError: the file is not one of the exercises with the whole language model, or cannot be judged.
        WrongGradientError: a gradient is wrong or missing; the message is the report.
    """
    found = [e for e in course() if path.stem.endswith(e.name) and e.name in WHOLE]
    if not found:
        raise LearnError(f"{path} is none of the exercises {' and '.join(WHOLE)}, which are a whole model.")
    with Referee() as referee:
        attempt = referee.judge(found[0], path)
    if attempt.problem or attempt.report is None:
        raise LearnError(f"{path}: {attempt.problem}")
    missing = [g.name for g in attempt.gradients if g.verdict not in ("right", "vacuous")]
    if missing or not attempt.report.ok:
        raise WrongGradientError(f"{path} is not trained with before it is right.\n\n{attempt.report}")
    module, _ = load(found[0], path)
    return descend(by_hand(module))
