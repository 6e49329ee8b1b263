"""What objects look like in a console and in a notebook."""

from __future__ import annotations

from dataclasses import replace

import pytest
from toy_translator import toy_model, toy_tokenizers, toy_translator

from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.config.loader import load_config
from nmt_rela.config.schema import (
    Config,
    DataConfig,
    DecodingConfig,
    EvaluationConfig,
    ModelConfig,
    TrainingConfig,
)
from nmt_rela.generation.options import Translation, TranslationHypothesis, TranslationOptions
from nmt_rela.generation.translator import Translator


def hypothesis(text: str, score: float) -> TranslationHypothesis:
    return TranslationHypothesis(
        text=text, score=score, log_probability=2 * score, tokens=("▁a", "</s>"), token_log_probabilities=(score, score)
    )


def test_settings_are_shown_as_the_call_that_makes_them_without_defaults() -> None:
    config = load_config("configs/demo.yaml")
    assert eval(repr(config)) == config
    assert repr(config.decoding) == "DecodingConfig()"
    assert repr(replace(config.evaluation, metrics=("ter",))) == "EvaluationConfig(metrics=('ter',))"
    assert repr(TranslationOptions(n_best=2)) == "TranslationOptions(n_best=2)"
    assert eval(repr(ModelConfig(dropout=0.25))) == ModelConfig(dropout=0.25)
    assert {Config, DataConfig, DecodingConfig, EvaluationConfig, TrainingConfig}  # what eval reads


def test_results_are_shown_in_one_line() -> None:
    one, two = hypothesis("der Hund", -0.5), hypothesis("ein Hund", -0.75)
    assert (
        repr(Translation(source="the dog", hypotheses=(one,))) == "<Translation 'the dog' → 'der Hund', score -0.5000>"
    )
    assert repr(Translation(source="a", hypotheses=(one, two))).endswith("score -0.5000, 2 hypotheses>")
    assert repr(one) == "<TranslationHypothesis 'der Hund', score -0.5000, 2 sub-words>"
    assert repr(toy_translator().score(["a"], [""])[0]).startswith("<ScoringResult log-probability -")


def test_a_run_directory_shows_its_path_and_a_translator_its_model() -> None:
    assert repr(RunDirectory("runs/demo")) == "RunDirectory('runs/demo')"
    assert repr(toy_translator(attention="rela-i")) == (
        "<Translator rela-i, 2+2 layers, d_model 32, 90 → 90 sub-words, beam_size 4, on cpu>"
    )
    assert repr(Translator([toy_model(), toy_model()], toy_tokenizers())).startswith("<Translator 2 models, softmax, ")


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "a & b", '"quoted"'])
def test_a_notebook_shows_a_translation_as_an_escaped_table(text: str) -> None:
    html = Translation(source=text, hypotheses=(hypothesis(text, -0.5), hypothesis("x", -1.0)))._repr_html_()
    assert text not in html.replace('dir="auto"', "")
    assert html.count("<tr>") == 3
    assert "-1.0000" in html
