"""What each stage of preparation makes. Every function fills a directory from the results of earlier stages."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import accumulate, chain, islice
from pathlib import Path

import numpy as np

from nmt_rela.config.schema import DataConfig
from nmt_rela.data.languages import are_spaced
from nmt_rela.data.normalization import normalization_for, normalization_rule
from nmt_rela.data.tokenizer import VOCABULARY, SentencePieceTokenizer, TokenizerPair
from nmt_rela.metrics.word_alignment import format_gold, read_gold
from nmt_rela.preparation.binarize import binarize
from nmt_rela.preparation.cleaning import Cleaner
from nmt_rela.preparation.cleaning_stats import ENCODING_HINT, CleaningStats, format_stats, read_stats, write_stats
from nmt_rela.preparation.links import LINKS, binarize_links, with_links
from nmt_rela.preparation.sources.archives import LocalArchive
from nmt_rela.preparation.sources.readers import read_pairs
from nmt_rela.preparation.sources.task import ParallelSource
from nmt_rela.preparation.tokenizer_training import sample_evenly, suitable_size, train_sentencepiece
from nmt_rela.utils.errors import ConfigError, DataError, did_you_mean
from nmt_rela.utils.progress import ProgressBar
from nmt_rela.utils.text import MAX_LINE, write_lines


def make_sets(
    directory: Path,
    data: DataConfig,
    dev: Sequence[ParallelSource],
    tests: Sequence[ParallelSource],
    archives: Mapping[str, LocalArchive],
) -> None:
    """Write the joined development set and the test sets as text: ``dev.<language>``, ``test-<name>.<language>``.

    Text is repaired, and no pair is dropped. Gold alignments become ``<set>.align``, source word first. ``archives``
    are those by name.
    """
    lines: dict[str, int] = {}
    for name, group in (("dev", dev), *((f"test-{test.name}", [test]) for test in tests)):
        # A set fits into memory.
        pairs = list(
            chain.from_iterable(
                _evaluation_pairs(parallel_source, archives, data.languages) for parallel_source in group
            )
        )
        if not pairs:
            raise DataError(f"source '{group[0].name}': has no lines; accepted: a set with at least one pair")
        normalize = [normalization_for(language, data) for language in data.languages]
        for side, language in enumerate(data.languages):
            write_lines(directory / f"{name}.{language}", (normalize[side](pair[side]) for pair in pairs))
        if len(group) == 1 and (path := group[0].alignments):
            is_reversed = group[0].alignment_order != data.languages
            gold = read_gold(path, pairs, normalize, reverse=is_reversed, spaced=are_spaced(data.languages))
            write_lines(directory / f"{name}.align", map(format_gold, gold))
        lines[name] = len(pairs)
    (directory / "lines.json").write_text(json.dumps(lines), "utf-8")


def _evaluation_pairs(
    parallel_source: ParallelSource, archives: Mapping[str, LocalArchive], languages: tuple[str, str]
) -> Iterator[tuple[str, str]]:
    """All pairs. Raises DataError where one is incomplete, not UTF-8 or truncated, or their number is wrong."""
    name, count = parallel_source.name, 0
    for count, pair in enumerate(read_pairs(parallel_source, archives, languages), start=1):
        if pair is None:
            wanted = f"the {len(parallel_source.columns)} that 'columns' names"
            raise DataError(f"source '{name}': line {count} has too few or too many fields; accepted: {wanted}")
        for language, text in zip(languages, pair, strict=True):
            if text is None:
                raise DataError(f"source '{name}': line {count} of {language} is invalid UTF-8; accepted: UTF-8 text")
            if len(text) >= MAX_LINE // 4 and len(text.encode("utf-8")) > MAX_LINE - 4:
                raise DataError(
                    f"source '{name}': line {count} of {language} is over {MAX_LINE:,} bytes long; "
                    "accepted: shorter lines in development and test sets"
                )
        source, target = pair
        yield _tagged(source, parallel_source.tag), target  # type: ignore[arg-type, misc]  # neither text is None
    _check_number(parallel_source, count)


def _tagged(source: str, tag: str) -> str:
    """A source sentence with the tag of its text before it. An empty one stays empty."""
    return f"{tag} {source}" if tag and source else source


def _check_number(parallel_source: ParallelSource, found: int) -> None:
    if parallel_source.lines and found != parallel_source.lines:
        accepted = f"{parallel_source.lines:,} ('lines' of the task file)"
        raise DataError(f"source '{parallel_source.name}': found {found:,} pairs; accepted: {accepted}")


def make_text(
    directory: Path, data: DataConfig, train: Sequence[ParallelSource], archives: Mapping[str, LocalArchive]
) -> None:
    """Write the cleaned training text, ``train.<language>``, and ``cleaning_stats.json``.

    Where a source has word links, ``train.align`` has those of every pair.

    Raises:
        DataError: a parallel source cannot be read, does not have its known number of pairs, or no pair is left; or a
            link is not one of its pair's.
    """
    cleaner = Cleaner(data)
    has_links = any(parallel_source.alignments for parallel_source in train)
    stats: dict[str, CleaningStats] = {}
    with (
        open(directory / f"train.{data.source_language}", "wb") as source_file,
        open(directory / f"train.{data.target_language}", "wb") as target_file,
        open(directory / LINKS, "wb") if has_links else nullcontext() as links_file,
        ProgressBar("cleaning", unit="pairs") as progress,
    ):
        for parallel_source in train:
            counts = stats[parallel_source.name] = CleaningStats()
            read = partial(read_pairs, parallel_source, archives, data.languages)
            pairs = with_links(read, parallel_source, data) if parallel_source.alignments else read()
            shown = 0
            for chunk in cleaner.clean(islice(pairs, data.max_pairs_per_source or None), counts):
                source_file.writelines(
                    _tagged(source, parallel_source.tag).encode("utf-8") + b"\n" for source, *_ in chunk
                )
                target_file.writelines(target.encode("utf-8") + b"\n" for _, target, *_ in chunk)
                if links_file:
                    links_file.writelines((rest[0] if rest else "").encode("ascii") + b"\n" for _, _, *rest in chunk)
                progress.advance(counts.read - shown)
                shown = counts.read
            if not data.max_pairs_per_source:
                _check_number(parallel_source, counts.read)
    if not any(counts.kept for counts in stats.values()):
        text = "; ".join(format_stats({"sources": {name: counts.as_dict() for name, counts in stats.items()}}))
        hint = ENCODING_HINT if any("undecodable" in counts.dropped for counts in stats.values()) else ""
        raise DataError(f"no training pair is left after cleaning: {text}; docs/data.md explains the reasons{hint}")
    write_stats(directory / "cleaning_stats.json", stats)


def make_overlap(directory: Path, data: DataConfig, sets: Path, text: Path) -> None:
    """Count the pairs of the development and test sets that also stand in the training text: ``overlap.json``, by set.

    A set that the model has seen scores too high. No pair is dropped for it, as in WMT and fairseq.
    """

    def pairs(stem: Path) -> Iterator[tuple[bytes, bytes]]:
        with (
            open(f"{stem}.{data.source_language}", "rb") as left,
            open(f"{stem}.{data.target_language}", "rb") as right,
        ):
            yield from zip(map(bytes.strip, left), map(bytes.strip, right), strict=True)

    in_sets = {name: list(pairs(sets / name)) for name in json.loads((sets / "lines.json").read_bytes())}
    wanted = set(chain.from_iterable(in_sets.values()))
    seen = {pair for pair in pairs(text / "train") if pair in wanted}
    overlap = {name: sum(pair in seen for pair in of_set) for name, of_set in in_sets.items()}
    (directory / "overlap.json").write_text(json.dumps(overlap), "utf-8")


def make_tokenizers(directory: Path, data: DataConfig, text: Path, *, tags: Sequence[str]) -> None:
    """Train the SentencePiece models on cleaned text: one for both languages, or one per language.

    ``tags`` are sub-words of their own on the source side.
    """
    kept = sum(counts.kept for counts in read_stats(text / "cleaning_stats.json").values())
    groups = [data.languages] if data.joint_vocabulary else [(language,) for language in data.languages]
    models = []
    for group in groups:
        sample = max(data.tokenizer_sample_size // len(group), 1)
        paths = [text / f"train.{language}" for language in group]

        def lines(paths: Sequence[Path] = paths, sample: int = sample) -> Iterator[str]:
            return chain.from_iterable(sample_evenly(path, lines=kept, sample=sample) for path in paths)

        size = data.vocabulary_size
        if size == "auto":
            size = suitable_size(kept) + len(set(chain.from_iterable(lines())))
        models.append(
            train_sentencepiece(
                lines(),
                algorithm=data.subword_model,
                size=size,
                character_coverage=data.character_coverage,
                normalization=normalization_rule(*group, data=data),
                tags=tags if data.source_language in group else (),
            )
        )
    TokenizerPair(models[0], models[-1]).save(directory)


def vocabulary_files(path: Path) -> list[Path]:
    """The SentencePiece models that ``data.vocabulary`` means: a run's, those in a directory, or one file.

    Vocabularies beside models follow them.
    """
    directory = path / "tokenizer" if (path / "tokenizer").is_dir() else path
    models = [path] if path.is_file() else sorted(directory.glob("*.model"))
    return models + [beside for model in models if (beside := model.with_suffix(VOCABULARY)).exists()]


def copy_tokenizers(directory: Path, vocabulary: Path, *, data: DataConfig, tags: Sequence[str]) -> None:
    """Take existing SentencePiece models, which must know the ``tags`` of the task.

    Raises:
        ConfigError: they are for one vocabulary and ``data.joint_vocabulary`` wants one per language, or the reverse;
            or a tag is unknown.
        DataError: no models are there, or damaged ones.
    """
    if vocabulary.is_file():
        joint = SentencePieceTokenizer.load(vocabulary)
        tokenizers = TokenizerPair(joint, joint)
    else:
        tokenizers = TokenizerPair.load(vocabulary_files(vocabulary)[0].parent)
    if tokenizers.have_one_vocabulary != data.joint_vocabulary:
        found = "one vocabulary for both sides" if tokenizers.have_one_vocabulary else "one vocabulary per side"
        raise ConfigError(
            f"data.joint_vocabulary: found {str(data.joint_vocabulary).lower()}, but {vocabulary} has {found}"
        )
    for tag in tags:
        if tag not in tokenizers.source.tags:
            raise ConfigError(
                f"data.vocabulary: {vocabulary} does not have the tag {tag} of the task; "
                f"{did_you_mean(tag, tokenizers.source.tags)}"
            )
    tokenizers.save(directory)


def make_train(directory: Path, data: DataConfig, text: Path, tokenizers: Path, *, workers: int) -> None:
    """Write the training pairs as sub-word ids, ``corpus``, and their word links, if there are any, as ``links``.

    Over-long pairs are dropped or truncated, and counted.
    """
    stats = read_stats(text / "cleaning_stats.json")
    ends = list(accumulate(counts.kept for counts in stats.values()))
    changed = binarize(
        text / f"train.{data.source_language}",
        text / f"train.{data.target_language}",
        TokenizerPair.load(tokenizers),
        directory / "corpus",
        lines=ends[-1],
        max_length=data.max_length,
        on_overlength=data.on_overlength,
        workers=workers,
    )
    if (text / LINKS).exists():
        dropped = np.concatenate([changed["overlength"], changed["empty"]])
        binarize_links(text / LINKS, directory / "links", without=frozenset(dropped.tolist()))
    for reason, lines in changed.items():
        by_source = np.bincount(np.searchsorted(ends, lines, side="right"), minlength=len(ends)).tolist()
        for counts, pairs in zip(stats.values(), by_source, strict=True):
            if reason == "truncated":
                counts.truncated = pairs
            else:
                counts.drop(reason, pairs)
                counts.kept -= pairs
    if not any(counts.kept for counts in stats.values()):
        raise DataError(
            f"data.max_length: every training pair is longer than {data.max_length} sub-words; accepted: a larger value"
        )
    write_stats(directory / "cleaning_stats.json", stats)


def make_dev(directory: Path, data: DataConfig, sets: Path, tokenizers: Path) -> None:
    """Write all development pairs as sub-word ids, ``corpus``, whatever their length."""
    binarize(
        sets / f"dev.{data.source_language}",
        sets / f"dev.{data.target_language}",
        TokenizerPair.load(tokenizers),
        directory / "corpus",
        lines=json.loads((sets / "lines.json").read_bytes())["dev"],
        title="encoding the development set",
    )
