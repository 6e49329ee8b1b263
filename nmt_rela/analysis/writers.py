"""The files of an analysis: JSON, CSV tables, Pharaoh alignments, the HTML page and the plots."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nmt_rela.analysis import plots
from nmt_rela.analysis.alignment import AVERAGE, MODES
from nmt_rela.analysis.data import AnalysisData
from nmt_rela.analysis.head_ablation import Head
from nmt_rela.analysis.html_page import PageRun, write_page
from nmt_rela.analysis.pipeline import RunAnalysis
from nmt_rela.analysis.statistics import LayerStatistics
from nmt_rela.analysis.tables import analysis_json, head_error_rates, head_rows, layer_rows, loss_changes
from nmt_rela.models.transformer import ATTENTION_SITES
from nmt_rela.utils.files import atomic_write
from nmt_rela.utils.text import write_lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: What an analysis writes besides its three tables.
_REPLACED = (
    "attention.html", "alignments/*/layer*.txt", "plots/*_by_layer.*", "plots/null_rate_histogram.*",
    "plots/heatmap.*", "plots/head_ablation.*",
)  # fmt: skip


def write_analysis(directory: Path, data: AnalysisData, runs: Sequence[RunAnalysis]) -> list[Path]:
    """Write everything except the plots; the paths to show to the user."""
    if (directory / "analysis.json").exists():  # of an earlier analysis, perhaps of other runs
        for file in chain.from_iterable(map(directory.glob, _REPLACED)):
            file.unlink()
    document = json.dumps(analysis_json(data, runs), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    texts = {"analysis.json": document, "layers.csv": _csv(layer_rows(runs)), "heads.csv": _csv(head_rows(runs))}
    for name, text in texts.items():
        with atomic_write(directory / name) as stream:
            stream.write(text.encode("utf-8"))
    alignments = directory / "alignments"
    written = [*(directory / name for name in texts), alignments]
    for run in runs:
        for (layer, head, mode), lines in run.pharaoh.items():
            label = "average" if head == AVERAGE else f"head{head}"
            write_lines(alignments / _file_name(run.name) / f"layer{layer}.{label}.{mode}.txt", lines)
    shown = max((len(run.page) for run in runs), default=0)
    if shown:
        first = f", the first {shown} here" if shown < len(data.lines) else ""
        written.append(
            write_page(
                directory / "attention.html",
                [_page_run(run) for run in runs],
                data.lines[:shown],
                title="Attention",
                subtitle=f"{data.name}, {len(data.lines):,} sentence pairs{first}",
            )
        )
    return written


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows below a header line. A value of None becomes an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name)


def _page_run(run: RunAnalysis) -> PageRun:
    head_measures, layer_measures = {}, {}
    if run.alignment:
        for mode in MODES:
            head_measures[f"AER {mode}"] = {"cross": _head_matrix(run, head_error_rates(run, mode), "cross")}
            layer_measures[f"AER {mode}"] = {"cross": [x.best.error_rate for x in run.alignment if x.mode == mode]}
    if run.head_ablation is not None:
        changes = loss_changes(run)
        head_measures["Loss without"] = {site: _head_matrix(run, changes, site) for site in ATTENTION_SITES}
    return PageRun(
        name=run.name,
        attention=run.attention,
        sentences=run.page,
        statistics=run.layers,
        head_measures=head_measures,
        layer_measures=layer_measures,
    )


def _head_matrix(run: RunAnalysis, values: Mapping[Head, float], site: str) -> list[list[float | None]]:
    """[layers, heads]"""
    return [[values.get((site, layer.layer, head)) for head in range(layer.heads)] for layer in _layers(run, site)]


def _layers(run: RunAnalysis, site: str) -> list[LayerStatistics]:
    return [layer for layer in run.layers if layer.site == site]


def write_plots(
    directory: Path, runs: Sequence[RunAnalysis], *, layer: int | None = None, formats: Sequence[str] = ("png",)
) -> list[Path]:
    """Draw and write every plot for which there are values; the paths.

    ``layer`` is the cross-attention layer of the heatmap (default: the best aligned layer, or the last).
    """
    figures = {
        "sparsity_by_layer": _rate_figure(runs, "sparsity", "sparsity rate"),
        "null_rate_by_layer": _rate_figure(runs, "null_rate", "null rate"),
        "diversity_by_layer": plots.by_layer(
            {
                title: {run.name: [found.diversity for found in _layers(run, site)] for run in runs}
                for site, title in plots.SITE_TITLES.items()
            },
            ylabel="head diversity (nats)",
        ),
        "null_rate_histogram": plots.histogram(
            {
                title: {run.name: [rate for found in _layers(run, site) for rate in found.null_rate] for run in runs}
                for site, title in plots.SITE_TITLES.items()
            },
            xlabel="null rate of a head",
        ),
    }
    if any(run.alignment for run in runs):
        figures["aer_by_layer"] = _aer_figure(runs)
    for run in runs:
        if run.head_ablation is not None:
            changes = loss_changes(run)
            figures[f"head_ablation.{_file_name(run.name)}"] = plots.head_grid(
                {
                    title: np.array(_head_matrix(run, changes, site), dtype=float)
                    for site, title in plots.SITE_TITLES.items()
                },
                label=f"{run.name}: rise of the loss without a head (nats per sub-word)",
            )
        if run.heatmap:
            figures[f"heatmap.{_file_name(run.name)}"] = _heatmap_figure(run, layer)
    return [path for name, figure in figures.items() for path in plots.save(figure, directory / name, formats)]


def _rate_figure(runs: Sequence[RunAnalysis], attribute: str, ylabel: str) -> Figure:
    """A rate by layer: the mean over heads as a line, single heads as dots."""
    heads = {
        title: {run.name: [getattr(layer, attribute) for layer in _layers(run, site)] for run in runs}
        for site, title in plots.SITE_TITLES.items()
    }
    means = {
        title: {run: [sum(rates) / len(rates) for rates in layers] for run, layers in series.items()}
        for title, series in heads.items()
    }
    return plots.by_layer(means, ylabel=ylabel, dots=heads, ylim=(0, 1))


def _aer_figure(runs: Sequence[RunAnalysis]) -> Figure:
    best, average = (
        {
            mode: {
                run.name: [getattr(layer, attribute).error_rate for layer in run.alignment if layer.mode == mode]
                for run in runs
            }
            for mode in MODES
        }
        for attribute in ("best", "average")
    )
    return plots.by_layer(
        best,
        dashed=average,
        ylabel="alignment error rate",
        xlabel="decoder layer",
        ylim=(0, 1),
        notes=("best head", "average over heads"),
    )


def _heatmap_figure(run: RunAnalysis, layer: int | None) -> Figure:
    weights = run.heatmap["cross"]  # [layers, heads, queries, keys]
    if layer is None:
        best = min(run.alignment, key=lambda found: found.best.error_rate, default=None)
        layer = len(weights) - 1 if best is None else best.layer
    source, target = run.heatmap_subwords
    return plots.heatmap(
        plots.readable(target),
        plots.readable(source),
        weights[layer],
        panels=[f"head {head}" for head in range(weights.shape[1])],
        title=f"{run.name}: cross-attention ({run.attention['cross']}), layer {layer}",
    )
