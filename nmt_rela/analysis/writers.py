"""What an analysis leaves behind: the table on the terminal, JSON, CSV, Pharaoh files, plots and the page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nmt_rela.analysis import plots
from nmt_rela.analysis.alignment import AVERAGE, MODES, LayerAlignment
from nmt_rela.analysis.head_ablation import Head
from nmt_rela.analysis.html_page import PageRun, write_page
from nmt_rela.analysis.pipeline import AnalysisData, RunAnalysis
from nmt_rela.analysis.statistics import LayerStatistics, pool_layers
from nmt_rela.analysis.tables import (
    as_json,
    error_rates,
    head_rows,
    layer_rows,
    loss_changes,
    text_table,
    write_csv,
    write_json,
)
from nmt_rela.models.transformer import SITES
from nmt_rela.utils.text import write_lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure


#: Rates a head has, and what their axis says.
_RATES = {"sparsity": "share of weights exactly 0", "null_rate": "share of rows all 0"}


def summary(runs: Sequence[RunAnalysis]) -> str:
    """Sparsity, null rate and diversity by site and layer: what the terminal shows."""
    rows = []
    for run in runs:
        name = [run.name] if len(runs) > 1 else []
        for site in pool_layers(run.layers):
            kind = run.attention[site.site]
            numbers = [_percent(site.sparsity), _percent(site.null_rate), _number(site.diversity)]
            rows.append([*name, f"{site.site} ({kind})", "all", *numbers])
            for layer in run.layers:
                if layer.site == site.site:
                    numbers = [
                        _percent(layer.mean_sparsity),
                        _percent(layer.mean_null_rate),
                        _number(layer.diversity),
                    ]
                    rows.append([*name, "", str(layer.layer), *numbers])
    header = ["site", "layer", "sparsity", "null rate", "diversity"]
    if len(runs) == 1:
        return text_table(header, rows)
    return text_table(["run", *header], rows, left=2)


def alignment_summary(runs: Sequence[RunAnalysis]) -> str:
    """AER by layer, normal and shifted: the best head and the head average; then the best of all."""
    rows, notes = [], []
    for run in runs:
        if not run.alignment:
            notes.append(f"{run.name}: no pair whose sub-words form the words of its line; no alignment")
            continue
        by_mode = {mode: {found.layer: found for found in run.alignment if found.mode == mode} for mode in MODES}
        for layer in by_mode["normal"]:
            cells = [_alignment_cells(by_mode[mode][layer]) for mode in MODES]
            rows.append([run.name, str(layer), *cells[0], *cells[1]])
        best = min(run.alignment, key=lambda found: found.best.error_rate)
        average = min(run.alignment, key=lambda found: found.average.error_rate)
        left_out = f"; {run.alignment_left_out} pairs left out, their words differ" if run.alignment_left_out else ""
        notes.append(
            f"{run.name}: AER {_percent(best.best.error_rate)} with head {best.best_head} of layer {best.layer}, "
            f"{best.mode}; {_percent(average.average.error_rate)} with the head average of layer {average.layer}, "
            f"{average.mode}{left_out}"
        )
    header = ["run", "layer", "normal best", "head", "average", "shifted best", "head", "average"]
    return text_table(header, rows) + "\n" + "\n".join(notes)


def _alignment_cells(found: LayerAlignment) -> list[str]:
    return [_percent(found.best.error_rate), str(found.best_head), _percent(found.average.error_rate)]


def write_all(directory: Path, text: AnalysisData, runs: Sequence[RunAnalysis]) -> list[Path]:
    """Everything but the plots; the paths that matter."""
    directory.mkdir(parents=True, exist_ok=True)
    written = [
        write_json(directory / "analysis.json", as_json(text, runs)),
        write_csv(directory / "layers.csv", layer_rows(runs)),
        write_csv(directory / "heads.csv", head_rows(runs)),
    ]
    for run in runs:
        for (layer, head, mode), lines in run.pharaoh.items():
            who = "average" if head == AVERAGE else f"head{head}"
            write_lines(directory / "alignments" / _file_name(run.name) / f"layer{layer}.{who}.{mode}.txt", lines)
    written.append(directory / "alignments")
    shown = max((len(run.page) for run in runs), default=0)
    if shown:
        subtitle = f"{text.name}, {len(text.lines):,} sentence pairs" + (
            f", the first {shown} here" if shown < len(text.lines) else ""
        )
        page = write_page(
            directory / "attention.html",
            [_page_run(run) for run in runs],
            text.lines[:shown],
            title="Attention",
            subtitle=subtitle,
        )
        written.append(page)
    return written


def _page_run(run: RunAnalysis) -> PageRun:
    measures, layer_measures = {}, {}
    rates = error_rates(run)
    for mode in MODES:
        if rates[mode]:
            measures[f"AER {mode}"] = {"cross": _head_matrix(run, rates[mode], "cross")}
            best = [found.best.error_rate for found in run.alignment if found.mode == mode]
            layer_measures[f"AER {mode}"] = {"cross": best}
    if run.ablation is not None:
        changes = loss_changes(run)
        measures["Loss without"] = {site: _head_matrix(run, changes, site) for site in SITES}
    return PageRun(
        name=run.name,
        attention=run.attention,
        sentences=run.page,
        statistics=run.layers,
        measures=measures,
        layer_measures=layer_measures,
    )


def _head_matrix(run: RunAnalysis, values: dict[Head, float], site: str) -> list[list[float | None]]:
    return [
        [values.get((site, layer.layer, head)) for head in range(layer.heads)] for layer in _of_site(run.layers, site)
    ]


def plot_all(
    directory: Path, runs: Sequence[RunAnalysis], *, layer: int | None = None, formats: Sequence[str] = ("png",)
) -> list[Path]:
    """Every plot there is something for. ``layer`` is the cross-attention layer of the heatmap."""
    written = []
    titles = plots.SITE_TITLES
    for name, ylabel in _RATES.items():
        heads = {
            run.name: {site: [getattr(layer, name) for layer in _of_site(run.layers, site)] for site in SITES}
            for run in runs
        }
        means = {
            titles[site]: {run: [sum(layer) / len(layer) for layer in found[site]] for run, found in heads.items()}
            for site in SITES
        }
        dots = {titles[site]: {run: found[site] for run, found in heads.items()} for site in SITES}
        figure = plots.by_layer(means, ylabel=ylabel, dots=dots, ylim=(0, 1))
        written += plots.save(figure, directory / f"{name}_by_layer", formats)
    diversity = {
        titles[site]: {run.name: [x.diversity for x in _of_site(run.layers, site)] for run in runs} for site in SITES
    }
    figure = plots.by_layer(diversity, ylabel="head diversity (nats)")
    written += plots.save(figure, directory / "diversity_by_layer", formats)
    rates = {
        titles[site]: {run.name: [rate for x in _of_site(run.layers, site) for rate in x.null_rate] for run in runs}
        for site in SITES
    }
    written += plots.save(
        plots.histogram(rates, xlabel="null rate of a head"), directory / "null_rate_histogram", formats
    )
    if any(run.alignment for run in runs):
        written += plots.save(_aer_figure(runs), directory / "aer_by_layer", formats)
    for run in runs:
        if run.ablation is not None:
            changes = loss_changes(run)
            figure = plots.head_grid(
                {titles[site]: np.array(_head_matrix(run, changes, site), dtype=float) for site in SITES},
                label=f"{run.name}: rise of the loss without a head (nats a sub-word)",
            )
            written += plots.save(figure, directory / f"head_ablation.{_file_name(run.name)}", formats)
        if run.picture:
            written += plots.save(_heat_map(run, layer), directory / f"heatmap.{_file_name(run.name)}", formats)
    return written


def _aer_figure(runs: Sequence[RunAnalysis]) -> Figure:
    def series(mode: str, of_average: bool) -> dict[str, list[float | None]]:
        return {
            run.name: [
                (found.average if of_average else found.best).error_rate
                for found in run.alignment
                if found.mode == mode
            ]
            for run in runs
        }

    return plots.by_layer(
        {mode: series(mode, False) for mode in MODES},
        dashed={mode: series(mode, True) for mode in MODES},
        ylabel="alignment error rate",
        xlabel="decoder layer",
        ylim=(0, 1),
        notes=("best head", "average over heads"),
    )


def _heat_map(run: RunAnalysis, layer: int | None) -> Figure:
    weights = run.picture["cross"]
    if layer is None:
        best = min(run.alignment, key=lambda found: found.best.error_rate, default=None)
        layer = len(weights) - 1 if best is None else best.layer
    layer = min(layer, len(weights) - 1)
    source, target = run.picture_tokens
    return plots.heatmap(
        plots.readable(target),
        plots.readable(source),
        weights[layer],
        panels=[f"head {head}" for head in range(weights.shape[1])],
        title=f"{run.name}: cross-attention ({run.attention['cross']}), layer {layer}",
    )


def _of_site(layers: Sequence[LayerStatistics], site: str) -> list[LayerStatistics]:
    return [layer for layer in layers if layer.site == site]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name)
