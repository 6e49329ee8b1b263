"""Every shipped configuration loads, and the models are of the size that is said of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from nmt_rela.config.loader import load_config
from nmt_rela.config.schema import Config
from nmt_rela.models.transformer import Transformer

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
#: What one gives oneself.
GIVEN = ["run_dir=runs/mine", "data.task=demo", "data.source_language=en", "data.target_language=de"]
#: Complete experiments; the others are to be extended.
EXPERIMENTS = {
    "demo",
    *(path.stem for path in CONFIGS.glob("wmt*")),
    *(path.stem for path in CONFIGS.glob("multi30k*")),
}


def parameters(config: Config) -> int:
    size = config.data.vocabulary_size
    with torch.device("meta"):
        model = Transformer(size, size, **dataclasses.asdict(config.model))
    return sum(parameter.numel() for parameter in model.parameters())


def formula(config: Config) -> int:
    """Counted by hand: matrices, biases and norms of softmax layers, embeddings."""
    model, size = config.model, config.data.vocabulary_size
    d, f = model.d_model, model.ffn_dim
    attention, feed_forward, norm = 4 * (d * d + d), 2 * d * f + f + d, 2 * d
    encoder = model.encoder_layers * (attention + feed_forward + 2 * norm)
    decoder = model.decoder_layers * (2 * attention + feed_forward + 3 * norm)
    embeddings = {"all": 1, "target": 2, "none": 3}[model.tied_embeddings] * size * d
    return encoder + decoder + embeddings + (2 * norm if model.norm_order == "pre" else 0)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_loads(path: Path) -> None:
    config = load_config(path, [] if path.stem in EXPERIMENTS else GIVEN)
    assert config.run_dir


@pytest.mark.parametrize("name", ["small", "base", "big"])
def test_the_sizes(name: str) -> None:
    post, pre = (
        load_config(CONFIGS / f"{stem}.yaml", [*GIVEN, "model.attention=softmax"]) for stem in (name, f"{name}-prenorm")
    )
    assert (post.model.norm_order, pre.model.norm_order) == ("post", "pre")
    assert parameters(post) == formula(post)
    assert parameters(pre) == formula(pre)
    said = {"small": 9.6, "base": 76.9, "big": 242.0}
    assert parameters(post) / 1e6 == pytest.approx(said[name], rel=0.01)


def test_rela_costs_few_parameters() -> None:
    """One or two vectors as wide as the model in each of 18 attentions."""
    counts = {
        variant: parameters(load_config(CONFIGS / "base.yaml", [*GIVEN, f"model.attention={variant}"]))
        for variant in ("softmax", "sparsemax", "entmax15", "rela-i", "rela-g")
    }
    extra = {variant: count - counts["softmax"] for variant, count in counts.items()}
    assert extra == {"softmax": 0, "sparsemax": 0, "entmax15": 0, "rela-i": 18 * 512, "rela-g": 2 * 18 * 512}
