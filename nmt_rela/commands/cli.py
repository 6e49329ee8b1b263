"""What every command shares: argument parsing, the log on stderr, and the exit status.

A command module has two functions::

    def main(arguments: Sequence[str] | None = None) -> int:
        return cli.run("nmt-prepare", _prepare, arguments)

    def _prepare(arguments: Sequence[str] | None) -> None:
        parser = cli.make_parser("nmt-prepare", __doc__)
        cli.add_config_arguments(parser)
        options = cli.parse(parser, arguments)
        config = cli.read_config(options)
        ...                                   # heavy imports come here, after the arguments are parsed
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn, TypeVar

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
from nmt_rela.utils.files import FULL_DISK, PARTIAL

Item = TypeVar("Item")

#: The exit status that a shell reports for a process ended by SIGPIPE: the reader of stdout is gone.
EXIT_BROKEN_PIPE = 141

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
    program: str, command: Callable[[Sequence[str] | None], int | None], arguments: Sequence[str] | None = None
) -> int:
    """Run a command and return its exit status. Exceptions become messages.

    ``command`` receives the arguments (None: those of the process) and returns None or a status.
    """
    try:
        status = command(arguments) or EXIT_DONE
        sys.stdout.flush()
        return status
    except BaseException as error:
        return report(program, error)


def report(program: str, error: BaseException) -> int:
    """Print the message of an exception that has ended a command; the exit status.

    A ``UserError``, a full disk and an unusable path print one line on stderr; the status is 2. Ctrl-C is 130. A closed
    output pipe prints nothing. argparse's exits keep their status. Any other exception is an internal error: traceback,
    status 1.
    """
    if isinstance(error, SystemExit):  # argparse exits after ``--help`` or a wrong argument
        return error.code if isinstance(error.code, int) else EXIT_DONE
    if isinstance(error, UserError):
        return _refuse(program, str(error))
    if isinstance(error, KeyboardInterrupt):
        print(f"{program}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    if isinstance(error, BrokenPipeError):
        _silence_stdout()
        return EXIT_BROKEN_PIPE
    message = _os_message(error) if isinstance(error, OSError) else None
    if message is None:
        traceback.print_exception(error)
        return EXIT_INTERNAL_ERROR
    if isinstance(error, OSError) and error.errno in FULL_DISK:
        _silence_stdout()
    return _refuse(program, message)


def _refuse(program: str, message: str) -> int:
    print(f"{program}: error: {' '.join(message.split())}", file=sys.stderr)
    return EXIT_USER_ERROR


def _silence_stdout() -> None:
    """Redirect stdout to the null device, so that the interpreter does not try to flush it at exit and complain."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # stdout is no real file (captured by a test) or already closed
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def _os_message(error: OSError) -> str | None:
    """One line for a path or disk that the user can repair; None for an internal error."""
    reason = (error.strerror or "").lower()
    if error.errno in FULL_DISK:
        return f"{error.filename or 'output'}: {reason}"
    if error.errno in _USER_PATH and error.filename is not None:
        # The path that the user gave, not the temporary one beside it.
        path = re.sub(rf"(^|/)\.?([^/]+){re.escape(PARTIAL)}(?=/|$)", r"\1\2", os.fsdecode(error.filename))
        return f"{path}: {reason}"
    return None


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line that names the nearest option."""

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            options = [name for action in self._actions for name in action.option_strings]
            message = f"{unknown}: unknown argument; {did_you_mean(unknown.split()[0], options)}"
        self.exit(EXIT_USER_ERROR, f"{self.prog}: error: {message.removeprefix('argument ')} (--help explains)\n")


def make_parser(program: str, description: str | None) -> argparse.ArgumentParser:
    """A parser with the options of every command: ``--quiet``, ``--version`` and ``--help``."""
    parser = _Parser(
        prog=program, description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--quiet", action="store_true", help="log warnings only")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def number_from(low: int) -> Callable[[str], int]:
    """An argparse type: whole numbers that are ``low`` or more."""

    def read(text: str) -> int:
        if not text.lstrip("-").isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(f"found {text}; accepted: {low} or more")
        return int(text)

    return read


def one_of(accepted: Sequence[str]) -> Callable[[str], str]:
    """An argparse type: one of the accepted words."""

    def read(text: str) -> str:
        if text not in accepted:
            raise argparse.ArgumentTypeError(f"found '{text}'; {did_you_mean(text, accepted)}")
        return text

    return read


def list_of(read: Callable[[str], Item]) -> Callable[[str], list[Item]]:
    """An argparse type: a list separated by commas or spaces. Duplicates are dropped."""
    return lambda text: list(dict.fromkeys(read(item) for item in text.replace(",", " ").split()))


def refuse_pairs(parser: argparse.ArgumentParser, options: argparse.Namespace, pairs: Iterable[str]) -> None:
    """Refuse options that would be ignored: each pair is "--a needs --b" or "--a excludes --b"."""

    def is_given(option: str) -> bool:
        value = getattr(options, option.removeprefix("--").replace("-", "_"))
        return value is not None and value is not False

    for pair in pairs:
        first, relation, second = pair.split()
        if is_given(first) and is_given(second) == (relation == "excludes"):
            parser.error(
                f"{first} needs {second}" if relation == "needs" else f"{first} and {second} exclude each other"
            )


def add_config_arguments(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """``--config FILE``, ``--print-config`` and positional overrides, read by :func:`read_config`."""
    parser.add_argument(
        "--config", required=required, metavar="FILE", help="the experiment, a YAML file (docs/configuration.md)"
    )
    parser.add_argument("--print-config", action="store_true", help="print the settings in full and stop")
    add_overrides(parser)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Positional ``section.key=value`` overrides, as ``options.overrides``."""
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="section.key=value",
        help="settings that replace the file's, e.g. model.num_heads=4",
    )


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse options and overrides in any order, and configure the log (``--quiet``).

    An option may be given more than once only where its values are collected. Raises UserError where stdout is closed.
    """
    if sys.stdout is None:
        raise UserError("stdout is closed; accepted: a file, a pipe or /dev/null")
    options = parser.parse_intermixed_args(arguments)
    given = [argument.partition("=")[0] for argument in (sys.argv[1:] if arguments is None else arguments)]
    for action in parser._actions:
        if isinstance(action, argparse._StoreAction) and sum(map(given.count, action.option_strings)) > 1:
            parser.error(f"{action.option_strings[0]}: given more than once; accepted: once")
    log_to_stderr(quiet=options.quiet)
    return options


def read_config(options: argparse.Namespace) -> Config:
    """The settings of ``--config`` and the overrides. ``--print-config`` prints them and exits."""
    config = load_config(options.config, options.overrides)
    if options.print_config:
        sys.stdout.write(config_to_yaml(config))
        sys.stdout.flush()
        raise SystemExit(EXIT_DONE)
    return config


class _StderrHandler(logging.Handler):
    """Plain lines on the current ``sys.stderr``; a progress bar is redrawn below them."""

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "is_in_bar", False):  # the bar shows the same; the line is for train.log
            return
        try:
            line = self.format(record)
            tqdm = sys.modules.get("tqdm")
            if tqdm is None:
                print(line, file=sys.stderr, flush=True)
            else:
                tqdm.tqdm.write(line, file=sys.stderr)
        except Exception:
            self.handleError(record)


class _Formatter(logging.Formatter):
    """``12:30:59 text``, with the level from warnings up."""

    def format(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        text = f"{self.formatTime(record, '%H:%M:%S')} {level}{record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def log_to_stderr(*, quiet: bool = False) -> None:
    """Send the log of the package (logger ``nmt_rela``) to stderr; with ``quiet``, warnings only. May be repeated."""
    if sys.stderr is None:  # it is closed; print would use stdout instead
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    logger = logging.getLogger("nmt_rela")
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    if not any(isinstance(handler, _StderrHandler) for handler in logger.handlers):
        handler = _StderrHandler()
        handler.setFormatter(_Formatter())
        logger.addHandler(handler)
        logging.captureWarnings(True)  # those of libraries, too, must not tear a progress bar
        logging.getLogger("py.warnings").addHandler(handler)
