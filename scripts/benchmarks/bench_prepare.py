"""Seconds and peak memory of every stage of preparation, for corpora of several sizes.

    python scripts/benchmarks/bench_prepare.py --pairs 500000 2000000 --json prepare.json

writes a corpus of short lines for each size, prepares it in a process of its own through the real stages (reading,
cleaning with de-duplication, sub-words, encoding), and samples that process' resident memory. From the two largest
sizes it extrapolates bytes per pair, and what 40 million pairs would take. Needs /proc.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

from bench_encode import write_corpus
from harness import environment, make_parser, write_document

from nmt_rela.config.schema import DataConfig
from nmt_rela.preparation.pipeline import prepare

FULL_SIZE = 40_000_000
GIBIBYTES = 4.0


def prepare_corpus(task: Path, directory: Path, sample: int) -> None:
    """What the measured process does."""
    settings = DataConfig(
        task=str(task),
        source_language="xx",
        target_language="yy",
        data_dir=str(directory),
        vocabulary_size=8000,
        tokenizer_sample_size=sample,
    )
    counts = prepare(settings).counts["total"]
    print(f"  {counts['read']:,} pairs, {counts['kept']:,} kept; dropped: {counts['dropped']}", flush=True)


def resident_bytes(process: int) -> int:
    """Resident memory of a process; 0 when it is gone."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmRSS:")), 0)


def measure(pairs: int, *, words: float, sample: int, scratch: Path | None) -> dict[str, dict[str, float]]:
    """Seconds and peak bytes by stage; "start" is what comes before the first."""
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        root = Path(name)
        write_corpus(root / "corpus", pairs, words)
        arguments = (root / "corpus/generated.yaml", root / "out", sample)
        process = multiprocessing.get_context("spawn").Process(target=prepare_corpus, args=arguments)
        process.start()
        assert process.pid is not None
        stages: dict[str, dict[str, float]] = {}
        stage, begun = "start", time.perf_counter()
        while process.is_alive():
            at_work = next((path.name.split("-")[0] for path in root.glob("out/generated-xx-yy/[!.]*.partial")), stage)
            now = time.perf_counter()
            stage, begun = (at_work, now) if at_work != stage else (stage, begun)
            figures = stages.setdefault(stage, {"seconds": 0.0, "peak_bytes": 0.0})
            figures["seconds"] = round(now - begun, 1)
            figures["peak_bytes"] = max(figures["peak_bytes"], resident_bytes(process.pid))
            time.sleep(0.02)
        process.join()
        if process.exitcode:
            raise RuntimeError("the preparation failed")
    return stages


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--pairs", type=int, nargs="+", default=[500_000, 2_000_000], help="sizes, smaller first")
    parser.add_argument("--words", type=float, default=4.0, help="words in a line, on average")
    parser.add_argument("--sample", type=int, default=50_000, help="data.tokenizer_sample_size")
    parser.add_argument("--directory", type=Path, help="where the temporary corpora go (about 200 bytes per pair)")
    options = parser.parse_args()
    sizes: list[int] = options.pairs
    measured: dict[int, dict[str, dict[str, float]]] = {}
    for pairs in sizes:
        measured[pairs] = measure(pairs, words=options.words, sample=options.sample, scratch=options.directory)
    result: dict[str, Any] = {"measured": measured, "full_size": FULL_SIZE, "reckoned_bytes": {}}
    heads = "".join(f"{f'{pairs:,} pairs':>26}" for pairs in sizes)
    print(f"{'stage':<10}{heads}{'bytes per pair':>16}{f'at {FULL_SIZE:,}':>18}")
    for stage in measured[sizes[-1]]:
        row = [sizes_measured.get(stage, {"seconds": 0.0, "peak_bytes": 0.0}) for sizes_measured in measured.values()]
        slope = 0.0
        if len(sizes) > 1 and row[-2]["peak_bytes"]:
            slope = max(row[-1]["peak_bytes"] - row[-2]["peak_bytes"], 0.0) / (sizes[-1] - sizes[-2])
        full = row[-1]["peak_bytes"] + slope * (FULL_SIZE - sizes[-1])
        result["reckoned_bytes"][stage] = round(full)
        cells = "".join(f"{entry['seconds']:>12.0f} s{entry['peak_bytes'] / 2**20:>8,.0f} MiB" for entry in row)
        print(f"{stage:<10}{cells}{slope:>16.1f}{full / 2**30:>14.2f} GiB")
    write_document(options.json, {**environment(), **result})
    return 0 if max(result["reckoned_bytes"].values()) <= GIBIBYTES * 2**30 else 1


if __name__ == "__main__":
    raise SystemExit(main())
