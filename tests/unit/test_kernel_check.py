"""The safety net of GPUs: right kernels pass, and whatever is wrong with one is found and named."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from nmt_rela.attention import backends
from nmt_rela.attention.kernel_check import check_attention
from nmt_rela.attention.variants import ATTENTION_VARIANTS
from nmt_rela.kernels import availability
from nmt_rela.kernels.availability import assume_processor, disable_backend, disabled_reason, triton_problem
from nmt_rela.models.kernel_check import check_layers
from nmt_rela.training.kernel_check import check_loss
from nmt_rela.utils.errors import ConfigError
from tests.triton_interpreter import repair_bfloat16

pytest.importorskip("triton", reason="Triton is not installed; the package does without its kernels")

DEVICE = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")

pytestmark = pytest.mark.filterwarnings("ignore:(divide by zero|invalid value) encountered:RuntimeWarning")


@pytest.fixture(autouse=True)
def _gpu_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a GPU would use, interpreted where there is none; nothing is remembered from test to test."""
    if DEVICE.type == "cpu":
        repair_bfloat16(monkeypatch)
    monkeypatch.setattr(availability, "_disabled", {})
    check_attention.cache_clear()
    triton_problem.cache_clear()
    with assume_processor("gpu"):
        yield
    check_attention.cache_clear()
    triton_problem.cache_clear()


def check(variant: str, dtype: torch.dtype = torch.float32) -> Any:
    return check_attention(frozenset({variant}), head_dim=16, dtype=dtype, device=DEVICE, backward=True)


@pytest.mark.parametrize(
    ("variant", "dtype"),
    [(each, torch.bfloat16) for each in ATTENTION_VARIANTS] + [("rela-g", torch.float16), ("entmax15", torch.float32)],
)
def test_right_kernels_pass(variant: str, dtype: torch.dtype) -> None:
    assert check(variant, dtype) == {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_right_loss_passes(dtype: torch.dtype) -> None:
    assert check_loss(dtype, DEVICE) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("training", [True, False])
def test_the_right_layers_pass(dtype: torch.dtype, training: bool) -> None:
    assert check_layers(dtype, DEVICE, width=512, training=training) is None


@pytest.mark.parametrize(
    ("module", "function", "message"),
    [
        ("dropout_add_norm", "dropout_add_norm_triton", "layer norm in torch.float32: the output errs by 1.0e-02"),
        ("relu_dropout", "relu_dropout_triton", "feed-forward in torch.float32: the output errs by 1.0e-02"),
    ],
)
def test_a_fault_in_a_layer_is_found(module: str, function: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = importlib.import_module(f"nmt_rela.kernels.triton.{module}")
    right = getattr(owner, function)

    def wrong(*given: Any, **options: Any) -> Any:
        result = right(*given, **options)
        return 1.01 * result if isinstance(result, Tensor) else tuple(1.01 * each for each in result)

    monkeypatch.setattr(owner, function, wrong)
    assert str(check_layers(torch.float32, DEVICE, width=512, training=True)).startswith(message)


@pytest.mark.parametrize(("module", "layer"), [("dropout_add_norm", "layer norm"), ("relu_dropout", "feed-forward")])
def test_a_wrong_dropout_in_a_layer_is_found(module: str, layer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = importlib.import_module(f"nmt_rela.kernels.triton.{module}")
    right = owner.dropped_levels
    monkeypatch.setattr(owner, "dropped_levels", lambda p: right(0.13 if p else 0.0))
    found = str(check_layers(torch.float32, DEVICE, width=512, training=True))
    assert found.startswith(f"{layer} in torch.float32: dropout 0.1 drops a fraction of 0.1")


def with_fault(backend: Any, fault: str) -> Any:
    """A backend that is wrong in one way."""

    def faulty(variant: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, *, dropout: float) -> Tensor:
        if fault == "raises":
            raise RuntimeError("out of resources\nand more")
        if fault == "output":
            return backend(variant, query, key, 1.01 * value, mask, dropout=dropout)
        if fault == "key gradient":
            return backend(variant, query, key.detach() + 0.0 * key, value, mask, dropout=dropout)
        return backend(variant, query, key, value, mask, dropout=0.125 if dropout else 0.0)

    return faulty


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raises", "rela-g: out of resources"),
        ("output", "rela-g, encoder attention in torch.float32: the output errs by 1.0e-02, more than 5e-03"),
        ("key gradient", "rela-g, encoder attention in torch.float32: gradient 2 errs by 1.0e+00, more than 5e-03"),
        ("dropout", "rela-g: dropout 0.1 drops a fraction of 0.12"),
    ],
)
def test_a_fault_is_found_and_named(fault: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backends.ATTENTION_BACKENDS, "triton", with_fault(backends.ATTENTION_BACKENDS["triton"], fault))
    (found,) = check("rela-g").items()
    assert found[0] == "triton"
    assert found[1].startswith(message)


def test_a_wrong_norm_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    norm = backends.NORM_BACKENDS["triton"]
    monkeypatch.setitem(
        backends.NORM_BACKENDS, "triton", lambda z, gate, *, epsilon: 1.01 * norm(z, gate, epsilon=epsilon)
    )
    assert check("rela-i")["triton"].startswith("rela-i, output norm in torch.float32: the output errs by 1.0e-02")


def test_a_backend_at_fault_leaves_the_other_in_use(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setitem(backends.ATTENTION_BACKENDS, "sdpa", with_fault(backends.ATTENTION_BACKENDS["sdpa"], "output"))
    found = check_attention(
        frozenset({"softmax", "rela-g"}), head_dim=16, dtype=torch.float32, device=DEVICE, backward=True
    )
    assert list(found) == ["sdpa"]
    disable_backend("sdpa", DEVICE, found["sdpa"])
    disable_backend("sdpa", DEVICE, found["sdpa"])
    assert caplog.messages == [f"{DEVICE}: sdpa is not used; the slower reference is: {found['sdpa']}"]
    query = torch.randn(1, 1, 3, 16, device=DEVICE)
    assert backends.choose_backend(ATTENTION_VARIANTS["softmax"], query, query) == "reference"
    assert backends.choose_backend(ATTENTION_VARIANTS["rela-g"], query, query) == "triton"
    assert disabled_reason("triton", DEVICE) is None


def test_a_verdict_on_the_default_gpu_holds_for_the_tensors_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    disable_backend("sdpa", torch.device("cuda"), "it is wrong")
    devices = [torch.device("cuda"), torch.device("cuda", 1), torch.device("cuda", 0)]
    assert [disabled_reason("sdpa", device) for device in devices] == ["it is wrong", "it is wrong", None]


def test_the_environment_can_require_the_kernels_or_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NMT_RELA_KERNELS", "require")
    with pytest.raises(ConfigError, match=r"found 'require', but triton cannot be used on .*: it is slow"):
        disable_backend("triton", DEVICE, "it is slow")
    monkeypatch.setenv("NMT_RELA_KERNELS", "off")
    assert set(check("softmax")) == {"sdpa", "triton"}
    monkeypatch.setenv("NMT_RELA_KERNELS", "maybe")
    check_attention.cache_clear()
    with pytest.raises(ConfigError, match="found 'maybe'; accepted: auto, off, require"):
        check("softmax")
