"""The page's data: packed weights come back, zeros stay zeros, and no text can break out of its element."""

from __future__ import annotations

import base64
import json
import re
import zlib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from nmt_rela.analysis.html_page import PageRun, PageSentence, pack_weights, render_page, write_page
from nmt_rela.analysis.statistics import LayerStatistics
from nmt_rela.models.transformer import ATTENTION_SITES

SHAPES = {"encoder": (2, 3, 5, 5), "decoder": (2, 3, 4, 4), "cross": (2, 3, 4, 5)}


def some_weights(seed: int = 0, scale: float = 1.0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {site: np.maximum(generator.normal(size=shape), 0) * scale for site, shape in SHAPES.items()}


def unpack(text: str) -> dict[str, np.ndarray]:
    """What the page's script does, in Python."""
    data = zlib.decompress(base64.b64decode(text))
    found, offset = {}, 0
    for site in ATTENTION_SITES:
        layers, heads = SHAPES[site][:2]
        largest = np.frombuffer(data, "<f4", layers * heads, offset).reshape(layers, heads, 1, 1)
        offset += 4 * layers * heads
        codes = np.frombuffer(data, np.uint8, int(np.prod(SHAPES[site])), offset).reshape(SHAPES[site])
        offset += codes.size
        found[site] = largest * (codes / 255.0) ** 2
    assert offset == len(data)
    return found


@pytest.mark.parametrize("scale", [1e-6, 1.0, 300.0])
def test_packed_weights_are_within_half_a_percent_and_zeros_are_exact(scale: float) -> None:
    weights = some_weights(scale=scale)
    weights["cross"][1, 2] = 0
    weights["cross"][0, 0, 0, 0] = scale * 1e-12  # tiny, but not zero
    for site, found in unpack(pack_weights(weights)).items():
        np.testing.assert_array_equal(found == 0, weights[site] == 0)
        largest = weights[site].max(axis=(2, 3), keepdims=True)
        assert (np.abs(found - weights[site]) <= largest * 0.005).all()


def test_the_largest_weight_of_a_head_is_exact() -> None:
    weights = some_weights()
    found = unpack(pack_weights(weights))
    np.testing.assert_allclose(found["encoder"].max(axis=(2, 3)), weights["encoder"].max(axis=(2, 3)), rtol=1e-6)


def statistics() -> list[LayerStatistics]:
    return [
        LayerStatistics(
            site=site, layer=layer, queries=4, positions=20, sparsity=(0.5, 0.25, 1.0), null_rate=(0.0, 0.0, 1.0),
            mass=(1.0, 2.0, 0.0), entropy=(0.5, 0.123456789, None), diversity=0.75, diversity_queries=4,
            diversity_null_rows=4, diversity_softmax=0.1,
        )
        for site in ATTENTION_SITES
        for layer in range(2)
    ]  # fmt: skip


def one_run(name: str = "run") -> PageRun:
    sentence = PageSentence(
        source=("▁a", "▁b", "▁c", "▁d", "</s>"), target=("▁x", "▁y", "▁z", "</s>"), log_probability=-2.0,
        weights=pack_weights(some_weights()),
    )  # fmt: skip
    return PageRun(
        name=name, attention=dict.fromkeys(ATTENTION_SITES, "rela-g"), sentences=[sentence, None],
        statistics=statistics(),
        head_measures={"AER normal": {"cross": [[0.1, None, 0.3], [0.4, 0.5, 0.6]]}},
    )  # fmt: skip


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.scripts: dict[str, str] = {}
        self.addresses: list[str] = []
        self._inside: str | None = None

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        named = dict(attributes)
        self.addresses += [str(named[name]) for name in ("src", "href", "action") if name in named]
        self._inside = str(named.get("id", "code")) if tag == "script" else None

    def handle_data(self, data: str) -> None:
        if self._inside is not None:
            self.scripts[self._inside] = self.scripts.get(self._inside, "") + data

    def handle_endtag(self, tag: str) -> None:
        self._inside = None


def parse(page: str) -> _Elements:
    elements = _Elements()
    elements.feed(page)
    return elements


def test_the_page_contains_all_data_and_loads_nothing() -> None:
    texts = [("a </script><b>", "x \u2028 @data@"), ("c", "d")]
    elements = parse(render_page([one_run()], texts, title="<Attention> & co", subtitle="@title@"))
    assert elements.addresses == []
    data = json.loads(elements.scripts["page-data"])
    assert [(s["source"], s["target"]) for s in data["sentences"]] == texts
    assert data["title"] == "<Attention> & co"
    assert data["subtitle"] == "@title@"
    assert set(elements.scripts) == {"page-data", "weights-0-0", "code"}
    cross = data["runs"][0]["sites"]["cross"]
    assert (cross["layers"], cross["heads"]) == (2, 3)
    assert cross["head_measures"]["AER normal"] == [[0.1, None, 0.3], [0.4, 0.5, 0.6]]
    assert cross["head_measures"]["entropy"][0] == [0.5, 0.12346, None]
    assert data["runs"][0]["sentences"][1] is None
    np.testing.assert_array_equal(unpack(elements.scripts["weights-0-0"])["cross"] == 0, some_weights()["cross"] == 0)


def test_the_page_forbids_network_access_by_policy() -> None:
    page = render_page([one_run()], [("a", "b")] * 2, title="t")
    assert "default-src 'none'" in page
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)


def test_the_page_is_written_atomically(tmp_path: Path) -> None:
    path = write_page(tmp_path / "new" / "page.html", [one_run("ä"), one_run("b")], [("a", "b")] * 2, title="t")
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [entry.name for entry in path.parent.iterdir()] == ["page.html"]
