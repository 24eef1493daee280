"""The command `dopr`: the command line is read here, each command has a file beside this one.

A user's mistake prints one line to standard error and exits with 2. Heavy packages are imported
by the subcommand that needs them, so that help is instant.
"""

import argparse
import contextlib
import errno
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn

from dopr.cli import (
    compare,
    evaluate,
    plan,
    replay,
    report,
    rewards,
    strategies,
    tasks,
    train,
    warmstart,
)
from dopr.core.errors import Terminated, UserError, end_as_usual, unknown_name

# Packages that come with dopr, but that not every command needs.
_BROUGHT = (
    *("accelerate", "datasets", "jinja2", "latex2sympy2_extended", "pandas", "pyarrow"),
    *("reasoning_gym", "rich", "safetensors", "scipy", "torch", "transformers", "trl", "yaml"),
)
# A file or folder that was named and is not what it must be, or may not be read.
_USERS = (
    *(errno.EACCES, errno.EPERM, errno.ENOENT, errno.EISDIR, errno.ENOTDIR),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.EEXIST),
)
_COMMANDS = (train, compare, evaluate, replay, plan, report, tasks, strategies, warmstart, rewards)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, 2 for a user's mistake, 1 where a disk is full or
    fails, 130 after Ctrl-C, 143 when terminated.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started this
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    try:
        arguments, overrides = _parse(list(sys.argv[1:] if argv is None else argv))
        _quiet_libraries()
        with _terminable():
            return int(arguments.run(arguments, overrides) or 0)
    except UserError as error:
        return _complain(str(error), 2)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _BROUGHT:
            raise
        return _complain(
            f"this command needs the package {package}, which is not installed; "
            "`pip install .` in a clone of dopr brings it",
            2,
        )
    except OSError as error:
        from dopr.runs.run_dir import is_disk_error

        if isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        if error.errno in _USERS and error.filename is not None:
            return _complain(f"{str(error.filename)!r} cannot be used: {error.strerror}", 2)
        if error.errno is not None and not is_disk_error(error):
            raise
        return _complain(str(error), 1)
    except KeyboardInterrupt as stop:
        keeps = {"train", "compare"} & set(sys.argv[1:2] if argv is None else argv[:1])
        return _complain(
            f"stopped at once{'; the last checkpoint stands' if keeps else ''}",
            143 if isinstance(stop, Terminated) else 130,
        )


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """A termination ends a command as Ctrl-C does, with a word."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    process = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # a child that was forked off
            end_as_usual(number)
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _complain(text: str, status: int) -> int:
    print(f"dopr: error: {' '.join(text.split())}", file=sys.stderr)
    return status


# -- the command line ------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """A parser that tells a mistake in one sentence."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see `{self.prog} --help`")


def _parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser, known = _parser()
    name = next((word for word in argv if not word.startswith("-")), None)
    overrides: list[str] = []
    if name is not None and name not in known.choices:
        raise unknown_name("command", name, known.choices)
    command = known.choices.get(name)
    if command and command.get_default("takes_settings") and not {"-h", "--help"} & set(argv):
        argv, overrides = _split(argv, command)
    arguments, rest = parser.parse_known_args(argv)
    if rest:
        options = [o for a in (command or parser)._actions for o in a.option_strings]
        raise unknown_name(
            f"option of {command.prog if command else parser.prog}", rest[0], options
        )
    if not hasattr(arguments, "run"):
        parser.print_help()
        raise SystemExit(2)
    return arguments, overrides


def _split(argv: list[str], command: argparse.ArgumentParser) -> tuple[list[str], list[str]]:
    """The words argparse knows, and the settings `--name value` that it does not."""
    known = {o: a.nargs != 0 for a in command._actions for o in a.option_strings}
    ours: list[str] = []
    settings: list[str] = []
    words = iter(argv)
    for word in words:
        name, equals, _ = word.partition("=")
        target = ours if name in known or not word.startswith("--") else settings
        target.append(word)
        takes_value = known.get(name, True) if word.startswith("-") else False
        if takes_value and not equals:
            target.extend(value for value in [next(words, None)] if value is not None)
    return ours, settings


def _parser() -> tuple[argparse.ArgumentParser, Any]:
    parser = _Parser(
        prog="dopr",
        description="Reinforcement learning for reasoning models with few rollouts: the prompt is "
        "chosen before its rollouts are paid for.",
        allow_abbrev=False,
    )
    from dopr import __version__

    parser.add_argument("--version", action="version", version=f"dopr {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")

    def add(name: str, text: str, run: Callable[..., Any]) -> argparse.ArgumentParser:
        command = subparsers.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.set_defaults(run=run)
        return command

    for module in _COMMANDS:
        module.add_command(add)
    return parser, subparsers


def _quiet_libraries() -> None:
    """Keep the libraries' chatter off the screen; warnings of dopr itself stay."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if not sys.warnoptions:
        warnings.filterwarnings("ignore")
    logging.basicConfig(format="dopr: %(message)s", level=logging.ERROR, stream=sys.stderr)
    logging.getLogger("dopr").setLevel(logging.WARNING)
    logging.getLogger("trl").setLevel(logging.ERROR)
