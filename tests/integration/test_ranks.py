"""Several ranks do what one does; and when one of them cannot go on, none does."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook

from nmt_rela.checkpoints.checkpoint import list_checkpoints, load_tensors
from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.checkpoints.run_lock import RunLock
from nmt_rela.commands import train
from nmt_rela.training import distributed, trainer
from nmt_rela.training.objective import TranslationObjective
from tests.digits import TINY, write_digits
from tests.ranks import ForkedRanks

COMMON = [
    *TINY,
    "training.log_every=1",
    "training.validation_decode_sentences=0",
    "training.checkpoint_metric=loss",
    "training.warmup_updates=1",
]
ENDLESS = ["training.max_updates=1000000", "training.update_tokens=512"]


def settings(config: Path, name: str, *more: str) -> list[str]:
    return ["--config", str(config), f"run_dir={config.parent / name}", *COMMON, *more]


def launched(arguments: list[str], *options: str) -> subprocess.Popen[str]:
    """Two ranks of torchrun."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*launcher, "-m", "nmt_rela.commands.train", *arguments]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def newest(run: Path, stem: str) -> dict[str, Any]:
    found: dict[str, Any] = load_tensors(list_checkpoints(RunDirectory(run).checkpoints)[-1], stem)
    return found


def records(run: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in RunDirectory(run).metrics.read_text().splitlines()]
    timed = ("per_second", "data_wait_fraction", "time", "elapsed")
    return [{name: value for name, value in record.items() if not name.endswith(timed)} for record in found]


def first_moments(run: Path) -> list[torch.Tensor]:
    """Adam's first moments after one update are a tenth of the gradients."""
    state = newest(run, "training")["optimizer"]["state"]
    return [state[index]["exp_avg"].double() for index in sorted(state)]


@pytest.mark.parametrize("normalization", ["tokens", "sentences"])
def test_gradients_do_not_depend_on_how_an_update_is_cut(tmp_path: Path, normalization: str) -> None:
    """Ten ragged pairs make one update, whatever it is cut into."""
    config = write_digits(tmp_path, reverse=True, pairs=10)
    common = ["training.max_updates=1", f"training.loss_normalization={normalization}", "--quiet"]
    for size in (1_000, 60, 1):
        assert train.main(settings(config, f"size{size}", *common, f"training.max_batch_tokens={size}")) == 0
    for world_size in (2, 3):
        ranks = ForkedRanks(settings(config, f"ranks{world_size}", *common), tmp_path, size=world_size)
        assert ranks.statuses() == [0] * world_size
        assert all(ranks.stderr(rank) == "" for rank in range(world_size))
    whole = first_moments(tmp_path / "size1000")
    scale = max(float(gradient.abs().max()) for gradient in whole)
    for name in ("size60", "size1", "ranks2", "ranks3"):
        for gradient, expected in zip(first_moments(tmp_path / name), whole, strict=True):
            assert float((gradient - expected).abs().max()) < 1e-6 * scale


def test_one_two_and_three_ranks_have_the_same_losses_and_continue_one_another(tmp_path: Path) -> None:
    """Fifty ragged updates with dropout off; then two ranks hand over to one, and one to three."""
    config = write_digits(tmp_path, reverse=True, pairs=200)
    common = ["training.update_tokens=150", "training.learning_rate=0.0003", "--quiet"]
    for world_size in (1, 2, 3):
        arguments = settings(config, f"ranks{world_size}", *common, "training.max_updates=50")
        assert ForkedRanks(arguments, tmp_path, size=world_size).statuses() == [0] * world_size
    for world_size, update in ((2, 15), (1, 30), (3, 50)):
        arguments = settings(config, "changing", *common, f"training.max_updates={update}")
        arguments.append("training.max_batch_tokens=" + ("60" if world_size == 1 else "300"))
        assert ForkedRanks(arguments, tmp_path, size=world_size).statuses() == [0] * world_size
    one = newest(tmp_path / "ranks1", "model")
    losses = [record["loss"] for record in records(tmp_path / "ranks1") if record["event"] == "train"]
    assert len(losses) == 50
    for name in ("ranks2", "ranks3", "changing"):
        assert [r["loss"] for r in records(tmp_path / name) if r["event"] == "train"] == pytest.approx(losses, rel=1e-6)
        other = newest(tmp_path / name, "model")
        assert all(torch.allclose(one[key], other[key], rtol=0, atol=1e-5) for key in one)


