"""What each stage of preparation makes. Every function fills a directory from the results of earlier stages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import accumulate, chain, islice
from pathlib import Path

from nmt_rela.config.schema import DataConfig
from nmt_rela.data.normalization import normalization_for
from nmt_rela.data.tokenizer import TokenizerPair
from nmt_rela.preparation.binarize import LengthFilter, binarize
from nmt_rela.preparation.cleaning import Cleaner
from nmt_rela.preparation.cleaning_stats import CleaningStats, format_stats, read_stats, write_stats
from nmt_rela.preparation.evaluation_sets import copy_alignments, read_evaluation_pairs, write_parallel
from nmt_rela.preparation.sources.archives import LocalArchive
from nmt_rela.preparation.sources.readers import read_pairs
from nmt_rela.preparation.sources.task import ParallelSource
from nmt_rela.preparation.tokenizer_training import normalization_rule, sample_evenly, train_sentencepiece
from nmt_rela.utils.errors import DataError
from nmt_rela.utils.progress import ProgressBar


def write_sets(
    directory: Path,
    data: DataConfig,
    dev: Sequence[ParallelSource],
    tests: Sequence[ParallelSource],
    archives: Mapping[str, LocalArchive],
    alignments: Mapping[str, Path],
) -> None:
    """Write the joined development set and the test sets as text: ``dev.<language>``, ``test-<name>.<language>``.

    Args:
        archives: the archives by name.
        alignments: gold alignments by the name of their source. They become ``<set>.align``, source word first.
    """
    languages = (data.source_language, data.target_language)
    normalize_source, normalize_target = (
        normalization_for(language, romanian_diacritics=data.romanian_diacritics) for language in languages
    )
    lines: dict[str, int] = {}
    for name, sources in (("dev", dev), *((f"test-{source.name}", [source]) for source in tests)):
        pairs = chain.from_iterable(read_evaluation_pairs(source, archives, languages) for source in sources)
        lines[name] = write_parallel(
            ((normalize_source(source), normalize_target(target)) for source, target in pairs),
            *(directory / f"{name}.{language}" for language in languages),
        )
        if not lines[name]:
            raise DataError(f"source '{sources[0].name}': has no lines; accepted: a set with at least one pair")
        if len(sources) == 1 and sources[0].name in alignments:
            copy_alignments(
                alignments[sources[0].name],
                directory / f"{name}.align",
                lines=lines[name],
                reverse=sources[0].alignment_order != languages,
            )
    (directory / "lines.json").write_text(json.dumps(lines), "utf-8")


def clean_text(
    directory: Path, data: DataConfig, sources: Sequence[ParallelSource], archives: Mapping[str, LocalArchive]
) -> None:
    """Write the cleaned training text of all sources, ``train.<language>``, and ``cleaning_stats.json``.

    Raises:
        DataError: a source cannot be read, does not have its known number of pairs, or no pair is left.
    """
    cleaner = Cleaner(data)
    stats: dict[str, CleaningStats] = {}
    with (
        open(directory / f"train.{data.source_language}", "wb") as source_file,
        open(directory / f"train.{data.target_language}", "wb") as target_file,
        ProgressBar("cleaning", unit="pairs") as progress,
    ):
        for source in sources:
            counts = stats[source.name] = CleaningStats()
            pairs = read_pairs(source, archives, (data.source_language, data.target_language))
            shown = 0
            for chunk in cleaner.clean(islice(pairs, data.max_pairs_per_source or None), counts):
                source_file.writelines(source_text.encode("utf-8") + b"\n" for source_text, _ in chunk)
                target_file.writelines(target_text.encode("utf-8") + b"\n" for _, target_text in chunk)
                progress.advance(counts.read - shown)
                shown = counts.read
            if source.lines and not data.max_pairs_per_source and counts.read != source.lines:
                raise DataError(f"source '{source.name}': {counts.read:,} pairs; it should have {source.lines:,}")
    if not any(counts.kept for counts in stats.values()):
        text = "; ".join(format_stats({"sources": {name: counts.as_dict() for name, counts in stats.items()}}))
        raise DataError(f"no training pair is left after cleaning: {text}")
    write_stats(directory / "cleaning_stats.json", stats)


def learn_subwords(directory: Path, data: DataConfig, text: Path) -> None:
    """Train the SentencePiece models on cleaned text: one for both languages, or one per language."""
    kept = sum(counts.kept for counts in read_stats(text / "cleaning_stats.json").values())
    languages = (data.source_language, data.target_language)
    groups = [languages] if data.joint_vocabulary else [(language,) for language in languages]
    models = []
    for group in groups:
        sample = max(data.tokenizer_sample_size // len(group), 1)
        samples = (sample_evenly(text / f"train.{language}", lines=kept, sample=sample) for language in group)
        models.append(
            train_sentencepiece(
                chain.from_iterable(samples),
                algorithm=data.subword_model,
                size=data.vocabulary_size,
                character_coverage=data.character_coverage,
                normalization=normalization_rule(*group),
            )
        )
    TokenizerPair(models[0], models[-1]).save(directory)


def encode_train(directory: Path, data: DataConfig, text: Path, subwords: Path, *, workers: int) -> None:
    """Write the training pairs as sub-word ids, ``corpus``. Over-long pairs are dropped or truncated, and counted."""
    stats = read_stats(text / "cleaning_stats.json")
    outcomes = binarize(
        text / f"train.{data.source_language}",
        text / f"train.{data.target_language}",
        subwords,
        directory / "corpus",
        length_filter=LengthFilter(max_length=data.max_length, on_overlength=data.on_overlength),
        ends=list(accumulate(counts.kept for counts in stats.values())),
        workers=workers,
        title="encoding",
    )
    for index, counts in enumerate(stats.values()):
        for reason in ("overlength", "empty"):
            counts.drop(reason, int(outcomes[reason][index]))
            counts.kept -= int(outcomes[reason][index])
        counts.truncated = int(outcomes["truncated"][index])
    if not any(counts.kept for counts in stats.values()):
        raise DataError(f"data.max_length: every training pair is longer than {data.max_length} sub-words")
    write_stats(directory / "cleaning_stats.json", stats)


def encode_dev(directory: Path, data: DataConfig, sets: Path, subwords: Path) -> None:
    """Write all development pairs as sub-word ids, ``corpus``, whatever their length."""
    binarize(
        sets / f"dev.{data.source_language}",
        sets / f"dev.{data.target_language}",
        subwords,
        directory / "corpus",
        length_filter=LengthFilter(max_length=0, on_overlength="keep"),
        ends=[json.loads((sets / "lines.json").read_bytes())["dev"]],
        workers=1,
        title="encoding the development set",
    )
