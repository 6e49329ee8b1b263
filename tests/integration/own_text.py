"""A user's own corpus with its task file, settings to prepare it by, and readers of what was prepared."""

from __future__ import annotations

import gzip
from pathlib import Path

from nmt_rela.config.schema import DataConfig
from nmt_rela.data.indexed_dataset import ParallelDataset
from nmt_rela.data.prepared_data import PreparedData
from nmt_rela.data.tokenizer import TokenizerPair

WORDS = ("ein haus am see", "der hund", "die katze schläft im garten", "wir gehen heute", "es regnet", "gute nacht")


def sentences(count: int, *, mark: str = "") -> list[str]:
    return [f"{mark}{WORDS[n % 6]} {WORDS[n // 6 % 6]} {WORDS[n // 36 % 6]} {n % 100}" for n in range(count)]


def write(path: Path, lines: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(f"{line}\n" for line in lines).encode("utf-8")
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def own_task(directory: Path, *, pairs: int = 300, extra: str = "") -> Path:
    """A user's corpus beside its task file."""
    write(directory / "text/train.de.gz", sentences(pairs))
    write(directory / "text/train.en", [line.upper() for line in sentences(pairs)])
    for name, count in (("dev", 7), ("test", 5)):
        write(directory / f"text/{name}.de", sentences(count, mark=f"{name} "))
        write(directory / f"text/{name}.en", [line.upper() for line in sentences(count, mark=f"{name} ")])
    task = directory / "mine.yaml"
    task.write_text(
        "languages: [de, en]\n"
        "train:\n  - name: train\n    files: {de: text/train.de.gz, en: text/train.en}\n"
        "dev:\n  - name: dev\n    files: {de: text/dev.de, en: text/dev.en}\n"
        f"tests:\n  - name: test\n    files: {{de: text/test.de, en: text/test.en}}\n{extra}",
        "utf-8",
    )
    return task


def settings(task: Path | str, directory: Path, **changes: object) -> DataConfig:
    values = {"source_language": "de", "target_language": "en", "vocabulary_size": 120, **changes}
    return DataConfig(task=str(task), data_dir=str(directory), **values)  # type: ignore[arg-type]


def tree(directory: Path) -> dict[str, bytes]:
    """Every file of prepared data; archives and locks left out."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and "archives" not in path.parts and not path.name.endswith("lock")
    }


def decoded(prepared: PreparedData) -> list[tuple[str, str]]:
    corpus, tokenizers = ParallelDataset(prepared.train), TokenizerPair.load(prepared.tokenizer)
    assert corpus.vocabulary_fingerprint == tokenizers.fingerprint
    sides = (
        tokenizers.source.decode([corpus.sources[index][:-1].tolist() for index in range(len(corpus))]),
        tokenizers.target.decode([corpus.targets[index][:-1].tolist() for index in range(len(corpus))]),
    )
    return list(zip(*sides, strict=True))