def test_two_ranks_have_the_same_segmentations_weighted_pairs_links_and_averaged_weights(tmp_path: Path) -> None:
    config = write_digits(tmp_path, reverse=True, pairs=100, links=True)
    common = ["data.vocabulary_size=60", "data.subword_regularization=0.3", "data.weights.train=1.5", "--quiet"]
    common += ["training.ema_decay=0.9", "training.guided_alignment.weight=0.2"]
    common += ["training.max_updates=12", "training.update_tokens=250"]
    for world_size in (1, 2):
        arguments = settings(config, f"ranks{world_size}", *common)
        assert ForkedRanks(arguments, tmp_path, size=world_size).statuses() == [0] * world_size
    for measure in ("loss", "alignment_loss"):
        one, two = ([r[measure] for r in records(tmp_path / name) if measure in r] for name in ("ranks1", "ranks2"))
        assert len(one) >= 12
        assert one == pytest.approx(two, rel=1e-6)
    weights = newest(tmp_path / "ranks1", "model")
    assert all(
        torch.allclose(weights[k], v, rtol=0, atol=1e-5) for k, v in newest(tmp_path / "ranks2", "model").items()
    )


def test_an_update_reduces_each_gradient_bucket_once_whatever_the_number_of_micro_batches(tmp_path: Path) -> None:
    config = write_digits(tmp_path, reverse=True, pairs=200)

    def count(rank: int) -> None:
        passes: list[int] = []
        reduced: list[int] = []
        all_reduce = torch.distributed.all_reduce

        def reduce(tensor: torch.Tensor, **options: Any) -> Any:
            if options.get("async_op"):  # gradients; control messages are waited for
                reduced.append(tensor.numel())
            return all_reduce(tensor, **options)

        def count_pass(module: torch.nn.Module, _: Any) -> None:
            passes.extend([1] * (isinstance(module, TranslationObjective) and module.training))

        def report(*_: Any) -> None:
            print(f"{len(passes)} micro-batches, buckets {reduced}", file=sys.stderr)
            passes.clear()
            reduced.clear()

        torch.distributed.all_reduce = reduce
        register_module_forward_pre_hook(count_pass)
        register_optimizer_step_post_hook(report)

    # Millions of parameters make more than one bucket.
    common = ["model.d_model=256", "model.ffn_dim=1024", "training.max_updates=3", "training.update_tokens=600"]
    for size in (20_000, 30):
        arguments = settings(config, f"size{size}", *common, "--quiet")
        ranks = ForkedRanks([*arguments, f"training.max_batch_tokens={size}"], tmp_path, prepare=count)
        assert ranks.statuses() == [0, 0]
        weights = newest(tmp_path / f"size{size}", "model").values()
        parameters = sum({tensor.data_ptr(): tensor.numel() for tensor in weights}.values())
        for rank in (0, 1):
            found = re.findall(r"(\d+) micro-batches, buckets \[([\d, ]+)\]", ranks.stderr(rank))
            assert len(found) == 3
            assert all((int(number) > 5) == (size == 30) for number, _ in found)
            for _, buckets in found[1:]:  # the first update contains the pass that fixes the order of the buckets
                assert len(buckets.split(", ")) > 1
                assert sum(map(int, buckets.split(", "))) == parameters


def test_a_signal_to_one_rank_stops_all_and_stopping_changes_no_bit(tmp_path: Path) -> None:
    config = write_digits(tmp_path, reverse=True, pairs=200)
    common = ["training.update_tokens=512", "training.max_batch_tokens=200", "model.dropout=0.2"]
    common += ["training.max_updates=6"]
    common += ["training.log_every=4", "training.validate_every=3", "training.validation_decode_sentences=5", "--quiet"]

    def signal_in(step: int, rank: int) -> None:
        steps = iter(range(1, step + 1))

        def after_step(*_: Any) -> None:
            if next(steps, None) == step and rank == 1:
                signal.raise_signal(signal.SIGTERM)
                signal.raise_signal(signal.SIGTERM)  # as Slurm and a launcher do

        register_optimizer_step_post_hook(after_step)

    assert ForkedRanks(settings(config, "straight", *common), tmp_path).statuses() == [0, 0]
    for update, step in ((2, 2), (3, 1), (6, 3)):
        stopping = settings(config, "halting", *common)
        ranks = ForkedRanks(stopping, tmp_path, prepare=lambda rank, step=step: signal_in(step, rank))  # type: ignore[misc]
        assert ranks.statuses() == [0, 143]
        assert list_checkpoints(RunDirectory(tmp_path / "halting").checkpoints)[-1].name.endswith(str(update))
    assert ForkedRanks(settings(config, "halting", *common), tmp_path).statuses() == [0, 0]
    straight, halting = (newest(tmp_path / name, "model") for name in ("straight", "halting"))
    assert all(torch.equal(straight[name], halting[name]) for name in straight)
    assert records(tmp_path / "straight") == records(tmp_path / "halting")


