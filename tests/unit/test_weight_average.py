"""The moving average of the weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from nmt_rela.checkpoints.checkpoint import list_checkpoints, load_tensors
from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.commands import train
from tests.digits import TINY, write_digits


def test_the_checkpoint_holds_the_average_that_float64_gives(tmp_path: Path) -> None:
    config = write_digits(tmp_path, reverse=True, pairs=60)
    settings = ["training.max_updates=6", "training.ema_decay=0.4", "training.update_tokens=150", "model.dropout=0.1"]
    before: list[list[torch.Tensor]] = []
    after: list[list[torch.Tensor]] = []

    def record(kept: list[list[torch.Tensor]], optimizer: torch.optim.Optimizer) -> None:
        kept.append([parameter.detach().double() for parameter in optimizer.param_groups[0]["params"]])

    hooks = [
        register_optimizer_step_pre_hook(lambda optimizer, *_: record(before, optimizer)),
        register_optimizer_step_post_hook(lambda optimizer, *_: record(after, optimizer)),
    ]
    try:
        assert train.main(["--config", str(config), "--quiet", *TINY, *settings]) == 0
    finally:
        for hook in hooks:
            hook.remove()
    run = RunDirectory(tmp_path / "run")
    newest = list_checkpoints(run.checkpoints)[-1]
    trained = load_tensors(newest, "training")["weights"]
    model = run.load_model("last")
    names = [name for name, _ in model.named_parameters()]
    assert len(after) == 6
    average = before[0]
    for update, values in enumerate(after, start=1):
        decay = min(0.4, (1 + update) / (10 + update))
        average = [decay * old + (1 - decay) * new for old, new in zip(average, values, strict=True)]
    for name, expected, latest in zip(names, average, after[-1], strict=True):
        found = model.get_parameter(name).double()
        assert torch.allclose(found, expected, rtol=0, atol=1e-6), name
        assert torch.equal(trained[name].double(), latest), name
    assert any(not torch.equal(model.get_parameter(name), trained[name]) for name in names)
