"""Learning curves from metrics.jsonl: losses, the quality of translations, and sparsity over the updates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from nmt_rela.analysis import plots
from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.metrics.translation import LABELS, metrics_of

Points = list[tuple[float, float]]
#: Title of a panel → name of a line → points.
Panels = dict[str, dict[str, Points]]

_SPARSITY = "sparsity_"
_LOSS = "loss (nats per token)"
#: Points of a line, so that a long run is drawn as fast as a short one.
_MAX_POINTS = 300


def points(records: Iterable[Mapping[str, Any]], event: str, name: str) -> Points:
    """The recorded values of a name by update, thinned; values that were not finite are left out."""
    found = [(r["update"], r[name]) for r in records if r["event"] == event and r.get(name) is not None]
    return found[:: -(-len(found) // _MAX_POINTS)] if len(found) > _MAX_POINTS else found


def panels_of_run(records: Sequence[Mapping[str, Any]]) -> Panels:
    """The panels of one run: losses of training and development set, quality, sparsity by attention site."""
    panels = {_LOSS: {"training": points(records, "train", "loss")}}
    panels[_LOSS]["development"] = points(records, "validation", "loss")
    for name in metrics_of(records):
        panels[LABELS[name]] = {"development": points(records, "validation", name)}
    names = dict.fromkeys(name for record in records for name in record if name.startswith(_SPARSITY))
    sparsity = {name.removeprefix(_SPARSITY): points(records, "validation", name) for name in names}
    if any(value for line in sparsity.values() for _, value in line):
        panels["zeros among the attention weights"] = sparsity
    return panels


def panels_of_runs(records: Mapping[str, Sequence[Mapping[str, Any]]]) -> Panels:
    """The panels of several runs, one line per run: loss of the development set, and quality."""
    titles = {"loss": _LOSS} | {name: LABELS[name] for name in metrics_of(chain.from_iterable(records.values()))}
    panels = {
        title: {run: points(of_run, "validation", name) for run, of_run in records.items()}
        for name, title in titles.items()
    }
    return {title: lines for title, lines in panels.items() if any(lines.values())}


def draw_learning_curve(run: RunDirectory) -> Path | None:
    """Draw ``learning_curve.png`` of a run; None where it has no two points to connect.

    Raises UserError where matplotlib is not installed.
    """
    panels = panels_of_run(run.read_metrics())
    if all(len(line) < 2 for lines in panels.values() for line in lines.values()):
        return None
    return plots.save(plots.curves(panels, xlabel="updates"), run.learning_curve.with_suffix(""))[0]
