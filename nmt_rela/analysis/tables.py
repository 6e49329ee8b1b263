"""An analysis as JSON and CSV; docs/analysis.md describes every key and column."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nmt_rela.analysis.alignment import MODES, LayerAlignment
from nmt_rela.analysis.head_ablation import Head
from nmt_rela.analysis.pipeline import AnalysisData, RunAnalysis
from nmt_rela.analysis.statistics import pool_layers
from nmt_rela.metrics.word_alignment import AlignmentCounts
from nmt_rela.utils.text import atomic_write

FORMAT = 1


def as_json(text: AnalysisData, runs: Sequence[RunAnalysis]) -> dict[str, Any]:
    """The whole analysis as plain values."""
    return {
        "format": FORMAT,
        "text": {"name": text.name, "sentences": len(text.lines), "gold": text.gold is not None},
        "runs": [_run(run) for run in runs],
    }


def _run(run: RunAnalysis) -> dict[str, Any]:
    return {
        "name": run.name,
        "attention": dict(run.attention),
        "sentences": run.sentences,
        "overlong": run.overlong,
        "source_subwords": run.source_subwords,
        "target_subwords": run.target_subwords,
        "loss": run.loss,
        "sites": [asdict(site) for site in pool_layers(run.layers)],
        "layers": [asdict(layer) for layer in run.layers],
        "alignment": [_alignment(layer) for layer in run.alignment],
        "alignment_left_out": run.alignment_left_out,
        "log_probability_correlations": [asdict(found) for found in run.log_probability_correlations],
        "head_ablation": None if run.ablation is None else asdict(run.ablation),
        "quality": None if run.quality is None else asdict(run.quality),
    }


def _alignment(layer: LayerAlignment) -> dict[str, Any]:
    return {
        "layer": layer.layer,
        "mode": layer.mode,
        "best_head": layer.best_head,
        "heads": [_counts(head) for head in layer.heads],
        "average": _counts(layer.average),
    }


def _counts(counts: AlignmentCounts) -> dict[str, Any]:
    return {
        "aer": counts.error_rate,
        "precision": counts.precision,
        "recall": counts.recall,
        "links": counts.links,
        "sure": counts.sure,
    }


def head_rows(runs: Sequence[RunAnalysis]) -> list[dict[str, Any]]:
    """One row a head: the columns of ``heads.csv``."""
    rows = []
    for run in runs:
        aer = error_rates(run)
        costs = loss_changes(run)
        for layer in run.layers:
            for head in range(layer.heads):
                key = (layer.site, layer.layer, head)
                rows.append(
                    {
                        "run": run.name,
                        "site": layer.site,
                        "layer": layer.layer,
                        "head": head,
                        "sparsity": layer.sparsity[head],
                        "null_rate": layer.null_rate[head],
                        "mass": layer.mass[head],
                        "entropy": layer.entropy[head],
                        **{f"aer_{mode}": aer[mode].get(key) for mode in MODES},
                        "loss_change": costs.get(key),
                    }
                )
    return rows


def layer_rows(runs: Sequence[RunAnalysis]) -> list[dict[str, Any]]:
    """One row a layer: the columns of ``layers.csv``."""
    rows = []
    for run in runs:
        alignment = {(found.layer, found.mode): found for found in run.alignment}
        for layer in run.layers:
            row: dict[str, Any] = {
                "run": run.name,
                "site": layer.site,
                "layer": layer.layer,
                "queries": layer.queries,
                "positions": layer.positions,
                "sparsity": layer.mean_sparsity,
                "null_rate": layer.mean_null_rate,
                "diversity": layer.diversity,
                "diversity_queries": layer.diversity_queries,
                "diversity_null_rows": layer.diversity_null_rows,
                "diversity_softmax": layer.diversity_softmax,
            }
            for mode in MODES:
                found = alignment.get((layer.layer, mode)) if layer.site == "cross" else None
                row[f"aer_{mode}_best"] = found.best.error_rate if found else None
                row[f"aer_{mode}_best_head"] = found.best_head if found else None
                row[f"aer_{mode}_average"] = found.average.error_rate if found else None
            rows.append(row)
    return rows


def error_rates(run: RunAnalysis) -> dict[str, dict[Head, float]]:
    """AER of every cross-attention head, by mode; empty without gold links."""
    rates: dict[str, dict[Head, float]] = {mode: {} for mode in MODES}
    for layer in run.alignment:
        for head, counts in enumerate(layer.heads):
            rates[layer.mode]["cross", layer.layer, head] = counts.error_rate
    return rates


def loss_changes(run: RunAnalysis) -> dict[Head, float]:
    """What switching each head off costs; empty without a head study."""
    return {(e.site, e.layer, e.head): e.loss_change for e in run.ablation.effects} if run.ablation else {}


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Write indented JSON, whole or not at all."""
    with atomic_write(path) as stream:
        stream.write((json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8"))
    return path


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows under a header line; what is not defined is an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with atomic_write(path) as stream:
        stream.write(text.getvalue().encode("utf-8"))
    return path


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Columns for a terminal: the first ``left`` are aligned left, the others right."""
    table = [list(header), *map(list, rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    lines = []
    for row in table:
        cells = [
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
