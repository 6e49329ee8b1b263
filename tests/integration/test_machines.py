"""Runs on two machines, each a network namespace of this one with an address and a host name of its own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from nmt_rela.checkpoints.checkpoint import list_checkpoints
from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.commands import train
from tests.digits import write_digits
from tests.integration.test_ranks import ENDLESS, newest, records, settings
from tests.ranks import ForkedRanks

pytestmark = pytest.mark.slow

ADDRESSES = ("10.213.7.1", "10.213.7.2")


class Node:
    """A machine of its own as far as the network goes; it shares the file system with the others."""

    def __init__(self, number: int) -> None:
        self.namespace = f"nmt{os.getpid()}n{number}"
        self.address = ADDRESSES[number]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, command: list[str], log: Path, **environment: str) -> None:
        """Run a command on this node; its output is added to a file."""
        enter = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', self.namespace]
        enter += ["ip", "netns", "exec", self.namespace]
        variables = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "veth", **environment}
        with open(log, "ab") as output:
            self.process = subprocess.Popen([*enter, *command], env=variables, stdout=output, stderr=output)

    def kill(self) -> None:
        """End all of its processes at once, as a power cut does."""
        for pid in subprocess.run(
            ["ip", "netns", "pids", self.namespace], capture_output=True, check=False
        ).stdout.split():
            os.kill(int(pid), signal.SIGKILL)
        if self.process is not None:
            self.process.wait()

    def status(self) -> int:
        """The exit status of its command."""
        assert self.process is not None
        return self.process.wait(timeout=300)


@pytest.fixture
def nodes() -> Iterator[tuple[Node, Node]]:
    if os.geteuid() != 0:
        pytest.skip("two machines need network namespaces, which only root can make")
    if missing := [program for program in ("ip", "unshare") if shutil.which(program) is None]:
        pytest.skip(f"two machines need network namespaces; not installed: {', '.join(missing)}")
    pair = Node(0), Node(1)
    made = [["netns", "add", node.namespace] for node in pair]
    made += [["link", "add", "veth", "netns", pair[0].namespace, "type", "veth",
              "peer", "name", "veth", "netns", pair[1].namespace]]  # fmt: skip
    for node in pair:
        made += [["-n", node.namespace, "address", "add", f"{node.address}/24", "dev", "veth"]]
        made += [["-n", node.namespace, "link", "set", device, "up"] for device in ("lo", "veth")]
    try:
        for words in made:
            done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"two machines need network namespaces; ip {' '.join(words)}: {done.stderr.strip()}")
        yield pair
    finally:
        for node in pair:
            node.kill()
            subprocess.run(["ip", "netns", "del", node.namespace], capture_output=True, check=False)


def torchrun(node: Node, arguments: list[str], log: Path, *, max_restarts: int = 0, own_store: str = "0") -> None:
    """Start one rank on a node; the rendezvous is on the first one."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    launcher += ["--rdzv-backend=c10d", f"--rdzv-endpoint={ADDRESSES[0]}:29500", f"--max-restarts={max_restarts}"]
    # Host names cannot be resolved here.
    launcher += [f"--local-addr={node.address}", f"--rdzv-conf=is_host={node.address == ADDRESSES[0]}"]
    command = [*launcher, "-m", "nmt_rela.commands.train", *arguments]
    node.start(command, log, TORCH_DISABLE_SHARE_RDZV_TCP_STORE=own_store)


def start_rank(
    nodes: tuple[Node, Node], rank: int, arguments: list[str], log: Path, *, before: Sequence[str] = ()
) -> None:
    """Start one rank on its node without torchrun, as Slurm does with one task per GPU."""
    numbers = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": ADDRESSES[0]}
    command = [*before, sys.executable, "-m", "nmt_rela.commands.train", *arguments]
    nodes[rank].start(command, log, MASTER_PORT="29500", **numbers)


def wait_for(log: Path, text: str) -> str:
    """The output of a node, as soon as it contains a text."""
    end = time.monotonic() + 300
    while not log.exists() or text not in log.read_text(encoding="utf-8"):
        assert time.monotonic() < end, f"{text!r} is not in {log.read_text(encoding='utf-8')}"
        time.sleep(0.01)
    return log.read_text(encoding="utf-8")


def assert_same_run(first: Path, second: Path) -> None:
    one, two = newest(first, "model"), newest(second, "model")
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert records(first) == records(second)


