"""Speed of encoding text as a binary corpus, compared with SentencePiece alone on the same cores.

    python scripts/benchmarks/bench_encode.py --pairs 300000 --json encode.json

writes a corpus of short lines, learns its vocabulary and measures, interleaved (the table has medians):

* plain: SentencePiece encodes both sides from memory, with its own threads;
* ours: two text files are read, encoded and written as a binary corpus (what nmt-prepare does).

    python scripts/benchmarks/bench_encode.py --write CORPUS --pairs 40000000

writes such a corpus with a task file, for a trial of nmt-prepare at full size.
"""

from __future__ import annotations

import random
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sentencepiece
from harness import environment, interleave, make_parser, peak_resident_bytes, print_row, write_document

from nmt_rela.data.tokenizer import TokenizerPair
from nmt_rela.preparation.binarize import binarize
from nmt_rela.preparation.tokenizer_training import sample_evenly, train_sentencepiece
from nmt_rela.utils.processes import available_cores

_CONSONANTS, _VOWELS = "bcdfghjklmnprstvwz", "aeiou"


def vocabulary_of(generator: random.Random, words: int) -> list[str]:
    """Invented words, frequent ones short."""
    return [
        "".join(
            generator.choice(_CONSONANTS) + generator.choice(_VOWELS)
            for _ in range(1 + min(index.bit_length() // 4, 4))
        )
        for index in range(1, words + 1)
    ]


def lines(pairs: int, *, seed: int, words: float, vocabulary: int = 30_000) -> Iterator[str]:
    """Lines of invented words, drawn as natural text draws them (Zipf), ``words`` in one on average."""
    generator = random.Random(seed)
    known = vocabulary_of(generator, vocabulary)
    weights = [1 / (rank + 2) for rank in range(vocabulary)]
    pool = generator.choices(known, weights, k=1 << 20)
    for _ in range(pairs):
        length = max(int(generator.expovariate(1 / words)) + 1, 2)
        start = generator.randrange(len(pool) - 100)
        yield " ".join(pool[start : start + min(length, 100)])


def write_corpus(directory: Path, pairs: int, words: float) -> None:
    """Two aligned files of that many pairs, small sets, and a task file."""
    directory.mkdir(parents=True, exist_ok=True)
    for seed, language in enumerate(("xx", "yy")):
        for name, count in (("train", pairs), ("dev", 1000), ("test", 1000)):
            with open(directory / f"{name}.{language}", "w", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in lines(count, seed=seed, words=words))
    entries = [
        f"{split}: [{{name: {name}, files: {{xx: {name}.xx, yy: {name}.yy}}}}]\n"
        for split, name in (("train", "train"), ("dev", "dev"), ("tests", "test"))
    ]
    (directory / "generated.yaml").write_text("languages: [xx, yy]\n" + "".join(entries), "utf-8")


def timed(function: Callable[[], object]) -> tuple[float, float]:
    """Wall-clock seconds, and seconds of all processors (a fairer measure where other processes use them too)."""
    start, cpu = time.perf_counter(), processor_seconds()
    function()
    return time.perf_counter() - start, processor_seconds() - cpu


def processor_seconds() -> float:
    """Processor time of this process and its children so far."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure(directory: Path, *, pairs: int, cores: int, rounds: int, vocabulary_size: int) -> dict[str, Any]:
    """Sentences (of both sides) per second, plain and ours."""
    source, target = directory / "train.xx", directory / "train.yy"
    sample = (line for file in (source, target) for line in sample_evenly(file, lines=pairs, sample=100_000))
    tokenizer = train_sentencepiece(
        sample, algorithm="bpe", size=vocabulary_size, character_coverage=1.0, normalization="nmt_nfkc"
    )
    tokenizers = TokenizerPair(tokenizer, tokenizer)
    tokenizers.save(directory / "tokenizers")
    processor = sentencepiece.SentencePieceProcessor(model_file=str(directory / "tokenizers/joint.model"))
    texts = [file.read_text("utf-8").split("\n")[:pairs] for file in (source, target)]

    def plain() -> None:
        for text in texts:
            for start in range(0, pairs, 1 << 16):  # whole lists of ids would fill the memory
                processor.encode(text[start : start + (1 << 16)], out_type=int, num_threads=cores)

    def ours() -> None:
        binarize(
            source,
            target,
            tokenizers,
            directory / "corpus",
            lines=pairs,
            max_length=256,
            workers=cores,
        )

    results = interleave({"plain": lambda: timed(plain), "ours": lambda: timed(ours)}, rounds)
    rates, cpu_rates = (
        {name: 2 * pairs / statistics.median(pair[clock] for pair in times) for name, times in results.items()}
        for clock in (0, 1)
    )
    peak = max(map(peak_resident_bytes, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
    return {
        **environment(),
        "pairs": pairs,
        "cores": cores,
        "rounds": rounds,
        "sentences_per_second": {name: round(rate) for name, rate in rates.items()},
        "ratio": round(rates["ours"] / rates["plain"], 3),
        "sentences_per_processor_second": {name: round(rate) for name, rate in cpu_rates.items()},
        "processor_ratio": round(cpu_rates["ours"] / cpu_rates["plain"], 3),
        "largest_process_mib": peak >> 20,
    }


def main() -> None:
    parser = make_parser(__doc__, rounds=3)
    parser.add_argument("--pairs", type=int, default=300_000, help="pairs of the corpus")
    parser.add_argument("--words", type=float, default=18.0, help="words in a line, on average")
    parser.add_argument("--cores", type=int, default=available_cores(), help="threads of either way")
    parser.add_argument("--vocabulary", type=int, default=32_000, help="sub-words")
    parser.add_argument("--write", type=Path, metavar="DIRECTORY", help="only write a corpus")
    options = parser.parse_args()
    if options.write:
        write_corpus(options.write, options.pairs, options.words)
        print(f"{options.write}/generated.yaml: {options.pairs:,} pairs")
        return
    with tempfile.TemporaryDirectory() as directory:
        write_corpus(Path(directory), options.pairs, options.words)
        results = measure(
            Path(directory),
            pairs=options.pairs,
            cores=options.cores,
            rounds=options.rounds,
            vocabulary_size=options.vocabulary,
        )
    wall, cpu = results["sentences_per_second"], results["sentences_per_processor_second"]
    widths = (24, 14, 18)
    print_row(["", "sentences/s", "per processor"], widths)
    for name, title in (("plain", "SentencePiece alone"), ("ours", "read, encode, binarize")):
        print_row([title, f"{wall[name]:,}", f"{cpu[name]:,}"], widths)
    print_row(["ratio", results["ratio"], results["processor_ratio"]], widths)
    write_document(options.json, results)


if __name__ == "__main__":
    main()
