"""A run's model card: what it is, what it was trained on, how good it is, how it is used; ``README.md`` in the run.

It is written when a training process ends and after each evaluation, from the files of the run directory alone.
"""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from nmt_rela import __version__
from nmt_rela.checkpoints.checkpoint import load_state
from nmt_rela.checkpoints.run_directory import EXPORTED, RunDirectory
from nmt_rela.config.schema import AttentionBySite, Config
from nmt_rela.data.languages import primary_language
from nmt_rela.generation.evaluation import Entry, stored_scores
from nmt_rela.metrics.translation import LABELS, format_score, metrics_of
from nmt_rela.utils.errors import UserError
from nmt_rela.utils.files import atomic_write, read_json

LOG = logging.getLogger(__name__)

CARD = "README.md"
#: A line of every card. A file without it is not ours, and stays.
_MARK = "<!-- Written by nmt_rela, which replaces this file; without this line it does not. -->"

_USAGE = """\
```sh
nmt-translate --model $run < text.$source
```

```python
from nmt_rela import Translator

translator = Translator.load($run_in_python)
print(translator.translate(["A sentence."])[0].text)
```

Text is plain and detokenized, one sentence per line of at most $max_length sub-words. The model has seen text like its
training data's; what else it is given, it translates less well. Every setting is in `config.yaml`, the learning curve
in `metrics.jsonl`.

"""


def write_model_card(run: RunDirectory) -> None:
    """Write the card of a run. A card that cannot be written, or would replace the user's own, causes a warning.

    A run that was exported or imported keeps its README.md, which its checksums cover.
    """
    if (run.path / EXPORTED).exists():
        return
    try:
        if (run.path / CARD).exists() and _MARK not in (run.path / CARD).read_text("utf-8", errors="replace"):
            LOG.warning("%s: not written by nmt_rela; it stays, and the run has no model card", run.path / CARD)
            return
        text = model_card(run, library="nmt_rela", usage=_USAGE + _MARK)
        with atomic_write(run.path / CARD) as stream:
            stream.write(text.encode("utf-8", errors="replace"))
    except (OSError, UserError) as error:
        LOG.warning("%s: the model card could not be written: %s", run.path / CARD, error)


def export_readme(page: str, config: Config, **values: str) -> str:
    """The README.md of an exported model: ``page`` with its ``$names`` replaced."""
    data = config.data
    text = Template(page).substitute(
        source=data.source_language,
        target=data.target_language,
        attention=_attention(config),
        beam=config.decoding.beam_size,
        length_penalty=config.decoding.length_penalty,
        max_length=data.max_length,
        **values,
    )
    if data.romanian_diacritics != "none" and "ro" in map(primary_language, data.languages):
        mode = data.romanian_diacritics
        text += f"* Romanian text was normalized with `data.romanian_diacritics: {mode}`; translations are too.\n"
    return text


def model_card(run: RunDirectory, *, library: str, usage: str) -> str:
    """The text of a card. ``library`` is what loads the model; ``usage`` says how, with the names of export_readme."""
    return "\n".join(_card_lines(run, library, usage)) + "\n"


def _card_lines(run: RunDirectory, library: str, usage: str) -> Iterator[str]:
    config = run.config()
    data, model = config.data, config.model
    environment = read_json(run.environment) or {}
    corpus = environment.get("data", {})  # what prepare_run_directory knew of the data
    title, licence = corpus.get("title") or Path(data.task).stem, corpus.get("licence")
    imported_from = environment.get("imported_from")
    yield from ("---", f"language: {json.dumps([primary_language(language) for language in data.languages])}")
    scores = list(stored_scores(run))
    names = metrics_of(entry for _, entry in scores)
    listed = dict.fromkeys(name.rstrip("+") for name in names or config.evaluation.metrics)  # as the Hub names them
    yield from ("pipeline_tag: translation", f"library_name: {library}", f"metrics: [{', '.join(listed)}]")
    if imported_from and licence:  # of the model itself, by a name that the Hub knows
        yield f"license: {licence}"
    yield from ("---", "")
    yield from (f"# {_cell(title)}, {data.source_language} to {data.target_language}, {_attention(config)}", "")
    yield (
        f"An encoder-decoder Transformer that translates {data.source_language} into {data.target_language}, "
        f"made by nmt_rela {__version__}."
    )
    yield from ("", "## Use", "")
    names_of_run = {"run": shlex.quote(run.path.name), "run_in_python": json.dumps(run.path.name, ensure_ascii=False)}
    yield export_readme(usage, config, **names_of_run).rstrip()
    yield from ("", "## Model", "", "| | |", "| --- | --- |")
    yield _row("attention", _attention(config))
    yield _row("layers", f"{model.encoder_layers} + {model.decoder_layers}, {model.norm_order}-norm")
    yield _row("width", f"{model.d_model}, feed-forward {model.ffn_dim:,}, {model.num_heads} heads")
    tokenizers = run.load_tokenizers()
    sizes = [tokenizers.source.size, tokenizers.target.size]
    yield _row(
        "sub-words", f"{sizes[0]:,}, joint" if tokenizers.have_one_vocabulary else f"{sizes[0]:,} and {sizes[1]:,}"
    )
    if imported_from:
        yield from ("", "## Origin", "", "| | |", "| --- | --- |")
        yield _row("imported from", f"`{imported_from}`, a Marian model in the format of transformers")
        yield _row("licence of the model", licence or "not stated by its README.md")
        yield _row("fingerprint of the vocabulary", f"`{tokenizers.fingerprint}`")
    else:
        yield from _training_and_data(run, config, environment, tokenizers.fingerprint)
    yield from ("", "## Scores", "")
    yield from _scores(run, scores, names)


