"""What every command shares: how its arguments look, where its log goes and how it ends.

A command module is three steps::

    def main(arguments: Sequence[str] | None = None) -> int:
        return console.run("nmt-train", _train, arguments)

    def _train(arguments: Sequence[str] | None) -> None:
        parser = console.parser("nmt-train", __doc__)
        console.add_config_arguments(parser)
        options = console.parse(parser, arguments)
        config = console.read_config(options)
        ...                                   # heavy imports come here, after the arguments are known
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from nmt_rela import __version__
from nmt_rela.config.loader import config_to_yaml, load_config
from nmt_rela.config.schema import Config
from nmt_rela.utils.errors import (
    EXIT_DONE,
    EXIT_INTERNAL_ERROR,
    EXIT_INTERRUPTED,
    EXIT_USER_ERROR,
    UserError,
    did_you_mean,
)

#: Nobody reads our output any more: what the shell reports for a process that SIGPIPE ended.
EXIT_BROKEN_PIPE = 141

_FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT})
_USER_PATH = frozenset(
    {
        errno.ENOENT,
        errno.EACCES,
        errno.EPERM,
        errno.EISDIR,
        errno.ENOTDIR,
        errno.EEXIST,
        errno.EROFS,
        errno.ENAMETOOLONG,
    }
)


def run(
    program: str,
    command: Callable[[Sequence[str] | None], int | None],
    arguments: Sequence[str] | None = None,
) -> int:
    """Run a command and return its exit status.

    ``command`` gets the arguments (None: those of the process) and returns None or a status. A ``UserError``, a full
    disk and a path that cannot be used become one line on stderr and status 2; Ctrl-C is 130; a closed output pipe is
    silent; anything else is our fault: traceback and status 1.
    """
    try:
        status = _status(command, arguments)
        sys.stdout.flush()
        return status
    except UserError as error:
        return _refuse(program, str(error))
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _silence_stdout()
        return EXIT_BROKEN_PIPE
    except OSError as error:
        message = _os_message(error)
        if message is not None:
            if error.errno in _FULL_DISK:
                _silence_stdout()
            return _refuse(program, message)
        traceback.print_exc()
        return EXIT_INTERNAL_ERROR
    except Exception:
        traceback.print_exc()
        return EXIT_INTERNAL_ERROR


def _status(command: Callable[[Sequence[str] | None], int | None], arguments: Sequence[str] | None) -> int:
    """The status a command returns, or with which it exits (argparse does, after ``--help`` or a mistake)."""
    try:
        return command(arguments) or EXIT_DONE
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else EXIT_DONE


def _refuse(program: str, message: str) -> int:
    print(f"{program}: error: {' '.join(message.split())}", file=sys.stderr)
    return EXIT_USER_ERROR


def _silence_stdout() -> None:
    """What is still buffered cannot be written: the interpreter must not try again, and complain, at its end."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # stdout is no real file (captured by a test) or already closed
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def _os_message(error: OSError) -> str | None:
    """One line for a path or disk the user can mend; None where the fault is ours."""
    reason = (error.strerror or "").lower()
    if error.errno in _FULL_DISK:
        return f"{error.filename or 'output'}: {reason}"
    if error.errno in _USER_PATH and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {reason}"
    return None


class _Parser(argparse.ArgumentParser):
    """argparse whose errors are one line that names the nearest option."""

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            options = [name for action in self._actions for name in action.option_strings]
            message = f"{unknown}: unknown argument; {did_you_mean(unknown.split()[0], options)}"
        self.exit(EXIT_USER_ERROR, f"{self.prog}: error: {message} (--help explains)\n")


def parser(program: str, description: str | None) -> argparse.ArgumentParser:
    """A parser with the options every command has: ``--quiet``, ``--version`` and ``--help``."""
    made = _Parser(
        prog=program,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--quiet", action="store_true", help="log warnings only")
    made.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return made


def add_config_arguments(to: argparse.ArgumentParser) -> None:
    """``--config FILE``, ``--print-config`` and positional overrides, read by :func:`read_config`."""
    to.add_argument(
        "--config", required=True, metavar="FILE", help="the experiment, a YAML file (docs/configuration.md)"
    )
    to.add_argument("--print-config", action="store_true", help="print the settings in full and stop")
    add_overrides(to)


def add_overrides(to: argparse.ArgumentParser) -> None:
    """Positional ``section.key=value`` overrides, as ``options.overrides``."""
    to.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="settings that replace the file's, e.g. model.heads=4"
    )


def parse(by: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse, with overrides and options in any order, and start the log (``--quiet``)."""
    options = by.parse_intermixed_args(arguments)
    log_to_stderr(quiet=options.quiet)
    return options


def read_config(options: argparse.Namespace) -> Config:
    """The settings named by ``--config`` and the overrides; ``--print-config`` prints them and ends the command."""
    config = load_config(options.config, options.overrides)
    if options.print_config:
        sys.stdout.write(config_to_yaml(config))
        sys.stdout.flush()
        raise SystemExit(EXIT_DONE)
    return config


class _StderrHandler(logging.Handler):
    """Plain lines on the present ``sys.stderr`` that do not tear a progress bar apart."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
            progress = sys.modules.get("tqdm")
            if progress is None:
                print(line, file=sys.stderr, flush=True)
            else:
                progress.tqdm.write(line, file=sys.stderr)
        except Exception:
            self.handleError(record)


class _Formatter(logging.Formatter):
    """``12:30:59 text``, with the level named from warnings up."""

    def format(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        text = f"{self.formatTime(record, '%H:%M:%S')} {level}{record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def log_to_stderr(*, quiet: bool = False) -> None:
    """Send the log of the package (logger ``nmt_rela``) to stderr, warnings only with ``quiet``; repeatable."""
    logger = logging.getLogger("nmt_rela")
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    if not any(isinstance(handler, _StderrHandler) for handler in logger.handlers):
        handler = _StderrHandler()
        handler.setFormatter(_Formatter())
        logger.addHandler(handler)
