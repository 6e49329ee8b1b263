"""What each stage of preparation makes. Every function fills a directory from what the stages before it made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import accumulate, chain, islice
from pathlib import Path

from nmt_rela.config.schema import DataConfig
from nmt_rela.data.normalization import normalization_for
from nmt_rela.data.tokenizer import TokenizerPair
from nmt_rela.preparation.binarize import LengthFilter, binarise
from nmt_rela.preparation.cleaning import Cleaner
from nmt_rela.preparation.cleaning_stats import CleaningStats, format_stats, read_stats, write_stats
from nmt_rela.preparation.evaluation_sets import copy_alignments, read_evaluation_pairs, write_parallel
from nmt_rela.preparation.sources.archives import LocalArchive
from nmt_rela.preparation.sources.readers import read_pairs
from nmt_rela.preparation.sources.task import ParallelSource
from nmt_rela.preparation.tokenizer_training import normalisation, sample_evenly, train_sentencepiece
from nmt_rela.utils.errors import DataError
from nmt_rela.utils.progress import Progress


def write_sets(
    directory: Path,
    data: DataConfig,
    dev: Sequence[ParallelSource],
    tests: Sequence[ParallelSource],
    files: Mapping[str, LocalArchive],
    alignments: Mapping[str, Path],
) -> None:
    """Development sets, joined, and test sets, as text: ``dev.<language>``, ``test-<name>.<language>``.

    Args:
        files: the archives, by name.
        alignments: gold alignments by the name of their source; they become ``<set>.align``, source word first.
    """
    languages = (data.source_language, data.target_language)
    normalise = [normalization_for(language, romanian_diacritics=data.romanian_diacritics) for language in languages]
    lines: dict[str, int] = {}
    for name, sources in (("dev", dev), *((f"test-{source.name}", [source]) for source in tests)):
        pairs = chain.from_iterable(read_evaluation_pairs(source, files, languages) for source in sources)
        lines[name] = write_parallel(
            ((normalise[0](left), normalise[1](right)) for left, right in pairs),
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
    directory: Path, data: DataConfig, sources: Sequence[ParallelSource], files: Mapping[str, LocalArchive]
) -> None:
    """Training text as ``train.<language>``, read from the archives and cleaned, and its ``cleaning_stats.json``.

    Raises:
        DataError: a source cannot be read, has not the pairs it should have, or nothing is left of all of them.
    """
    cleaner = Cleaner(
        source_language=data.source_language,
        target_language=data.target_language,
        romanian=data.romanian_diacritics,
        max_length_ratio=data.max_length_ratio,
        drop_duplicates=data.drop_duplicates,
        drop_copies=data.drop_untranslated,
    )
    accounts: dict[str, CleaningStats] = {}
    with (
        open(directory / f"train.{data.source_language}", "wb") as source_file,
        open(directory / f"train.{data.target_language}", "wb") as target_file,
        Progress("cleaning", unit="pairs") as progress,
    ):
        for source in sources:
            account = accounts[source.name] = CleaningStats()
            pairs = islice(
                read_pairs(source, files, (data.source_language, data.target_language)),
                data.max_pairs_per_source or None,
            )
            shown = 0
            for chunk in cleaner.clean(pairs, account):
                source_file.writelines(left.encode("utf-8") + b"\n" for left, _ in chunk)
                target_file.writelines(right.encode("utf-8") + b"\n" for _, right in chunk)
                progress.add(account.read - shown)
                shown = account.read
            if source.lines and not data.max_pairs_per_source and account.read != source.lines:
                raise DataError(f"source '{source.name}': {account.read:,} pairs; it should have {source.lines:,}")
    if not any(account.kept for account in accounts.values()):
        text = "; ".join(format_stats({"sources": {name: account.as_dict() for name, account in accounts.items()}}))
        raise DataError(f"no training pair is left after cleaning: {text}")
    write_stats(directory / "cleaning_stats.json", accounts)


def learn_subwords(directory: Path, data: DataConfig, text: Path) -> None:
    """SentencePiece models of cleaned text: one for both languages, or one each."""
    kept = sum(account.kept for account in read_stats(text / "cleaning_stats.json").values())
    languages = (data.source_language, data.target_language)
    groups = [languages] if data.joint_vocabulary else [(language,) for language in languages]
    learned = []
    for group in groups:
        sample = max(data.tokenizer_sample_size // len(group), 1)
        drawn = (sample_evenly(text / f"train.{language}", lines=kept, sample=sample) for language in group)
        learned.append(
            train_sentencepiece(
                chain.from_iterable(drawn),
                algorithm=data.subword_model,
                size=data.vocabulary_size,
                character_coverage=data.character_coverage,
                normalisation=normalisation(*group),
            )
        )
    TokenizerPair(learned[0], learned[-1]).save(directory)


def encode_train(directory: Path, data: DataConfig, text: Path, subwords: Path, *, workers: int) -> None:
    """Training pairs as sub-word ids in ``corpus``; over-long ones are dropped or truncated, and counted."""
    accounts = read_stats(text / "cleaning_stats.json")
    outcomes = binarise(
        text / f"train.{data.source_language}",
        text / f"train.{data.target_language}",
        subwords,
        directory / "corpus",
        rule=LengthFilter(max_length=data.max_length, on_overlength=data.on_overlength),
        ends=list(accumulate(account.kept for account in accounts.values())),
        workers=workers,
        title="encoding",
    )
    for index, account in enumerate(accounts.values()):
        for reason in ("overlong", "empty"):
            account.drop(reason, int(outcomes[reason][index]))
            account.kept -= int(outcomes[reason][index])
        account.truncated = int(outcomes["truncated"][index])
    if not any(account.kept for account in accounts.values()):
        raise DataError(f"data.max_length: every training pair is longer than {data.max_length} sub-words")
    write_stats(directory / "cleaning_stats.json", accounts)


def encode_dev(directory: Path, data: DataConfig, sets: Path, subwords: Path) -> None:
    """All development pairs as sub-word ids in ``corpus``, whatever their length."""
    binarise(
        sets / f"dev.{data.source_language}",
        sets / f"dev.{data.target_language}",
        subwords,
        directory / "corpus",
        rule=LengthFilter(max_length=0, on_overlength="keep"),
        ends=[json.loads((sets / "lines.json").read_bytes())["dev"]],
        workers=1,
        title="encoding the development set",
    )
