"""Starts the ranks of a training run, runs one, and turns signals and failures into exit statuses."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType

import torch

from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.checkpoints.run_lock import RunLock
from nmt_rela.config.schema import Config
from nmt_rela.data.prepared_data import PreparedData
from nmt_rela.export.model_card import write_model_card
from nmt_rela.kernels.cpu.matmul_cache import keep_training_matmuls
from nmt_rela.metrics.comet import check_metrics, load_comet
from nmt_rela.training.closing_summary import closing_summary
from nmt_rela.training.device_settings import resolve_precision
from nmt_rela.training.distributed import PeerLostError, RemoteRankError, init_distributed, leave_process_groups
from nmt_rela.training.kernel_check import check_kernels
from nmt_rela.training.run_setup import check_run_directory, prepare_run_directory
from nmt_rela.training.trainer import Trainer
from nmt_rela.training.validation import validation_metrics
from nmt_rela.utils.errors import (
    EXIT_DONE,
    EXIT_INTERNAL_ERROR,
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    EXIT_USER_ERROR,
    ConfigError,
    UserError,
    first_line,
)
from nmt_rela.utils.memory import disable_malloc_trimming
from nmt_rela.utils.processes import terminate_with_parent

LOG = logging.getLogger(__name__)

_SAME_REQUEST = 5.0


def run(
    config: Config, prepare: Callable[[], PreparedData], *, restart: bool = False, arguments: Sequence[str] = ()
) -> int:
    """Train a run on this process's rank, or start one rank per visible GPU where there are several; the exit status.

    Args:
        config: the experiment.
        prepare: prepares the data. The main rank calls it.
        restart: move an existing run aside and start over.
        arguments: those of ``nmt-train``, to start the ranks with.
    """
    if "RANK" not in os.environ and (num_gpus := visible_gpus(config)) > 1:
        return _launch_ranks(num_gpus, arguments)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        terminate_with_parent()  # without their launcher, ranks would train on, and keep the run locked
    # Ranks that torchrun has restarted continue the run.
    restart = restart and int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) == 0
    if int(os.environ.get("RANK", 0)) > 0:
        logging.getLogger("nmt_rela").setLevel(logging.ERROR)
    # Micro-batches of ever other shapes would fragment the memory of a GPU. It must be set before the first of them.
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    disable_malloc_trimming()
    keep_training_matmuls()
    lock = RunLock()
    try:
        context = init_distributed(config.training.device)
        directory = RunDirectory(config.run_dir)
        context.run_on_main(lambda: check_run_directory(config, restart=restart))
        context.run_on_main(lambda: _check_metrics(config))
        data = context.run_on_main(prepare)
        context.run_on_all_ranks(lambda: _check_is_shared(data))
        precision = context.run_on_all_ranks(lambda: resolve_precision(config.training.precision, context.device))
        check_kernels(config.model, precision, context)
        resume = context.run_on_main(lambda: prepare_run_directory(config, data, context, lock, restart=restart))
        stop = GracefulStop()
        trainer = context.run_on_all_ranks(
            lambda: Trainer(config, data=data, run=directory, context=context, resume=resume)
        )
        trainer.run(stop_requested=stop.is_requested)
        context.run_on_main(lambda: write_model_card(directory))
        for line in closing_summary(directory, config, trainer.state, stopped_by=stop.name):
            LOG.info("%s", line)
        leave_process_groups()
    except RemoteRankError as failure:
        leave_process_groups()
        return EXIT_USER_ERROR if failure.is_user_error else EXIT_INTERNAL_ERROR
    except UserError:
        leave_process_groups()
        raise
    except torch.OutOfMemoryError as error:
        raise ConfigError(  # of an update, ``out_of_memory`` knows more
            f"training.device: out of memory outside of an update, as at the start or in validation "
            f"({first_line(error)}); accepted: a device with more free memory; validation needs less with a smaller "
            f"training.max_batch_tokens; the same command continues the run"
        ) from error
    except PeerLostError as error:
        if int(os.environ["LOCAL_RANK"]) == 0:  # once per machine; the launcher reports the rank that ended first
            print(f"nmt-train: {error}", file=sys.stderr, flush=True)
        os._exit(EXIT_INTERNAL_ERROR)  # a regular exit would wait for the GPU's unanswered collectives
    finally:
        lock.release()
    return stop.exit_code


class GracefulStop:
    """Signal handler: SIGTERM, SIGINT and SIGUSR1 request a stop after the current update; a second one interrupts.

    A second one within `_SAME_REQUEST` seconds is the first again, unless it is Ctrl-C: Slurm sends a signal to every
    process of a job, and launchers pass on what they get.
    """

    def __init__(self) -> None:
        self._signal: int | None = None
        self._time = 0.0
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None:
            if number == signal.SIGINT or time.monotonic() - self._time > _SAME_REQUEST:
                raise KeyboardInterrupt
            return
        self._signal, self._time = number, time.monotonic()
        LOG.warning("%s: saving and stopping after this update (a second one: at once)", signal.Signals(number).name)

    def is_requested(self) -> bool:
        """Whether a signal has arrived."""
        return self._signal is not None

    @property
    def name(self) -> str | None:
        """The name of the signal, if one has arrived."""
        return None if self._signal is None else signal.Signals(self._signal).name

    @property
    def exit_code(self) -> int:
        """The exit status of the command."""
        if self._signal is None:
            return EXIT_DONE
        return EXIT_INTERRUPTED if self._signal == signal.SIGINT else EXIT_TERMINATED


def _check_metrics(config: Config) -> None:
    """Raise ConfigError where COMET, or the model that validation needs, is missing."""
    check_metrics(config.evaluation.metrics, "evaluation.metrics")
    check_metrics([config.training.checkpoint_metric], "training.checkpoint_metric")
    if "comet" in validation_metrics(config):
        load_comet(config.evaluation.comet_model)


def _check_is_shared(data: PreparedData) -> None:
    if not data.train.exists():
        raise ConfigError(
            f"data.data_dir: {data.train} does not exist on {socket.gethostname()}; "
            "accepted on several machines: a directory on shared storage, and the same for run_dir"
        )


def visible_gpus(config: Config) -> int:
    """The number of GPUs to use, 0 for the CPU."""
    return 0 if config.training.device == "cpu" else torch.cuda.device_count()


def _launch_ranks(count: int, arguments: Sequence[str]) -> int:
    """Start one rank per GPU with torch's elastic launcher; the exit status of the rank that knows the reason."""
    logging.disable(logging.ERROR)  # the ranks print errors; the launcher would repeat them at length
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // count, 1)))
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import get_args_parser
    from torch.distributed.run import main as torchrun

    # The launcher forwards SIGTERM to the ranks, which save and stop, but not SIGUSR1.
    signal.signal(signal.SIGUSR1, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    # Validation and saving may take longer than the launcher's 30 seconds. Older releases of torch lack the option.
    grace = ["--shutdown-timeout=600"] if "--shutdown-timeout" in get_args_parser().format_help() else []
    try:
        torchrun(["--standalone", *grace, f"--nproc-per-node={count}", "-m", "nmt_rela.commands.train", *arguments])
    except ChildFailedError as error:
        codes = {failure.exitcode for failure in error.failures.values()}
        for rank, failure in error.failures.items():
            if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM:  # SIGTERM is the launcher's own
                name = signal.Signals(-failure.exitcode).name
                print(
                    f"nmt-train: rank {rank} of {count} was ended by {name} (status {failure.exitcode}); "
                    "the same command continues the run",
                    file=sys.stderr,
                )
        known = (EXIT_USER_ERROR, EXIT_INTERRUPTED, EXIT_TERMINATED)
        return next((code for code in known if code in codes), EXIT_INTERNAL_ERROR)
    except SignalException as end:
        return EXIT_INTERRUPTED if end.sigval == signal.SIGINT else EXIT_TERMINATED
    return EXIT_DONE
