"""Plan and iterate one epoch of a large corpus: seconds and peak memory.

Writes a corpus of random short lines (40 million pairs by default, about 2.7 GB, in a temporary directory that is
removed), then, in the same process: opens it, plans an epoch, and iterates it twice, once over the plan alone and once
with every pair read from the files and put into padded tensors. Prints a table; ``--json`` also writes it to a file.
The exit status is 1 when planning plus walking the plan, or the peak memory, misses its bar. The peak counts the mapped
pages of the corpus too, which the system takes back when memory is short; planning itself reads only the offsets.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from harness import environment, make_parser, peak_resident_bytes, write_document

from nmt_rela.data.batch_plan import BatchPlan, plan_epoch
from nmt_rela.data.data_loader import iterate_updates
from nmt_rela.data.indexed_dataset import ParallelDataset, write_dataset

SECONDS, GIBIBYTES = 60.0, 4.0
VOCABULARY = 32_000
CHUNK = 1 << 20


def write_corpus(
    directory: Path, *, pairs: int, mean_length: float, vocabulary: int = VOCABULARY, fingerprint: str = "bench"
) -> None:
    """Random ids; source lengths log-normal, target lengths within about a third of them."""
    random = np.random.default_rng(1)
    with write_dataset(
        directory,
        source_vocabulary_size=vocabulary,
        target_vocabulary_size=vocabulary,
        vocabulary_fingerprint=fingerprint,
    ) as writer:
        for start in range(0, pairs, CHUNK):
            count = min(CHUNK, pairs - start)
            wanted = mean_length * np.exp(0.5 * random.standard_normal(count) - 0.125)
            source = np.clip(wanted, 1, 255).astype(np.int32)
            target = np.clip(wanted * random.uniform(0.7, 1.3, count), 1, 255).astype(np.int32)
            ids = [random.integers(4, vocabulary, int(lengths.sum()), dtype=np.uint16) for lengths in (source, target)]
            writer.append(ids[0], source, ids[1], target)


def walk(plan: BatchPlan) -> int:
    """Visit every update of the plan; the number of pairs seen."""
    return sum(len(plan.pairs(update)) for update in range(plan.num_updates))


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--pairs", type=int, default=40_000_000)
    parser.add_argument("--mean-length", type=float, default=12.0, help="mean sub-words per side")
    parser.add_argument("--update-tokens", type=int, default=25_000)
    parser.add_argument("--max-batch-tokens", type=int, default=16_384)
    parser.add_argument("--directory", type=Path, help="where the temporary corpus goes (about 70 bytes per pair)")
    options = parser.parse_args()
    pairs: int = options.pairs

    figures: dict[str, float] = {}

    def timed(name: str, work: Callable[[], int]) -> int:
        begun = time.perf_counter()
        result = work()
        figures[f"{name}_seconds"] = round(time.perf_counter() - begun, 2)
        figures[f"{name}_peak_gib"] = round(peak_resident_bytes() / 2**30, 2)
        print(f"{name:<28}{figures[f'{name}_seconds']:>10.1f} s{figures[f'{name}_peak_gib']:>10.2f} GiB", flush=True)
        return result

    print(f"{'stage':<28}{'time':>12}{'peak so far':>14}")
    with tempfile.TemporaryDirectory(dir=options.directory) as scratch:
        path = Path(scratch) / "corpus"

        def write() -> int:
            write_corpus(path, pairs=pairs, mean_length=options.mean_length)
            return pairs

        timed("write", write)
        corpus = ParallelDataset(path)
        timed("lengths", lambda: len(corpus.source_lengths) + len(corpus.target_lengths))
        plans: list[BatchPlan] = []

        def make_plan() -> int:
            plans.append(
                plan_epoch(
                    corpus.source_lengths,
                    corpus.target_lengths,
                    update_tokens=options.update_tokens,
                    seed=1,
                    epoch=0,
                )
            )
            return plans[0].num_updates

        figures["updates"] = timed("plan", make_plan)
        plan = plans[0]
        if timed("walk", lambda: walk(plan)) != pairs:
            raise RuntimeError("the plan lost pairs")

        def load() -> int:
            updates = iterate_updates(corpus, plan, max_batch_tokens=options.max_batch_tokens)
            return sum(batch.source.size(0) for update in updates for batch in update)

        if timed("load", load) != pairs:
            raise RuntimeError("the loader lost pairs")
        figures["pairs"] = pairs
        figures["padding_fraction"] = round(plan.padding_fraction(corpus.source_lengths, corpus.target_lengths), 4)

    seconds = figures["lengths_seconds"] + figures["plan_seconds"] + figures["walk_seconds"]
    peak = peak_resident_bytes() / 2**30
    kept = seconds <= SECONDS and peak <= GIBIBYTES
    figures |= {"plan_and_walk_seconds": round(seconds, 2), "peak_gib": round(peak, 2)}
    print(f"{figures['updates']:,} updates, {figures['padding_fraction']:.2%} padding")
    print(f"lengths + plan + walk {seconds:.1f} s (bar {SECONDS:.0f} s), peak {peak:.2f} GiB (bar {GIBIBYTES:.0f} GiB)")
    write_document(options.json, {**environment(), **figures})
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
