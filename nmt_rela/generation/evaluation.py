"""Translation quality on test sets, and the scores that a run directory holds.

    evaluation/CHECKPOINT/           scores.json · one text of translations per test set · references/
    evaluation/CHECKPOINT/SETTINGS/  the same where settings are not the run's own, such as beam_size=1,precision=int8
    …/text=FOLDER_NAME/              the same of a user's text whose name another text has in the directory above

The directory of an ensemble names its other members too: ``average+other.average``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nmt_rela import __version__
from nmt_rela.checkpoints.checkpoint import weights_checksum
from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.config.schema import EvaluationConfig
from nmt_rela.data.prepared_data import EvaluationSet
from nmt_rela.generation.formatting import strip_newlines
from nmt_rela.generation.translator import Translator
from nmt_rela.metrics.translation import compute_scores
from nmt_rela.utils.files import read_json
from nmt_rela.utils.progress import ProgressBar
from nmt_rela.utils.text import read_parallel, write_lines

LOG = logging.getLogger(__name__)

#: Settings of the search that change translations.
_SETTINGS = ("beam_size", "length_penalty", "early_stopping", "max_length_offset", "min_length")
#: An element of scores.json: the name of the test set, what translated it, and its scores.
Entry = dict[str, Any]


def evaluate(
    translator: Translator,
    test_set: EvaluationSet,
    settings: EvaluationConfig,
    *,
    directory: Path,
    described: Entry,
    more_references: Sequence[Path] = (),
) -> tuple[list[str], list[list[str]], Entry]:
    """Translate a set and score it against all references: translations, references, the entry of scores.json.

    Translations that ``directory`` holds, by the same weights, settings and version of the same text, are not made
    again. Their earlier scores against the same references stay in the entry. ``described`` is what
    `describe_evaluation` returns. Raises DataError for files of different line counts.
    """
    pairs = list(read_parallel(test_set.source, test_set.target))
    sources = [line for line, _ in pairs]
    # Normalizing changes nothing in prepared test sets; other references are scored like them.
    references = [[translator.normalize_target(line) for _, line in pairs]]
    references += [
        [translator.normalize_target(line) for _, line in read_parallel(test_set.source, path)]
        for path in more_references
    ]
    entry: Entry = {"name": test_set.name, "source": str(test_set.source)} | described
    against = _digest(references, test_set.bleu_tokenizer)
    old, hypotheses = _stored_translations(directory, entry, sources)
    if old.get("references_sha256") == against:
        entry = old | entry
    elif hypotheses is not None:
        entry |= {key: old[key] for key in ("seconds", "translations_sha256")}
    if hypotheses is None:
        start = time.perf_counter()
        with ProgressBar(f"translating {test_set.name}", unit="lines", total=len(pairs)) as bar:
            translations = translator.translate(sources, progress=bar.advance)
        seconds = time.perf_counter() - start
        LOG.info("%s: %.1f s, %.1f sentences/s", test_set.name, seconds, len(pairs) / max(seconds, 1e-9))
        hypotheses = [strip_newlines(translation.text) for translation in translations]
        entry |= {"seconds": round(seconds, 3), "translations_sha256": _digest(__version__, sources, hypotheses)}
    entry |= {"references_sha256": against} | compute_scores(
        hypotheses,
        references[0],
        settings,
        more_references=references[1:],
        tokenizer=test_set.bleu_tokenizer,
        sources=sources,
        device=translator.device,
    )
    return hypotheses, references, entry


def _stored_translations(directory: Path, entry: Entry, sources: Sequence[str]) -> tuple[Entry, list[str] | None]:
    """The entry of the same weights and settings, and its translations; nothing if they are not of these sources.

    Those of another folder are found too: of another tokenizer, or of another name of the same checkpoint.
    """
    around = {file.parent for top in (directory, directory.parent) for file in top.glob("*/scores.json")}
    folders = [directory, directory.parent, *sorted(around)]
    for folder, old in ((place, found) for place in folders for found in read_entries(place / "scores.json")):
        file = folder / f"{entry['name']}.txt"
        if all(old.get(key) == entry[key] for key in ("name", "weights", "settings")) and file.is_file():
            hypotheses = file.read_bytes().decode("utf-8", errors="replace").split("\n")[:-1]
            if old.get("translations_sha256") == _digest(__version__, sources, hypotheses):
                LOG.info(
                    "%s: the translations in %s are scored; without that file they are made anew", entry["name"], file
                )
                return old, hypotheses
    return {}, None


def _digest(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values).encode("utf-8")).hexdigest()


def describe_evaluation(
    runs: Sequence[RunDirectory],
    translator: Translator,
    *,
    checkpoint: str | None,
    precision: str,
    tokenizer: str | None,
) -> tuple[Path, Entry]:
    """The directory of an evaluation in the first run, and what all its entries record: checkpoints and settings.

    ``tokenizer`` is that of BLEU if it is not the test set's own.
    """
    checkpoints = [run.checkpoint(checkpoint) for run in runs]
    name = checkpoints[0].name
    for run, other in zip(runs[1:], checkpoints[1:], strict=True):
        member = os.path.relpath(run.path.resolve(), runs[0].path.resolve().parent)
        name += "+" + re.sub(r"[^\w.-]+", "_", f"{member}.{other.name}")
    own, settings = (
        {key: getattr(decoding, key) for key in _SETTINGS} | {"precision": used}
        for decoding, used in ((runs[0].config().decoding, "float32"), (translator.options, precision))
    )
    differing = {key: value for key, value in settings.items() if value != own[key]}
    differing |= {} if tokenizer is None else {"tokenizer": tokenizer}
    label = ",".join(f"{key}={value}".lower() for key, value in differing.items())
    entry = {
        "checkpoint": [str(path.resolve()) for path in checkpoints],
        "weights": "+".join(map(weights_checksum, checkpoints)),
        "settings": settings,
    }
    return runs[0].directory_of_results("evaluation", name, label), entry


def directory_of_text(directory: Path, text: Path) -> Path:
    """Where a user's text is evaluated: ``directory``, or one below it where that holds another text of its name."""
    stored = (old for old in read_entries(directory / "scores.json") if old["name"] == text.name)
    if all(old.get("source") == str(text) for old in stored):
        return directory
    name = "_".join(re.sub(r"[^\w.-]+", "_", part) for part in (text.parent.name, text.name))
    return directory_of_text(directory / f"text={name}", text)  # which may hold a text of an equal name, too


