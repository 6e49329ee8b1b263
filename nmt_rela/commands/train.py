"""Train a model: prepare the data if needed, train, validate, keep checkpoints.

The same command again continues the run where it stands. On several GPUs all visible ones are used. Over several
machines prepare the data first (nmt-prepare), then: torchrun … -m nmt_rela.commands.train --config FILE
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING

from nmt_rela.commands import cli
from nmt_rela.config.schema import Config
from nmt_rela.utils.errors import EXIT_DONE, EXIT_INTERNAL_ERROR, EXIT_INTERRUPTED, EXIT_TERMINATED, EXIT_USER_ERROR

if TYPE_CHECKING:
    from nmt_rela.checkpoints.run_lock import RunLock
    from nmt_rela.training.distributed import DistributedContext

log = logging.getLogger("nmt_rela.training")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``nmt-train``."""
    return cli.run("nmt-train", _train, arguments)


def _train(arguments: Sequence[str] | None) -> int:
    parser = cli.make_parser("nmt-train", __doc__)
    cli.add_config_arguments(parser)
    parser.add_argument(
        "--restart", action="store_true", help="start over; an earlier run of that name is moved aside, not deleted"
    )
    options = cli.parse(parser, arguments)
    config = cli.read_config(options)
    gpus = 0 if "RANK" in os.environ else _visible_gpus(config)
    if gpus > 1:
        return _on_all_gpus(gpus, list(sys.argv[1:] if arguments is None else arguments))
    # DistributedContext that torchrun has started again go on where they were.
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
    return _on_this_rank(config, restart=options.restart and restarts == 0)


def _on_this_rank(config: Config, *, restart: bool) -> int:
    from nmt_rela.checkpoints.run_lock import RunLock
    from nmt_rela.training.distributed import PeerLostError, RemoteRankError, join
    from nmt_rela.utils.memory import disable_malloc_trimming, limit_onednn_cache

    if int(os.environ.get("RANK", 0)) > 0:
        logging.getLogger("nmt_rela").setLevel(logging.ERROR)
    disable_malloc_trimming()
    limit_onednn_cache(1)
    lock = RunLock()
    try:
        ranks = join(config.training.device)
        status = _run(config, ranks, lock, restart=restart)
        ranks.leave()
    except RemoteRankError as failure:
        return EXIT_USER_ERROR if failure.mistake else EXIT_INTERNAL_ERROR
    except PeerLostError as error:
        print(f"nmt-train: {error}", file=sys.stderr, flush=True)
        os._exit(
            EXIT_INTERNAL_ERROR
        )  # not by the usual way: what was sent to a GPU and never answered would be waited for
    finally:
        lock.release()
    return status


def _run(config: Config, ranks: DistributedContext, lock: RunLock, *, restart: bool) -> int:
    from nmt_rela.checkpoints.run_directory import RunDirectory
    from nmt_rela.export.model_card import write_model_card
    from nmt_rela.preparation.pipeline import prepare
    from nmt_rela.training.run_setup import prepare_run_directory
    from nmt_rela.training.trainer import Trainer

    data = ranks.on_main(lambda: prepare(config.data))
    resume = ranks.on_main(lambda: prepare_run_directory(config, data, ranks, lock, restart=restart))
    requests = GracefulStop()
    run = RunDirectory(config.run_dir)
    trainer = ranks.together(lambda: Trainer(config, data=data, run=run, ranks=ranks, resume=resume))
    outcome = trainer.run(stop_requested=requests.any)
    ranks.on_main(lambda: write_model_card(run))
    log.info("%s at update %d: %s", outcome, trainer.progress.update, run.path)
    return requests.exit_code


class GracefulStop:
    """SIGTERM, SIGINT and SIGUSR1 ask for a saved end after the present update; a second signal does not wait."""

    def __init__(self) -> None:
        self._signal: int | None = None
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None:
            raise KeyboardInterrupt
        self._signal = number
        log.warning("%s: saving and stopping after this update (once more: at once)", signal.Signals(number).name)

    def any(self) -> bool:
        """Whether a signal has come."""
        return self._signal is not None

    @property
    def exit_code(self) -> int:
        """What the command exits with."""
        if self._signal is None:
            return EXIT_DONE
        return EXIT_INTERRUPTED if self._signal == signal.SIGINT else EXIT_TERMINATED


def _visible_gpus(config: Config) -> int:
    if config.training.device == "cpu":
        return 0
    import torch

    return torch.cuda.device_count()


def _on_all_gpus(count: int, arguments: list[str]) -> int:
    """Start one rank a GPU through torch's elastic launcher; the exit status is that of the rank that knows why."""
    logging.disable(logging.ERROR)  # the ranks say what is wrong; the launcher would say it again, at length
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // count, 1)))
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    # The launcher passes SIGTERM on to the ranks, which save and stop; SIGUSR1 it would not.
    signal.signal(signal.SIGUSR1, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    try:
        torchrun(["--standalone", f"--nproc-per-node={count}", "-m", "nmt_rela.commands.train", *arguments])
    except ChildFailedError as error:
        codes = {failure.exitcode for failure in error.failures.values()}
        known = (EXIT_USER_ERROR, EXIT_INTERRUPTED, EXIT_TERMINATED)
        return next((code for code in known if code in codes), EXIT_INTERNAL_ERROR)
    except SignalException as end:
        return EXIT_INTERRUPTED if end.sigval == signal.SIGINT else EXIT_TERMINATED
    return EXIT_DONE


if __name__ == "__main__":
    raise SystemExit(main())