def test_three_ranks_that_continue_change_no_bit(tmp_path: Path) -> None:
    """The order in which three numbers are added depends on where a gradient lies in its bucket."""
    config = write_digits(tmp_path, reverse=True, pairs=200)
    common = ["training.update_tokens=512", "model.dropout=0.2", "model.d_model=256", "model.ffn_dim=1024", "--quiet"]
    for name, end in (("straight", 4), ("halting", 1), ("halting", 4)):
        arguments = settings(config, name, *common, f"training.max_updates={end}")
        assert ForkedRanks(arguments, tmp_path, size=3).statuses() == [0, 0, 0]
    straight, halting = (newest(tmp_path / name, "model") for name in ("straight", "halting"))
    assert all(torch.equal(straight[name], halting[name]) for name in straight)


def test_ranks_without_pairs_take_part(tmp_path: Path) -> None:
    config = write_digits(tmp_path, reverse=True, pairs=10)
    common = ["data.max_pairs_per_source=1", "data.vocabulary_size=16", "training.max_updates=3", "--quiet"]
    assert train.main(settings(config, "one", *common)) == 0
    ranks = ForkedRanks(settings(config, "three", *common), tmp_path, size=3)
    assert ranks.statuses(seconds=60) == [0, 0, 0]
    one, three = (newest(tmp_path / name, "model") for name in ("one", "three"))
    assert all(torch.allclose(one[name], three[name], atol=1e-6) for name in one)


def test_waiting_for_one_rank_is_not_bounded_by_the_collective_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_digits(tmp_path, reverse=True, pairs=50)
    monkeypatch.setattr(distributed, "COLLECTIVE_TIMEOUT", timedelta(seconds=2))

    def slowly(rank: int) -> None:
        def wait_in_validation(module: torch.nn.Module, _: Any) -> None:
            time.sleep(5 * (rank == 0 and isinstance(module, TranslationObjective) and not module.training))

        register_module_forward_pre_hook(wait_in_validation)

    arguments = settings(config, "run", "training.max_updates=1", "--quiet")
    assert ForkedRanks(arguments, tmp_path, prepare=slowly).statuses() == [0, 0]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_the_other_within_a_minute(tmp_path: Path, victim: int) -> None:
    config = write_digits(tmp_path, reverse=True, pairs=200)
    ranks = ForkedRanks(settings(config, "run", *ENDLESS), tmp_path)
    ranks.wait_for("loss")
    ranks.kill(victim, signal.SIGKILL)
    statuses = ranks.statuses(seconds=60)
    assert statuses[victim] == -signal.SIGKILL
    assert statuses[1 - victim] == 1
    reported = "nmt-train: rank 0 of 2 lost contact to another rank" in ranks.stderr(0)
    assert reported == (victim == 1)
    assert ranks.stderr(1) == ""


def test_ranks_that_have_diverged_end_the_run(tmp_path: Path) -> None:
    config = write_digits(tmp_path, reverse=True, pairs=200)

    def faster(rank: int) -> None:
        if rank == 1:
            trainer.learning_rate = lambda *_, **__: 0.01  # type: ignore[assignment]

    ranks = ForkedRanks(settings(config, "run", *ENDLESS), tmp_path, prepare=faster)
    assert ranks.statuses(seconds=60) == [1, 1]
    assert "update 1: the ranks have diverged" in ranks.stderr(0)
    assert ranks.stderr(1) == ""


