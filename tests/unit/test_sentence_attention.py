"""The attention of one sentence from a translator: arrays, a plot, BertViz's arguments, what a notebook shows."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from toy_translator import toy_model, toy_tokenizers, toy_translator

from nmt_rela.data.tokenizer import EOS
from nmt_rela.generation.attention import SentenceAttention
from nmt_rela.generation.translator import Translator
from nmt_rela.models.attention_capture import capture_attention
from nmt_rela.utils.errors import ConfigError, DataError

SOURCE, TARGET = "der Hund läuft.", "eine Katze schläft heute."


@pytest.fixture(scope="module")
def translator() -> Translator:
    return toy_translator(attention="rela-g", max_source_length=24)


@pytest.fixture(scope="module")
def attention(translator: Translator) -> SentenceAttention:
    return translator.attention(SOURCE, TARGET)


def test_arrays_are_those_of_the_model_that_reads_the_pair(
    translator: Translator, attention: SentenceAttention
) -> None:
    tokenizers, model = toy_tokenizers(), translator.models[0]
    ids = [[*tokenizers.source.encode([text])[0], EOS] for text in (SOURCE, TARGET)]  # one model for both sides
    with capture_attention(model) as captured:
        model(torch.tensor([ids[0]]), model.shift_right(torch.tensor([ids[1]])))
    for site in ("encoder", "decoder", "cross"):
        expected = np.stack([captured[site, layer][0].numpy() for layer in range(2)])
        np.testing.assert_array_equal(getattr(attention, site), expected)
        queries, keys = attention.tokens(site)
        assert expected.shape == (2, 4, len(queries), len(keys))
    assert attention.source_tokens == tuple(tokenizers.source.convert_ids_to_pieces(ids[0]))
    assert attention.target_tokens == tuple(tokenizers.target.convert_ids_to_pieces(ids[1]))
    assert attention.target_inputs == ("<s>", *attention.target_tokens[:-1])
    assert sum(attention.token_log_probabilities) == pytest.approx(
        translator.score([SOURCE], [TARGET])[0].log_probability, abs=1e-4
    )


def test_without_a_target_the_model_reads_its_own_translation(translator: Translator) -> None:
    found = translator.attention(SOURCE)
    assert found.translation is not None
    hypothesis = found.translation.hypotheses[0]
    assert (found.target, found.target_tokens) == (hypothesis.text, hypothesis.tokens)
    assert found.token_log_probabilities == pytest.approx(hypothesis.token_log_probabilities, abs=4e-5)


def test_a_list_of_lines_gives_a_list_and_leaves_the_models_unobserved(translator: Translator) -> None:
    first, second = translator.attention([SOURCE, "die Katze."], [TARGET, "das Haus"])
    np.testing.assert_array_equal(first.cross, translator.attention(SOURCE, TARGET).cross)
    assert second.target == "das Haus"
    assert translator.attention([]) == []
    modules = translator.models[0].attention_modules().values()
    assert not any(module.hook_pattern._forward_hooks for module in modules)


def test_null_rows_are_the_rows_without_any_weight(attention: SentenceAttention) -> None:
    nulls = attention.null_rows
    assert {site: rows.shape for site, rows in nulls.items()} == {
        site: getattr(attention, site).shape[:3] for site in ("encoder", "decoder", "cross")
    }
    assert any(rows.any() for rows in nulls.values())
    for site, rows in nulls.items():
        assert (getattr(attention, site).sum(-1)[rows] == 0).all()
        assert (getattr(attention, site).sum(-1)[~rows] > 0).all()
    softmax = toy_translator().attention(SOURCE, TARGET)
    assert not any(rows.any() for rows in softmax.null_rows.values())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.attention(""), r"source\[0\]: found a blank line"),
        (lambda t: t.attention([SOURCE, " "]), r"source\[1\]: found a blank line"),
        (lambda t: t.attention("Hund " * 30), r"source\[0\]: found \d+ sub-words; accepted: up to 23"),
        (lambda t: t.attention(SOURCE, "Hund " * 30), r"target\[0\]: found \d+ sub-words; accepted: up to 23"),
        (lambda t: t.attention(SOURCE, [TARGET]), "target: found .* one line, or None"),
        (lambda t: t.attention([SOURCE], TARGET), "target: found one str"),
        (lambda t: t.attention([SOURCE], [TARGET, TARGET]), "target: found 2 for 1 sources"),
        (lambda t: t.attention(5), "source: found one int"),
    ],
)
def test_what_cannot_be_read_as_one_sentence_is_refused(
    translator: Translator, call: Callable[[Any], object], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        call(translator)


def test_an_ensemble_is_refused() -> None:
    ensemble = Translator([toy_model(), toy_model(seed=1)], toy_tokenizers())
    with pytest.raises(ConfigError, match="found an ensemble of 2 models; accepted: one model"):
        ensemble.attention(SOURCE)


def test_a_plot_shows_the_heads_of_a_layer_or_one_of_them(attention: SentenceAttention) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (the extra 'analysis')")
    shown = [axis for axis in attention.plot("decoder", layer=1).axes if axis.get_visible()]
    assert [axis.get_xlabel().partition(" ·")[0] for axis in shown] == [f"head {head}" for head in range(4)]
    figure = attention.plot(head=2)
    assert len(figure.axes) == 1
    assert figure.get_suptitle() == "cross-attention (rela-g), layer 1"
    array = figure.axes[0].images[0].get_array()
    assert array is not None
    np.testing.assert_allclose(np.ma.filled(array, 0.0), attention.cross[1, 2])
    assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"site": "cros"}, "site: found 'cros'; did you mean 'cross'?"),
        ({"layer": 2}, "layer: found 2; accepted: 0 to 1"),
        ({"head": -1}, "head: found -1; accepted: 0 to 3"),
    ],
)
def test_a_plot_of_what_the_model_lacks_is_refused(
    attention: SentenceAttention, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        attention.plot(**arguments)


def test_bertviz_gets_tensors_per_layer_that_fit_its_tokens(attention: SentenceAttention) -> None:
    given = attention.to_bertviz()
    lengths = {"encoder": len(given["encoder_tokens"]), "decoder": len(given["decoder_tokens"])}
    for site, queries, keys in (("encoder",) * 3, ("decoder",) * 3, ("cross", "decoder", "encoder")):
        layers = given[f"{site}_attention"]
        assert [tuple(layer.shape) for layer in layers] == [(1, 4, lengths[queries], lengths[keys])] * 2
        for given_head, head in zip(layers[1][0].numpy(), getattr(attention, site)[1], strict=True):
            np.testing.assert_allclose(given_head, head / max(head.max(), 1), rtol=1e-6)  # opacities


def test_bertviz_takes_the_arguments(attention: SentenceAttention) -> None:
    bertviz = pytest.importorskip("bertviz", reason="bertviz is not installed")
    for view in (bertviz.head_view, bertviz.model_view):
        assert set(attention.to_bertviz()) <= set(inspect.signature(view).parameters)
        assert view(**attention.to_bertviz(), html_action="return").data


def test_a_notebook_shows_cross_attention_as_an_escaped_table(translator: Translator) -> None:
    found = translator.attention("der <b>Hund</b> & $x$", TARGET)
    html = found._repr_html_()
    assert "&lt;b&gt;Hund&lt;/b&gt; &amp; $x$" in html
    assert "<b>" not in html
    assert 'class="tex2jax_ignore mathjax_ignore"' in html
    assert html.count("<td") == 1 + len(found.source_tokens) * len(found.target_tokens)
    assert repr(found).startswith(
        "<SentenceAttention 'der <b>Hund</b> & $x$' → 'eine Katze schläft heute.': encoder [2, 4,"
    )
