#!/usr/bin/env python3
"""Write the tables of docs/performance.md that were measured on a GPU, from a report of `make gpu-check`.

The report is the newest in docs/measurements/, or the one given. The section between the two markers is replaced.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs/performance.md"
MEASUREMENTS = REPOSITORY / "docs/measurements"
BEGIN = "<!-- made by scripts/tools/gpu_tables.py: begin -->"
END = "<!-- made by scripts/tools/gpu_tables.py: end -->"

NOTHING = "Nothing is measured on a GPU yet. `make gpu-check` measures it: [measurements](measurements/README.md)."

#: A stage's entry in the report.
Entry = Mapping[str, Any]


def newest_report() -> dict[str, Any] | None:
    """The report of the latest date in docs/measurements/; None where there is none."""
    reports = [(json.loads(path.read_bytes()), path.name) for path in sorted(MEASUREMENTS.glob("*.json"))]
    if not reports:
        return None
    report, name = max(reports, key=lambda found: found[0]["date"])
    return {**report, "file": name}


def render(report: Mapping[str, Any] | None) -> str:
    """The section between the markers, without them."""
    if report is None:
        return NOTHING + "\n"
    return "\n".join(_lines(report)) + "\n"


def replace_section(page: str, section: str) -> str:
    """The page with another section between the markers. Raises ValueError where it has no markers."""
    before, rest = page.split(f"{BEGIN}\n", 1)
    _, after = rest.split(END, 1)
    return f"{before}{BEGIN}\n\n{section}\n{END}{after}"


def _lines(report: Mapping[str, Any]) -> Iterator[str]:
    stages: dict[str, Entry] = report["stages"]
    results: dict[str, Any] = {name: entry.get("result") for name, entry in stages.items()}
    yield from _machine(report, results.get("device"))
    yield from _states(report, stages)
    for title, part in (
        ("Ceilings", _ceilings(results.get("device"))),
        ("Kernels against the float64 reference", _kernels(results.get("kernels against reference"))),
        ("Translation quality", _quality(results)),
        ("Training speed: Transformer base", _training(results)),
        ("Decoding speed: Transformer base", _decoding(results.get("decoding speed"))),
        ("Attention alone, forward and backward", _attention(results)),
    ):
        found = list(part)
        if found:
            yield from ["", f"### {title}", "", *found]


def _machine(report: Mapping[str, Any], device: Mapping[str, Any] | None) -> Iterator[str]:
    source = f"[{report['file']}](measurements/{report['file']})" if "file" in report else "the report"
    if device is None:
        yield f"From {source}, {report['date']}. The device is not known: its stage has not passed."
        return
    versions = [f"Python {device['python']}", f"torch {device['torch']}"]
    versions += [f"{name} {device[key]}" for name, key in (("Triton", "triton"), ("cuDNN", "cudnn")) if device.get(key)]
    yield f"{device['device']}, {', '.join(versions)}. `make gpu-check`, {report['date']}, {source}."


def _states(report: Mapping[str, Any], stages: Mapping[str, Entry]) -> Iterator[str]:
    missed = [f"{name} ({entry['status']})" for name, entry in stages.items() if entry["status"] != "passed"]
    missed += [f"{name} (left out: {reason})" for name, reason in report["left_out"].items()]
    passed = sum(entry["status"] == "passed" for entry in stages.values())
    yield f"{passed} of {len(stages)} stages passed." + (f" The others: {'; '.join(missed)}." if missed else "")
    device = (stages.get("device") or {}).get("result") or {}
    for backend, state in device.get("kernels", {}).items():
        if state != "used":
            yield f"The reference computes what {backend} would: {state}."


def _ceilings(device: Mapping[str, Any] | None) -> Iterator[str]:
    if device is None:
        return
    rows = [["memory copy, bytes read and written", f"{device['copy_tb_per_second']:.2f} TB/s"]]
    rows += [[f"bf16 matmul, {shape}", f"{rate:,.0f} TFLOP/s"] for shape, rate in device["matmul_tflops"].items()]
    yield from _table(["ceiling", "rate"], rows)
    rows = []
    for name, found in device["fused_attention"].items():
        if "error" in found:
            rows.append([name, "raises an error", "", "", ""])
        else:
            times = [f"{1e3 * seconds:.1f}" for seconds in found["seconds_new_new_seen"]]
            rows.append([name, *times, _percent(found["dropped"], 1)])
    yield ""
    header = ["PyTorch's fused attention", "new shape, ms", "another, ms", "seen shape, ms", "dropped at p = 0.1"]
    yield from _table(header, rows)


def _kernels(found: Mapping[str, str | None] | None) -> Iterator[str]:
    rows: dict[str, dict[str, str]] = {}
    for name, problem in (found or {}).items():
        what, dtype = name.split(", ")
        rows.setdefault(what, {})[dtype] = problem or "agrees"
    if rows:
        dtypes = next(iter(rows.values()))
        yield from _table(["", *dtypes], [[what, *cells.values()] for what, cells in rows.items()])


def _quality(results: Mapping[str, Any]) -> Iterator[str]:
    rows, variants = [], list(dict.fromkeys(name.split()[1] for name in results if name.startswith("demo ")))
    for task, title in (("demo", "demo corpus"), ("multi30k", "Multi30k, test 2016")):
        found = {variant: results.get(f"{task} {variant}") for variant in variants}
        known = next((result for result in found.values() if result), None)
        if known:
            scores = [next(iter(r["tests"].values()))["bleu"] if r else None for r in found.values()]
            cells = ["" if score is None else f"{score:.1f}" for score in scores]
            rows.append([f"{title}, {known['updates']:,} updates", *cells])
    if rows:
        yield from _table(["BLEU, one seed", *variants], rows)


def _training(results: Mapping[str, Any]) -> Iterator[str]:
    for number, name in enumerate(("training speed", "training speed, small")):
        document = results.get(name)
        if document is None:
            continue
        yield from [""] * bool(number)
        yield (
            f"Updates of {document['update_tokens']:,} padded tokens, micro-batches of at most "
            f"{document['max_batch_tokens']:,}, {document['precision']}; large matmul "
            f"{document['matmul_gflops'] / 1e3:,.0f} TFLOP/s in the same rounds."
        )
        yield ""
        rows = [
            [
                row["attention"],
                f"{row['tokens_per_second']:,.0f} ({row['lowest']:,.0f}–{row['highest']:,.0f})",
                f"{row['ratio']:.2f}",
                _percent(row["matmul_fraction"]),
            ]
            for row in document["rows"]
        ]
        yield from _table(["model", "target tokens/s", "ratio", "fraction of the matmul rate"], rows)


def _decoding(document: Mapping[str, Any] | None) -> Iterator[str]:
    if document is None:
        return
    yield f"Random weights, {document['sentences']:,} sentences, all outputs of equal length."
    yield ""
    latency = {(row["subject"], row["beam"]): f"{row['p50_ms']:.1f}" for row in document["latency"]}
    rows = [
        [
            row["subject"],
            str(row["beam"]),
            f"{row['batch_tokens']:,}",
            f"{row['sentences_per_second']:,.0f}",
            f"{row['tokens_per_second']:,.0f}",
            f"{row['ratio']:.2f}",
            "" if row["memory_read_fraction"] is None else _percent(row["memory_read_fraction"]),
            latency.get((row["subject"], row["beam"]), ""),
        ]
        for row in document["throughput"]
    ]
    header = ["model", "beam", "batch tokens", "sentences/s", "tokens/s", "ratio", "reads of the copy rate"]
    yield from _table([*header, "one sentence, ms"], rows)


def _attention(results: Mapping[str, Any]) -> Iterator[str]:
    begun = False
    for name in ("attention", "attention, causal"):
        document = results.get(name)
        if document is None:
            continue
        yield from [""] * begun
        begun = True
        settings = document["settings"]
        yield (
            f"Milliseconds, {'causal' if settings['causal'] else 'no mask'}, dropout {settings['dropout']}, "
            f"{settings['dtype']}, {settings['heads']} heads of {settings['width']}, {settings['tokens']:,} tokens; "
            "in brackets the ratio to PyTorch's fused attention (sdpa)."
        )
        yield ""
        rows = document["rows"]
        lengths = list(dict.fromkeys(row["length"] for row in rows))
        cells = {
            (row["variant"], row["length"]): f"{row['milliseconds']:.2f} ({row['against_sdpa']:.2f})" for row in rows
        }
        names = dict.fromkeys(row["variant"] for row in rows)
        header = ["attention", *(f"{length:,} keys" for length in lengths)]
        yield from _table(header, [[each, *(cells.get((each, n), "") for n in lengths)] for each in names])


def _percent(fraction: float, digits: int = 0) -> str:
    return f"{100 * fraction:.{digits}f} %"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for cells in (header, ["---"] * len(header), *rows):
        yield f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", nargs="?", type=Path, help="gpu_check.json (default: newest in docs/measurements)")
    options = parser.parse_args(arguments)
    report = newest_report() if options.report is None else json.loads(options.report.read_bytes())
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(replace_section(page, render(report)), encoding="utf-8")
    print(f"written: {PAGE.relative_to(REPOSITORY)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
