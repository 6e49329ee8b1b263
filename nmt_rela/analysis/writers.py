"""What an analysis writes: JSON, CSV tables, tables for the terminal, Pharaoh alignments, the page and the plots.

docs/analysis.md describes the files.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nmt_rela.analysis import plots
from nmt_rela.analysis.alignment import AVERAGE, MODES, LayerAlignment
from nmt_rela.analysis.data import AnalysisData
from nmt_rela.analysis.head_ablation import Head
from nmt_rela.analysis.html_page import LivePart, PageRun, write_page
from nmt_rela.analysis.pipeline import RunAnalysis
from nmt_rela.analysis.statistics import LayerStatistics, pool_layers
from nmt_rela.generation.heatmap import SITE_TITLES, heatmap, readable
from nmt_rela.metrics.word_alignment import AlignmentCounts
from nmt_rela.models.transformer import ATTENTION_SITES
from nmt_rela.utils.files import atomic_write
from nmt_rela.utils.text import write_lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Version of ``analysis.json``. It changes when a key changes its meaning.
FORMAT = 1
#: Sentences that the live page proposes at most.
LIVE_EXAMPLES = 50
#: Fields of a run that are written as they are.
_PLAIN_FIELDS = (
    "name", "sentences", "overlength", "source_subwords", "target_subwords", "loss", "alignment_left_out",
    "log_probability_correlations", "head_ablation", "quality",
)  # fmt: skip
#: What an analysis writes besides its three tables.
_REPLACED = (
    "attention.html", "live.html", "alignments/*/layer*.txt", "plots/*_by_layer.*", "plots/null_rate_histogram.*",
    "plots/heatmap.*", "plots/head_ablation.*",
)  # fmt: skip


def write_analysis(
    directory: Path, data: AnalysisData, runs: Sequence[RunAnalysis], *, live: LivePart | None = None
) -> list[Path]:
    """Write everything except the plots; the paths to show to the user. ``live`` asks for the page with models."""
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
            write_lines(alignments / file_name(run.name) / f"layer{layer}.{label}.{mode}.txt", lines)
    pages = [_page_run(run) for run in runs]
    names = _enumeration([run.name for run in runs])
    if live:
        written.append(
            write_page(
                directory / "live.html",
                pages,
                data.lines[:LIVE_EXAMPLES],
                title=f"Live attention of {names}",
                subtitle=f"examples and numbers by layer: {data.name}",
                live=live,
            )
        )
    shown = max((len(run.page) for run in runs), default=0)
    if shown:
        first = f", the first {shown} here" if shown < len(data.lines) else ""
        written.append(
            write_page(
                directory / "attention.html",
                pages,
                data.lines[:shown],
                title=f"Attention of {names} on {data.name}",
                subtitle=f"{len(data.lines):,} sentence pairs{first}; the target is the reference translation",
            )
        )
    return written


def _enumeration(names: Sequence[str]) -> str:
    """a, b and c"""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows below a header line. A value of None becomes an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def file_name(name: str) -> str:
    """The name with other characters as %XX, so that different runs have different files."""
    return re.sub(r"[^\w.-]", lambda found: f"%{ord(found[0]):02X}", name)


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


def analysis_json(data: AnalysisData, runs: Sequence[RunAnalysis]) -> dict[str, Any]:
    """The content of ``analysis.json``."""
    return {
        "format": FORMAT,
        "text": {"name": data.name, "sentences": len(data.lines), "gold": data.gold is not None},
        "runs": [_run_json(run) for run in runs],
    }


def _run_json(run: RunAnalysis) -> dict[str, Any]:
    return {
        **{name: getattr(run, name) for name in _PLAIN_FIELDS},
        "attention": dict(run.attention),
        "sites": pool_layers(run.layers),
        "layers": [asdict(layer) for layer in run.layers],
        "alignment": [
            {
                "layer": found.layer,
                "mode": found.mode,
                "best_head": found.best_head,
                "heads": [_counts_json(head) for head in found.heads],
                "average": _counts_json(found.average),
            }
            for found in run.alignment
        ],
    }


def _counts_json(counts: AlignmentCounts) -> dict[str, Any]:
    fields = ("precision", "recall", "links", "sure")
    return {"aer": counts.error_rate} | {name: getattr(counts, name) for name in fields}


def head_rows(runs: Sequence[RunAnalysis]) -> list[dict[str, Any]]:
    """The rows of ``heads.csv``, one per head."""
    rows = []
    for run in runs:
        error_rates = {mode: head_error_rates(run, mode) for mode in MODES}
        changes = loss_changes(run)
        for layer in run.layers:
            for head in range(layer.heads):
                key = (layer.site, layer.layer, head)
                row: dict[str, Any] = {"run": run.name, "site": layer.site, "layer": layer.layer, "head": head}
                row |= {name: getattr(layer, name)[head] for name in ("sparsity", "null_rate", "mass", "entropy")}
                row |= {f"aer_{mode}": error_rates[mode].get(key) for mode in MODES}
                rows.append(row | {"loss_change": changes.get(key)})
    return rows


def layer_rows(runs: Sequence[RunAnalysis]) -> list[dict[str, Any]]:
    """The rows of ``layers.csv``, one per layer."""
    rows = []
    for run in runs:
        alignment = {(found.layer, found.mode): found for found in run.alignment}
        for layer in run.layers:
            row: dict[str, Any] = {"run": run.name}
            row |= {name: getattr(layer, name) for name in ("site", "layer", "queries", "positions")}
            row |= {"sparsity": layer.mean_sparsity, "null_rate": layer.mean_null_rate}
            row |= {name: value for name, value in asdict(layer).items() if name.startswith("diversity")}
            for mode in MODES:
                found = alignment.get((layer.layer, mode)) if layer.site == "cross" else None
                row[f"aer_{mode}_best"] = found.best.error_rate if found else None
                row[f"aer_{mode}_best_head"] = found.best_head if found else None
                row[f"aer_{mode}_average"] = found.average.error_rate if found else None
            rows.append(row)
    return rows


def head_error_rates(run: RunAnalysis, mode: str) -> dict[Head, float]:
    """The AER of every cross-attention head; empty without gold alignments."""
    return {
        ("cross", layer.layer, head): counts.error_rate
        for layer in run.alignment
        if layer.mode == mode
        for head, counts in enumerate(layer.heads)
    }


def loss_changes(run: RunAnalysis) -> dict[Head, float]:
    """The rise of the loss without each head; empty without head ablation."""
    effects = run.head_ablation["effects"] if run.head_ablation else ()
    return {(effect["site"], effect["layer"], effect["head"]): effect["loss_change"] for effect in effects}


def statistics_table(runs: Sequence[RunAnalysis]) -> str:
    """Sparsity rate, null rate and head diversity by site and layer, for the terminal."""
    rows = []
    for run in runs:
        for site in pool_layers(run.layers):
            label = f"{site['site']} ({run.attention[site['site']]})"
            rows.append([run.name, label, "all", *_rates(site["sparsity"], site["null_rate"], site["diversity"])])
            rows += [
                [run.name, "", str(layer.layer), *_rates(layer.mean_sparsity, layer.mean_null_rate, layer.diversity)]
                for layer in run.layers
                if layer.site == site["site"]
            ]
    header = ["run", "site", "layer", "sparsity", "null rate", "diversity"]
    if len(runs) > 1:
        return text_table(header, rows, left=2)
    return text_table(header[1:], [row[1:] for row in rows])


def _rates(sparsity: float, null_rate: float, diversity: float | None) -> list[str]:
    return [_percent(sparsity), _percent(null_rate), "–" if diversity is None else f"{diversity:.3f}"]


def alignment_table(runs: Sequence[RunAnalysis]) -> str:
    """AER by layer, normal and shifted, of the best head and of the head average; then the lowest of each run."""
    rows, notes = [], []
    for run in runs:
        if not run.alignment:
            notes.append(f"{run.name}: no alignment, because no pair's sub-words form the words of its line")
            continue
        by_mode = {mode: {found.layer: found for found in run.alignment if found.mode == mode} for mode in MODES}
        for layer in by_mode["normal"]:
            cells = [cell for mode in MODES for cell in _alignment_cells(by_mode[mode][layer])]
            rows.append([run.name, str(layer), *cells])
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


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Columns of text: the first ``left`` are left-aligned, the others right-aligned."""
    table = [list(header), *map(list, rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    lines = []
    for row in table:
        cells = [
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def write_plots(
    directory: Path, runs: Sequence[RunAnalysis], *, layer: int | None = None, formats: Sequence[str] = ("png",)
) -> list[Path]:
    """Draw and write every plot for which there are values; the paths.

    ``layer`` is the cross-attention layer of the heatmap (default: the best aligned layer, or the last).
    """

    def per_layer(value: Callable[[LayerStatistics], Any]) -> dict[str, dict[str, list[Any]]]:
        """title of the site → run → one value per layer"""
        return {
            title: {run.name: [value(layer) for layer in _layers(run, site)] for run in runs}
            for site, title in SITE_TITLES.items()
        }

    null_rates = per_layer(lambda layer: layer.null_rate)
    figures = {
        "sparsity_by_layer": plots.by_layer(
            per_layer(lambda layer: layer.mean_sparsity), dots=per_layer(lambda layer: layer.sparsity),
            ylabel="sparsity rate", ylim=(0, 1),
        ),
        "null_rate_by_layer": plots.by_layer(
            per_layer(lambda layer: layer.mean_null_rate), dots=null_rates, ylabel="null rate", ylim=(0, 1)
        ),
        "diversity_by_layer": plots.by_layer(per_layer(lambda layer: layer.diversity), ylabel="head diversity (nats)"),
        "null_rate_histogram": plots.histogram(
            {title: {run: sum(rates, ()) for run, rates in series.items()} for title, series in null_rates.items()},
            xlabel="null rate of a head",
        ),
    }  # fmt: skip
    if any(run.alignment for run in runs):
        figures["aer_by_layer"] = _aer_figure(runs)
    for run in runs:
        if run.head_ablation is not None:
            changes = loss_changes(run)
            figures[f"head_ablation.{file_name(run.name)}"] = plots.head_grid(
                {title: np.array(_head_matrix(run, changes, site), dtype=float) for site, title in SITE_TITLES.items()},
                label=f"{run.name}: rise of the loss without a head (nats per sub-word)",
            )
        if run.heatmap:
            figures[f"heatmap.{file_name(run.name)}"] = _heatmap_figure(run, layer)
    return [path for name, figure in figures.items() for path in plots.save(figure, directory / name, formats)]


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
    return heatmap(
        readable(target),
        readable(source),
        weights[layer],
        panels=[f"head {head}" for head in range(weights.shape[1])],
        title=f"{run.name}: cross-attention ({run.attention['cross']}), layer {layer}",
    )
