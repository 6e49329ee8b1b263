"""An analysis as plain values: JSON, rows of CSV tables, tables for the terminal. docs/analysis.md describes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from nmt_rela.analysis.alignment import MODES, LayerAlignment
from nmt_rela.analysis.data import AnalysisData
from nmt_rela.analysis.head_ablation import Head
from nmt_rela.analysis.pipeline import RunAnalysis
from nmt_rela.analysis.statistics import LayerStatistics, SiteStatistics, pool_layers
from nmt_rela.metrics.word_alignment import AlignmentCounts

#: Version of ``analysis.json``. It changes when a key changes its meaning.
FORMAT = 1
#: Fields of a run that are written as they are.
_PLAIN_FIELDS = (
    "name", "sentences", "overlength", "source_subwords", "target_subwords", "loss", "alignment_left_out",
)  # fmt: skip


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
        "sites": [asdict(site) for site in pool_layers(run.layers)],
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
        "log_probability_correlations": [asdict(found) for found in run.log_probability_correlations],
        "head_ablation": None if run.head_ablation is None else asdict(run.head_ablation),
        "quality": None if run.quality is None else asdict(run.quality),
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
    effects = run.head_ablation.effects if run.head_ablation else ()
    return {(effect.site, effect.layer, effect.head): effect.loss_change for effect in effects}


def statistics_table(runs: Sequence[RunAnalysis]) -> str:
    """Sparsity rate, null rate and head diversity by site and layer, for the terminal."""
    rows = []
    for run in runs:
        for site in pool_layers(run.layers):
            label = f"{site.site} ({run.attention[site.site]})"
            rows.append([run.name, label, "all", *_rates(site, site.sparsity, site.null_rate)])
            rows += [
                [run.name, "", str(layer.layer), *_rates(layer, layer.mean_sparsity, layer.mean_null_rate)]
                for layer in run.layers
                if layer.site == site.site
            ]
    header = ["run", "site", "layer", "sparsity", "null rate", "diversity"]
    if len(runs) > 1:
        return text_table(header, rows, left=2)
    return text_table(header[1:], [row[1:] for row in rows])


def _rates(found: LayerStatistics | SiteStatistics, sparsity: float, null_rate: float) -> list[str]:
    diversity = "–" if found.diversity is None else f"{found.diversity:.3f}"
    return [_percent(sparsity), _percent(null_rate), diversity]


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
