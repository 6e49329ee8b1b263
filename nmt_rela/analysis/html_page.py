"""A self-contained HTML page of attention weights, made from arrays. It opens from a file and loads nothing.

The page holds its texts and numbers as JSON, and one compressed block of weights per run and sentence, which the
browser unpacks when the sentence is shown. A block is zlib data: for each of the sites encoder, decoder, cross the
largest weight of every head (little-endian float32 [layers, heads]), then codes (uint8 [layers, heads, queries, keys])
with weight = largest · (code / 255)². Code 0 means a weight of exactly 0.
"""

from __future__ import annotations

import base64
import html
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nmt_rela.analysis.statistics import LayerStatistics
from nmt_rela.models.transformer import ATTENTION_SITES
from nmt_rela.utils.files import atomic_write

#: Runs that the page shows side by side at most.
MAX_RUNS = 5
_SCRIPTS = ("weights.js", "view.js", "page.js")
_LIVE_SCRIPTS = ("weights.js", "normalization.js", "live.js", "live_view.js", "view.js", "page.js")


@dataclass(frozen=True, kw_only=True, slots=True)
class PageSentence:
    """One sentence pair in one run."""

    #: Sub-words with EOS. The decoder reads the target one step later, with the start of sentence first.
    source: tuple[str, ...]
    target: tuple[str, ...]
    #: Log-probability of the target, in nats.
    log_probability: float
    #: The weights as ``pack_weights`` returns them.
    weights: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PageRun:
    """One run on the page."""

    name: str
    #: The attention variant of each site.
    attention: Mapping[str, str]
    #: One entry per sentence of the page; None where the run has no weights for it.
    sentences: Sequence[PageSentence | None]
    statistics: Sequence[LayerStatistics]
    #: More numbers per head, [layers, heads] by label and site, e.g. {"AER normal": {"cross": …}}; None where a number
    #: is not defined.
    head_measures: Mapping[str, Mapping[str, Sequence[Sequence[float | None]]]] = field(default_factory=dict)
    #: More numbers per layer, [layers] by label and site.
    layer_measures: Mapping[str, Mapping[str, Sequence[float | None]]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class LivePart:
    """What makes a page translate by itself (`live_page.live_part`)."""

    #: What the page has to know of each run's model, as JSON values.
    runs: Sequence[Mapping[str, Any]]
    #: Texts that the page holds, by their ids: the engine, models, tokenizers.
    blocks: Mapping[str, str]

    @property
    def size(self) -> int:
        """Bytes of the texts, and of what is known of the runs (their vocabularies, for example)."""
        return sum(map(len, self.blocks.values())) + len(_script_json(list(self.runs)).encode())


def pack_weights(weights: Mapping[str, npt.ArrayLike]) -> str:
    """One sentence's weights, [layers, heads, queries, keys] by site, as base64 text of the page's format."""
    parts = []
    for site in ATTENTION_SITES:
        values = np.asarray(weights[site], dtype=np.float32)
        largest = values.max(axis=(2, 3))
        fraction = values / np.where(largest > 0, largest, 1)[:, :, None, None]
        codes = np.ceil(np.sqrt(fraction) * 255 - 0.5).clip(0, 255)
        codes = np.where(values > 0, np.maximum(codes, 1), 0)
        parts += [largest.astype("<f4").tobytes(), codes.astype(np.uint8).tobytes()]
    return base64.b64encode(zlib.compress(b"".join(parts), 6)).decode("ascii")


def render_page(
    runs: Sequence[PageRun],
    texts: Sequence[tuple[str, str]],
    *,
    title: str,
    subtitle: str = "",
    live: LivePart | None = None,
) -> str:
    """The page as HTML text. ``texts`` are the source and target lines of the sentences of every run.

    With ``live``, they are examples to translate, and the weights of the sentences are left out.
    """
    assert live or all(len(run.sentences) == len(texts) for run in runs)
    data = {
        "title": title,
        "subtitle": subtitle,
        "max_runs": MAX_RUNS,
        "sentences": [{"source": source, "target": target} for source, target in texts],
        "runs": [_run_data(run) for run in runs],
    }
    if live is None:
        blocks = {
            f"weights-{number}-{index}": sentence.weights
            for number, run in enumerate(runs)
            for index, sentence in enumerate(run.sentences)
            if sentence is not None
        }
    else:
        blocks = dict(live.blocks)
        data |= {
            "live": True,
            "runs": [_run_data(run) | {"live": of, "sentences": []} for run, of in zip(runs, live.runs, strict=True)],
        }
    return fill_template(data, blocks)


def fill_template(data: Mapping[str, Any], blocks: Mapping[str, str]) -> str:
    """The page around its data and its blocks of text, by their ids."""
    values = {
        "title": html.escape(data["title"]),
        "style": page_part("page.css"),
        "script": "\n".join(page_part(name) for name in (_LIVE_SCRIPTS if data.get("live") else _SCRIPTS)),
        "data": _script_json(data),
        "weights": "\n".join(f'<script type="text/plain" id="{name}">{text}</script>' for name, text in blocks.items()),
    }
    # One pass over the template, so that a value that looks like a placeholder is not replaced.
    return re.sub(r"@(\w+)@", lambda placeholder: values[placeholder[1]], page_part("page.html"))


def write_page(path: Path, runs: Sequence[PageRun], texts: Sequence[tuple[str, str]], **options: Any) -> Path:
    """Write the page of ``render_page`` atomically."""
    with atomic_write(path) as stream:
        stream.write(render_page(runs, texts, **options).encode("utf-8"))
    return path


def page_part(name: str) -> str:
    """A file of the folder page."""
    return resources.files("nmt_rela.analysis").joinpath("page").joinpath(name).read_text(encoding="utf-8")


def _script_json(data: Any) -> str:
    """JSON that cannot end the script element around it."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _run_data(run: PageRun) -> dict[str, Any]:
    return {
        "name": run.name,
        "attention": dict(run.attention),
        "sites": {site: _site_data(run, site) for site in ATTENTION_SITES},
        "sentences": [
            None
            if sentence is None
            else {
                "source": list(sentence.source),
                "target": list(sentence.target),
                "log_probability": _rounded(sentence.log_probability),
            }
            for sentence in run.sentences
        ],
    }


def _site_data(run: PageRun, site: str) -> dict[str, Any]:
    layers = [asdict(layer) for layer in run.statistics if layer.site == site]
    heads = {name: [layer[name] for layer in layers] for name in ("sparsity", "null_rate", "entropy", "mass")}
    heads |= {label: found[site] for label, found in run.head_measures.items() if site in found}  # type: ignore[misc]
    by_layer: dict[str, Any] = {"diversity": [layer["diversity"] for layer in layers]}
    by_layer |= {label: found[site] for label, found in run.layer_measures.items() if site in found}
    return {
        "layers": len(layers),
        "heads": len(layers[0]["sparsity"]) if layers else 0,
        "head_measures": {name: [[_rounded(v) for v in row] for row in rows] for name, rows in heads.items()},
        "layer_measures": {name: [_rounded(v) for v in values] for name, values in by_layer.items()},
    }


def _rounded(value: float | None) -> float | None:
    """Rounded to the five digits that the page can show."""
    return None if value is None else float(f"{value:.5g}")