def test_two_machines_prepare_once_and_train_like_two_ranks_and_one_goes_on_alone(
    nodes: tuple[Node, Node], tmp_path: Path
) -> None:
    config = write_digits(tmp_path, reverse=True, pairs=200)
    common = ["training.update_tokens=512", "training.learning_rate=0.0003"]
    logs = [tmp_path / "log0", tmp_path / "log1"]
    for node, log in zip(nodes, logs, strict=True):
        torchrun(node, settings(config, "nodes", *common, "training.max_updates=20"), log)
    assert [node.status() for node in nodes] == [0, 0], [log.read_text() for log in logs]
    assert [log.read_text().count("prepared in") for log in logs] in ([1, 0], [0, 1])
    assert ForkedRanks(settings(config, "ranks", *common, "training.max_updates=20"), tmp_path).statuses() == [0, 0]
    assert_same_run(tmp_path / "nodes", tmp_path / "ranks")

    for name in ("nodes", "alone"):
        assert train.main(settings(config, name, *common, "training.max_updates=30", "--quiet")) == 0
    found, expected = (
        [record["loss"] for record in records(tmp_path / name) if record["event"] == "train"]
        for name in ("nodes", "alone")
    )
    assert len(found) == 30
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("victim", "max_restarts"), [(1, 3), (0, 0)])
def test_a_run_whose_node_is_killed_and_started_again_ends_like_an_uninterrupted_one(
    nodes: tuple[Node, Node], tmp_path: Path, victim: int, max_restarts: int
) -> None:
    """Without restarts, and where the node of the rendezvous is lost, both nodes have to be started again."""
    config = write_digits(tmp_path, reverse=True, pairs=200)
    common = ["training.max_updates=100", "training.update_tokens=512", "training.save_every=10", "model.dropout=0.2"]
    assert ForkedRanks(settings(config, "straight", *common, "--quiet"), tmp_path).statuses() == [0, 0]
    logs = [tmp_path / "log0", tmp_path / "log1"]
    arguments = settings(config, "killed", *common)
    options: dict[str, Any] = {"max_restarts": max_restarts, "own_store": "1" if max_restarts else "0"}
    for node, log in zip(nodes, logs, strict=True):
        torchrun(node, arguments, log, **options)
    wait_for(logs[0], "update 20/")
    nodes[victim].kill()
    again = [victim]
    if max_restarts == 0:
        again = [0, 1]
        assert nodes[1 - victim].status() == 1
        assert "nmt-train: rank 1 of 2 lost contact to another rank" in logs[1 - victim].read_text()
    for number in again:
        torchrun(nodes[number], arguments, logs[number], **options)
    assert [node.status() for node in nodes] == [0, 0], [log.read_text() for log in logs]
    assert re.search(r"from update [1-9]0", logs[0].read_text())
    assert_same_run(tmp_path / "straight", tmp_path / "killed")


def test_a_run_of_two_machines_names_its_machine_and_saves_when_all_processes_get_a_signal(
    nodes: tuple[Node, Node], tmp_path: Path
) -> None:
    config = write_digits(tmp_path, reverse=True, pairs=200)
    logs = [tmp_path / "log0", tmp_path / "log1"]
    for rank in (0, 1):
        start_rank(nodes, rank, settings(config, "run", *ENDLESS), logs[rank])
    wait_for(logs[0], "update 1/")
    second = ForkedRanks(settings(config, "run", *ENDLESS), tmp_path, size=1)
    assert second.statuses() == [2]
    assert f"on {nodes[0].namespace}; wait for it" in second.stderr(0)
    for node in nodes:
        assert node.process is not None
        node.process.send_signal(signal.SIGUSR1)
    assert [node.status() for node in nodes] == [143, 143]
    assert "stopped at update" in logs[0].read_text()
    assert list_checkpoints(RunDirectory(tmp_path / "run").checkpoints)


def test_data_that_is_not_on_shared_storage_is_an_error_of_all_machines(
    nodes: tuple[Node, Node], tmp_path: Path
) -> None:
    config = write_digits(tmp_path, reverse=True, pairs=200)
    folder = tmp_path / "prepared"
    folder.mkdir()
    hide = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(folder)]
    logs = [tmp_path / "log0", tmp_path / "log1"]
    for rank in (0, 1):
        start_rank(nodes, rank, settings(config, "run"), logs[rank], before=hide if rank == 1 else [])
    assert [node.status() for node in nodes] == [2, 2]
    assert f"does not exist on {nodes[1].namespace}; accepted on several machines" in logs[1].read_text()
    assert "error" not in logs[0].read_text()
