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
import dataclasses
import errno
import functools
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeAlias, TypeVar

from nmt_rela import __version__
from nmt_rela.config.builder import field_types, read_value
from nmt_rela.config.loader import config_to_yaml, load_config
from nmt_rela.config.schema import Config, bounds
from nmt_rela.utils.errors import (
    EXIT_DONE,
    EXIT_INTERNAL_ERROR,
    EXIT_INTERRUPTED,
    EXIT_USER_ERROR,
    UserError,
    did_you_mean,
)
from nmt_rela.utils.files import FULL_DISK, PARTIAL, check_writable, expand_user
from nmt_rela.utils.shipped import find_config

LOG = logging.getLogger(__name__)

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


#: The type of an option: it reads an argument, and raises argparse.ArgumentTypeError, to which the option is added.
Reader: TypeAlias = Callable[[str], Item]


def _reader(read: Reader[Item]) -> Reader[Item]:
    """A reader whose UserErrors are those of an argument."""

    @functools.wraps(read)
    def read_argument(text: str) -> Item:
        try:
            return read(text)
        except UserError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read_argument


def number_from(low: int, high: int | None = None) -> Reader[int]:
    """An argparse type: whole numbers from ``low`` to ``high``."""
    return _reader(lambda text: int(read_value(int, text, bounds(low=low, high=high))))


def value_of(settings: type, name: str) -> Reader[Any]:
    """An argparse type: the values of a number in a dataclass of settings."""
    limits = next(item.metadata for item in dataclasses.fields(settings) if item.name == name)
    return _reader(lambda text: read_value(field_types(settings)[name], text, limits))


@_reader
def path(text: str) -> Path:
    """An argparse type: a path. ``~`` is expanded."""
    if not text.strip():
        raise UserError("found an empty path; accepted: the path of a file or directory")
    return Path(expand_user(text))


@_reader
def configuration(text: str) -> Path:
    """An argparse type: the path of a configuration, or the name of one that comes with the package."""
    return find_config(text) if text.strip() else path(text)


@_reader
def input_file(text: str) -> Path:
    """An argparse type: a file, or a pipe, that can be read."""
    found = path(text)
    if found.is_dir():
        raise UserError(f"{found}: is a directory; accepted: a file")
    if not found.exists():
        raise UserError(f"{found}: no such file")
    if not os.access(found, os.R_OK):
        raise UserError(f"{found}: permission denied")
    return found


@_reader
def output_file(text: str) -> Path:
    """An argparse type: a file that can be written."""
    found = path(text)
    check_writable(found, is_directory=False)
    return found


@_reader
def output_directory(text: str) -> Path:
    """An argparse type: a directory that can be written, or created."""
    found = path(text)
    check_writable(found, is_directory=True)
    return found


def one_of(accepted: Sequence[str]) -> Reader[str]:
    """An argparse type: one of the accepted words."""

    def read(text: str) -> str:
        if text not in accepted:
            raise argparse.ArgumentTypeError(f"found '{text}'; {did_you_mean(text, accepted)}")
        return text

    return read


def list_of(read: Reader[Item]) -> Reader[list[Item]]:
    """An argparse type: a list separated by commas or spaces, with one item at least. Duplicates are dropped."""

    def read_list(text: str) -> list[Item]:
        items = text.replace(",", " ").split()
        if not items:
            raise argparse.ArgumentTypeError("found an empty list; accepted: one item or more, with commas between")
        return list(dict.fromkeys(map(read, items)))

    return read_list


def refuse_pairs(parser: argparse.ArgumentParser, options: argparse.Namespace, pairs: Iterable[str]) -> None:
    """Refuse options that would be ignored: each pair is "--a needs --b" or "--a excludes --b".

    ``--b=word`` is the option with that value. The override ``decoding.beam_size=…`` counts as ``--beam-size``.
    """
    overrides = [override.partition("=")[0] for override in getattr(options, "overrides", ())]

    def given(option: str) -> str | None:
        """The option, or the override that stands for it, as it was given."""
        name, _, word = option.partition("=")
        key = name.removeprefix("--").replace("-", "_")
        value = getattr(options, key, None)
        if value == word if word else value is not None and value is not False:
            return option.replace("=", " ")
        return f"decoding.{key}" if f"decoding.{key}" in overrides else None

    for pair in pairs:
        first, relation, second = pair.split()
        one, other = given(first), given(second)
        if one and relation == "needs" and not other:
            parser.error(f"{one} needs {second}")
        if one and relation == "excludes" and other:
            parser.error(f"{one} and {other} exclude each other")


def add_config_arguments(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """``--config FILE``, ``--print-config`` and positional overrides, read by :func:`read_config`."""
    parser.add_argument(
        "--config",
        required=required,
        type=configuration,
        metavar="FILE",
        help="the experiment: a YAML file (docs/configuration.md), or the name of one that comes with the "
        "package, such as demo, quick or small",
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

    An option may be given more than once only where its values are collected; an override, with a warning. Raises
    UserError where stdout is closed or the working directory is gone.
    """
    try:
        os.getcwd()
    except OSError as error:
        raise UserError(f"the working directory: {(error.strerror or '').lower()}; accepted: one that exists") from None
    if sys.stdout is None:
        raise UserError("stdout is closed; accepted: a file, a pipe or /dev/null")
    if sys.getfilesystemencoding() != "utf-8":
        raise UserError(f"the locale has the encoding {sys.getfilesystemencoding()}; accepted: UTF-8 (PYTHONUTF8=1)")
    options = parser.parse_intermixed_args(arguments)
    given = [argument.partition("=")[0] for argument in (sys.argv[1:] if arguments is None else arguments)]
    for action in parser._actions:
        single = isinstance(action, argparse._StoreAction | argparse.BooleanOptionalAction)
        if single and sum(map(given.count, action.option_strings)) > 1:
            parser.error(f"{action.option_strings[0]}: given more than once; accepted: once")
    log_to_stderr(quiet=options.quiet)
    overrides: dict[str, str] = {}
    for override in getattr(options, "overrides", ()):
        key = override.partition("=")[0].strip()
        if key in overrides:
            LOG.warning("%s: given more than once; %s replaces %s", key, override, overrides[key])
        overrides[key] = override
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