def test_an_error_is_reported_once(tmp_path: Path) -> None:
    config = write_digits(tmp_path, reverse=True, pairs=50)
    ranks = ForkedRanks(settings(config, "run", "training.precision=fp16", "--quiet"), tmp_path)
    assert ranks.statuses(seconds=60) == [2, 2]
    said = "training.precision: 'fp16' needs a GPU; accepted on the CPU: auto, float32, bf16"
    assert (ranks.stderr(0), ranks.stderr(1)) == (f"nmt-train: error: {said}\n", "")
    # By both ranks, before they join.
    ranks = ForkedRanks(settings(config, "run", "model.num_heads=x"), tmp_path)
    assert ranks.statuses(seconds=60) == [2, 2]
    assert "model.num_heads: expected a whole number" in ranks.stderr(0)
    assert ranks.stderr(1) == ""
    # On the main rank only, while the other waits.
    lock = RunLock()
    lock.acquire(tmp_path / "run" / ".lock")
    ranks = ForkedRanks(settings(config, "run", "--quiet"), tmp_path)
    assert ranks.statuses(seconds=60) == [2, 2]
    assert ranks.stderr(0).count("\n") == 1
    assert f"is being trained by process {os.getpid()} on" in ranks.stderr(0)
    assert ranks.stderr(1) == ""


@pytest.mark.parametrize(
    ("more", "restarts", "message"),
    [
        (["--restart"], 0, "--restart: not accepted on several machines"),
        ([], 3, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"),
    ],
)
def test_what_would_lose_a_run_when_one_of_several_machines_restarts_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    more: list[str], restarts: int, message: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", str(restarts))
    assert train.main([*settings(tmp_path / "no.yaml", "run"), *more]) == 2
    assert message in capsys.readouterr().err


#: ``nmt-train`` on a machine that seems to have two devices.
ON_TWO = (
    "from nmt_rela.commands import train; from nmt_rela.training import launch; "
    "launch.visible_gpus = lambda _: 2; raise SystemExit(train.main())"
)


@pytest.mark.slow
def test_an_error_of_the_ranks_is_reported_once_by_the_command(tmp_path: Path) -> None:
    config = write_digits(tmp_path, reverse=True, pairs=200)
    command = [sys.executable, "-c", ON_TWO, *settings(config, "run", "--quiet", "training.precision=fp16")]
    ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "training.precision: 'fp16' needs a GPU" in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_nmt_train_on_two_devices_passes_signals_on(tmp_path: Path, number: signal.Signals) -> None:
    config = write_digits(tmp_path, reverse=True, pairs=200)
    process = subprocess.Popen(
        [sys.executable, "-c", ON_TWO, *settings(config, "run", *ENDLESS)], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "update" in line and "loss" in line:
            break
    process.send_signal(number)
    rest = process.communicate(timeout=300)[1]
    assert process.returncode == (130 if number == signal.SIGINT else 143)
    assert "stopped at update" in rest
    assert list_checkpoints(tmp_path / "run" / "checkpoints")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent was killed")
def test_the_ranks_of_a_killed_launcher_save_and_stop(tmp_path: Path) -> None:
    config = write_digits(tmp_path, reverse=True, pairs=200)
    process = subprocess.Popen(
        [sys.executable, "-c", ON_TWO, *settings(config, "run", *ENDLESS)], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "update" in line and "loss" in line:
            break
    process.kill()
    assert "stopped at update" in process.communicate(timeout=60)[1]  # the ranks, too, have closed stderr
    assert list_checkpoints(tmp_path / "run" / "checkpoints")
    lock = RunLock()
    lock.acquire(tmp_path / "run" / ".lock")
    lock.release()


@pytest.mark.slow
def test_under_max_restarts_a_killed_run_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    config = write_digits(tmp_path, reverse=True, pairs=200)
    common = ["training.max_updates=60", "training.update_tokens=512", "training.save_every=5"]
    assert ForkedRanks(settings(config, "straight", *common, "--quiet"), tmp_path).statuses() == [0, 0]
    process = launched(settings(config, "killed", *common), "--max-restarts=3")
    assert process.stderr is not None
    for line in process.stderr:
        if "update 10/" in line:
            children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
            os.kill(int(children.stdout.split()[-1]), signal.SIGKILL)
            break
    rest = process.communicate(timeout=600)[1]
    assert process.returncode == 0, rest
    assert "from update 10" in rest
    straight, killed = (newest(tmp_path / name, "model") for name in ("straight", "killed"))
    assert all(torch.equal(straight[name], killed[name]) for name in straight)
    assert records(tmp_path / "straight") == records(tmp_path / "killed")
