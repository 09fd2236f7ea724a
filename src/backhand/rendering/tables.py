"""Results of the language model as text for a terminal."""

from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from backhand.language.drawing import Sample
from backhand.language.evaluating import Score
from backhand.language.inspecting import Inspection, Summary
from backhand.language.model import count_parameters
from backhand.language.saving import Run
from backhand.showing import plain


def score_table(scores: Sequence[Score]) -> RenderableType:
    """Show what was measured, with the yardsticks beside it, all in nats a symbol."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("words")
    for heading in ("contexts", "loss", "bigram", "uniform"):
        table.add_column(heading, justify="right", style="bold cyan" if heading == "loss" else None)
    for score in scores:
        numbers = (f"{value:.4f}" for value in (score.loss, score.bigram, score.uniform))
        table.add_row(Text(plain(score.words)), f"{score.contexts:,}", *numbers)
    units = "nats a symbol; bigram counts pairs of letters, uniform guesses blindly"
    return Group(table, Text(units, style="dim"))


def run_line(run: Run, backward: Path | None = None) -> Text:
    """Show in a sentence what was trained, with which engine or whose backward, and where it is."""
    engine = f"the backward of {plain(str(backward))}" if backward else f"{run.config.engine} engine"
    how = f"{run.config.type}, {engine}"
    if run.config.type == "mlp":
        kind = "calibrated over the training split" if run.config.batch_norm == "calibrate" else "running"
        how = f"{engine}, batch norm {kind}"
    kept = f", the best of which is kept: step {run.kept:,}" if run.kept != run.step else ""
    return Text(
        f"{count_parameters(run.model.parameters):,} parameters after {run.step:,} steps{kept} "
        f"({how}), saved in {plain(str(run.path))}"
    )


def sample_lines(samples: Sequence[Sample], *, marks: bool) -> Text:
    """Show one word a line; with marks, those of the training list say so."""
    known = "  (in the training list)" if marks else ""
    lines = [
        Text(plain(s.word)) if s.new else Text(plain(s.word)).append(known, style="dim") for s in samples
    ]
    return Text("\n", no_wrap=True, overflow="ignore").join(lines)


def inspection_tables(inspection: Inspection) -> RenderableType:
    """Show every tensor of a minibatch, the state of the hidden layer and the size of the updates."""
    updates = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    updates.add_column("parameter")
    updates.add_column("gradient / weights", justify="right")
    updates.add_column("update / weights", justify="right")
    for update in inspection.updates:
        updates.add_row(update.name, f"{update.gradient:.2e}", f"{update.update:.2e}")
    parts = [summary_table("forward", inspection.forward), summary_table("backward", inspection.backward)]
    if "h" in inspection.tensors:
        parts.append(
            f"tanh outputs beyond 0.99: {inspection.saturated:.1%}; units beyond it for every example: "
            f"{inspection.dead} of {inspection.tensors['h'].shape[-1]}"
        )
    return Group(*(each for part in parts for each in (part, "")), updates)


def summary_table(heading: str, summaries: Sequence[Summary]) -> RenderableType:
    """Show tensors in a few numbers each."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(heading, no_wrap=True)
    table.add_column("shape", no_wrap=True)
    for number in ("mean", "std", "min", "max"):
        table.add_column(number, justify="right", no_wrap=True)
    for s in summaries:
        numbers = (f"{value:.3g}" for value in (s.mean, s.std, s.min, s.max))
        table.add_row(s.name, str(tuple(s.shape)), *numbers)
    return table