def store_evaluation(
    directory: Path, hypotheses: Sequence[str], references: Sequence[Sequence[str]], entry: Entry
) -> None:
    """Write translations, references and scores. They replace those of the same test set, and all of other weights."""
    kept, file = [], directory / "scores.json"
    if file.exists() and not isinstance(read_json(file), list):
        LOG.warning("%s: damaged; it is kept as %s.damaged", file, file.name)
        file.replace(file.with_name(f"{file.name}.damaged"))
    for old in read_entries(file):
        if old.get("weights") == entry["weights"] and old["name"] != entry["name"]:
            kept.append(old)
        elif old["name"] == entry["name"] and old.get("source") != entry["source"]:
            LOG.warning("%s: the scores of %s replace those of %s", directory, entry["source"], old.get("source"))
    write_lines(directory / f"{entry['name']}.txt", hypotheses)
    files = [f"references/{number}/{entry['name']}.txt" for number in range(1, len(references) + 1)]
    for name, lines in zip(files, references, strict=True):
        write_lines(directory / name, lines)
    entry = {**entry, "references": files}
    write_lines(file, json.dumps([*kept, entry], indent=1).split("\n"))


def stored_scores(run: RunDirectory) -> Iterator[tuple[str, Entry]]:
    """The stored scores of the run's present checkpoints: the name of their directory below evaluation/, and the entry.

    Those of weights that have been replaced, such as an earlier average's, are left out.
    """
    root = run.path / "evaluation"
    present = {name: weights_checksum(run.checkpoint(name)) for name in run.available_checkpoints()}
    for file in sorted(root.glob("**/scores.json")):
        directory = file.parent.relative_to(root)
        for entry in read_entries(file):
            if entry.get("weights") == present.get(directory.parts[0], ""):
                yield str(directory), entry


def read_entries(file: Path) -> list[Entry]:
    """The entries of a scores.json; none where it is missing or damaged."""
    entries = read_json(file)
    return (
        [entry for entry in entries if isinstance(entry, dict) and "name" in entry] if isinstance(entries, list) else []
    )