def _training_and_data(
    run: RunDirectory, config: Config, environment: Mapping[str, Any], fingerprint: str
) -> Iterator[str]:
    data, training, corpus = config.data, config.training, environment.get("data", {})
    yield from ("", "## Training", "", "| | |", "| --- | --- |")
    state = _state(run)
    progress = state.get("progress", {})
    if progress:
        yield _row("updates", f"{progress['update']:,} of {training.max_updates:,}")
        yield _row("passes over the data", f"{progress['epoch']:,}")
        yield _row("target tokens seen", f"{progress['target_tokens']:,}")
    yield _row("an update", f"{training.update_tokens:,} padded tokens")
    yield _row("schedule", f"{training.lr_schedule}, {training.learning_rate}, warm-up {training.warmup_updates:,}")
    yield _row("seed", str(training.seed))
    if origin := environment.get("initialized_from"):
        yield _row("started from", f"{origin['name']}, licence: {origin['licence'] or 'not stated'}")
    if "device" in environment:
        yield _row(
            "trained on", f"{environment.get('ranks')} x {environment.get('device')}, torch {environment.get('torch')}"
        )
    yield from ("", "## Data", "", "| | |", "| --- | --- |")
    yield _row("task", f"{corpus.get('title') or Path(data.task).stem} (`{Path(data.task).name}`)")
    yield _row("licence of the text", corpus.get("licence") or "not stated by the task file")
    if "read" in corpus:
        yield _row("pairs", f"{corpus['read']:,} read, {corpus['kept']:,} kept")
    yield _row("fingerprint of the vocabulary", f"`{fingerprint}`")
    if "corpus" in state:
        yield _row("fingerprint of the training pairs", f"`{state['corpus']}`")
    yield "\nWhether a model may be passed on is also a question of what the licence of its training text says."


def _row(name: str, value: str) -> str:
    return f"| {name} | {_cell(value)} |"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())


def _attention(config: Config) -> str:
    attention = config.model.attention
    if isinstance(attention, AttentionBySite):
        return f"{attention.encoder} (encoder), {attention.decoder} (decoder), {attention.cross} (cross)"
    return attention


def _state(run: RunDirectory) -> dict[str, Any]:
    """Of the newest checkpoint."""
    try:
        return load_state(run.checkpoint("last"))
    except UserError:
        return {}


def _scores(run: RunDirectory, scores: Sequence[tuple[str, Entry]], names: Sequence[str]) -> Iterator[str]:
    """Everything nmt-evaluate has left in the run."""
    if not scores:
        yield f"None yet: `nmt-evaluate --model {shlex.quote(run.path.name)}`."
        return
    yield f"| test set | weights | sentences | {' | '.join(LABELS[name] for name in names)} |"
    yield f"| --- | --- | {' | '.join(['---:'] * (1 + len(names)))} |"
    for weights, entry in scores:
        cells = [_cell(entry["name"]), _cell(weights), f"{entry['sentences']:,}"]
        cells += [format_score(name, entry) for name in names]
        yield f"| {' | '.join(cells)} |"
    signatures = dict.fromkeys(entry[f"{name}_signature"] for _, entry in scores for name in names if name in entry)
    yield "\n" + ", ".join(f"`{signature}`" for signature in signatures)
    if "ter" in names:
        yield "\nOf TER, lower is better."
