"""How commands take arguments, log and end."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

import pytest

from nmt_rela.commands import cli, prepare
from nmt_rela.config.loader import config_from_yaml, load_config
from nmt_rela.utils.errors import DataError

CONFIG = "run_dir: runs/x\ndata: {task: demo, source_language: en, target_language: de}\n"


def ending(error: BaseException) -> int:
    def command(arguments: Sequence[str] | None) -> None:
        raise error

    return cli.run("nmt-x", command)


def in_process(body: str, shell: str) -> subprocess.CompletedProcess[str]:
    """Run a command whose body is ``body`` in a shell line where it stands as $COMMAND."""
    code = f"import sys\nfrom nmt_rela.commands import cli\ndef command(arguments):\n {body}\n"
    code += "sys.exit(cli.run('nmt-x', command))"
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {shell}"],
        env={"PATH": "/usr/bin:/bin", "PYTHON": sys.executable, "CODE": code},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_user_error_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert ending(DataError("a.en:3: found\nthis")) == 2
    assert capsys.readouterr().err == "nmt-x: error: a.en:3: found this\n"


def test_a_number_of_workers_below_0_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare.main(["--config", "x.yaml", "--workers", "-1"]) == 2
    assert "--workers: found -1; accepted: 0 to 512" in capsys.readouterr().err


def test_the_status_of_the_command_is_returned() -> None:
    assert cli.run("nmt-x", lambda arguments: None) == 0
    assert cli.run("nmt-x", lambda arguments: 143) == 143


def test_arguments_reach_the_command() -> None:
    seen: list[object] = []
    cli.run("nmt-x", seen.append, ["--a"])
    assert seen == [["--a"]]


def test_ctrl_c_is_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert ending(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "nmt-x: interrupted\n"


def test_an_internal_error_shows_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert ending(RuntimeError("broken")) == 1
    message = capsys.readouterr().err
    assert message.startswith("Traceback")
    assert "RuntimeError: broken" in message


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOENT, "no such file or directory"),
        (errno.EACCES, "permission denied"),
        (errno.EISDIR, "is a directory"),
        (errno.ENOSPC, "no space left on device"),
    ],
)
def test_an_unusable_path_is_one_line(number: int, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ending(OSError(number, os.strerror(number), "some/file")) == 2
    assert capsys.readouterr().err == f"nmt-x: error: some/file: {words}\n"


def test_a_system_error_without_a_path_is_an_internal_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert ending(OSError(errno.ENOENT, "no such thing")) == 1
    assert ending(OSError(errno.EBADF, "bad file descriptor", "some/file")) == 1
    assert capsys.readouterr().err.count("Traceback") == 2


def test_a_closed_output_pipe_is_silent() -> None:
    done = in_process("print('line\\n' * 100_000)", '"$PYTHON" -c "$CODE" | head -1')
    assert (done.returncode, done.stdout, done.stderr) == (cli.EXIT_BROKEN_PIPE, "line\n", "")


def test_a_pipe_closed_before_the_last_flush_is_silent() -> None:
    done = in_process("import time; time.sleep(0.3); print('short')", '"$PYTHON" -c "$CODE" | true')
    assert (done.returncode, done.stderr) == (cli.EXIT_BROKEN_PIPE, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_stdout_is_one_line() -> None:
    done = in_process("print('lost')", '"$PYTHON" -c "$CODE" > /dev/full')
    assert (done.returncode, done.stderr) == (2, "nmt-x: error: output: no space left on device\n")


def test_a_closed_output_is_one_line() -> None:
    done = in_process("cli.parse(cli.make_parser('nmt-x', ''), [])", '"$PYTHON" -c "$CODE" >&-')
    assert (done.returncode, done.stderr) == (
        2,
        "nmt-x: error: stdout is closed; accepted: a file, a pipe or /dev/null\n",
    )


def test_a_locale_without_utf_8_is_one_line() -> None:
    python = 'LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 "$PYTHON" -c "$CODE"'
    done = in_process("cli.parse(cli.make_parser('nmt-x', ''), [])", python)
    message = "the locale has the encoding ascii; accepted: UTF-8 (PYTHONUTF8=1)"
    assert (done.returncode, done.stderr) == (2, f"nmt-x: error: {message}\n")


def test_the_log_of_a_command_without_stderr_stays_out_of_its_output() -> None:
    done = in_process(
        "cli.log_to_stderr(); cli.logging.getLogger('nmt_rela').info('log'); print('output')",
        '"$PYTHON" -c "$CODE" 2>&-',
    )
    assert (done.returncode, done.stdout) == (0, "output\n")


@pytest.mark.parametrize("path", ["out/.scores.json.partial", "out/scores.json.partial", "out.partial/scores.json"])
def test_a_path_is_named_as_the_user_gave_it(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ending(OSError(errno.EACCES, "Permission denied", path)) == 2
    assert "error: out/scores.json: permission denied" in capsys.readouterr().err


def config_parser() -> ArgumentParser:
    parser = cli.make_parser("nmt-x", "What it does.")
    cli.add_config_arguments(parser)
    return parser


def test_overrides_and_options_mix() -> None:
    options = cli.parse(config_parser(), ["model.num_heads=4", "--config", "c.yaml", "run_dir=r", "--quiet", "a.b=-1"])
    assert options.config == Path("c.yaml")
    assert options.overrides == ["model.num_heads=4", "run_dir=r", "a.b=-1"]
    assert options.quiet


def test_an_override_given_twice_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    cli.parse(config_parser(), ["--config", "c.yaml", "data.max_length=5", "run_dir=r", "data.max_length=6"])
    message = "data.max_length: given more than once; data.max_length=6 replaces data.max_length=5"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: --config"),
        (["--config"], "--config: expected one argument"),
        (["--confg", "x", "--config", "c.yaml"], "--confg: unknown argument; did you mean '--config'?"),
        (["--config", "c.yaml", "--config=d.yaml"], "--config: given more than once; accepted: once"),
        (["--conf", "c"], "required: --config"),
    ],
)
def test_a_wrong_argument_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run("nmt-x", lambda given: cli.parse(config_parser(), given) and 0, arguments) == 2
    text = capsys.readouterr().err
    assert text.startswith("nmt-x: error: ")
    assert message in text
    assert text.count("\n") == 1


def test_a_deleted_working_directory_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    assert cli.run("nmt-x", lambda given: cli.parse(config_parser(), given) and 0, []) == 2
    message = "the working directory: no such file or directory; accepted: one that exists"
    assert capsys.readouterr().err == f"nmt-x: error: {message}\n"


def test_print_config_shows_the_settings_in_full_and_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(CONFIG)

    def command(arguments: Sequence[str] | None) -> None:
        cli.read_config(cli.parse(config_parser(), arguments))
        raise AssertionError("it went on")

    assert cli.run("nmt-x", command, ["--config", str(file), "--print-config", "model.num_heads=4"]) == 0
    assert config_from_yaml(capsys.readouterr().out) == load_config(file, ["model.num_heads=4"])


def test_read_config_returns_the_settings(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(CONFIG)
    assert cli.read_config(cli.parse(config_parser(), ["--config", str(file)])) == load_config(file)


def test_help_and_version_end_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--help", "--version"):
        assert cli.run("nmt-x", lambda given: cli.parse(config_parser(), given) and 0, [option]) == 0
    assert "section.key=value" in capsys.readouterr().out


def test_the_log_goes_to_stderr_once_and_plain(capsys: pytest.CaptureFixture[str]) -> None:
    cli.log_to_stderr()
    cli.log_to_stderr()
    logging.getLogger("nmt_rela.some.module").info("reading %d lines", 3)
    logging.getLogger("nmt_rela").warning("odd")
    captured = capsys.readouterr()
    first, second = captured.err.splitlines()
    assert first.endswith(" reading 3 lines")
    assert second.endswith(" warning: odd")
    assert captured.out == ""


def test_quiet_keeps_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    cli.log_to_stderr(quiet=True)
    logging.getLogger("nmt_rela").info("fine")
    logging.getLogger("nmt_rela").warning("odd")
    assert capsys.readouterr().err.splitlines()[0].endswith("warning: odd")
    cli.log_to_stderr()
