"""The command `perturbscreen`: parse, call one function, print."""

import argparse
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from screen.cli import commands
from screen.cli.options import config_in_place, parser
from screen.cli.terminal import Console
from screen.directory import STORE
from screen.errors import ScreenError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    arguments = parser().parse_args(config_in_place(sys.argv[1:] if argv is None else argv))
    with _signals():
        return _called(arguments)


def _called(arguments: argparse.Namespace) -> int:
    """Calls the command and turns what goes wrong into words and an exit code."""
    console = Console()
    command: Callable[[argparse.Namespace, Console], int] = getattr(commands, arguments.command)
    try:
        return command(arguments, console)
    except KeyboardInterrupt:
        console.error(f"interrupted; {_kept(arguments)}")
        return 130
    except _TerminatedError:
        console.error(f"terminated; {_kept(arguments)}")
        return 143
    except Exception as error:
        if arguments.debug:
            traceback.print_exc()
        if isinstance(error, ScreenError):
            console.error(str(error))
            return error.exit_code
        kept = "What was committed is kept. " if arguments.command == "run" else ""
        console.error(f"{type(error).__name__}: {error}\n{kept}Run again with --debug to see where this came from.")
        return 1


def _kept(arguments: argparse.Namespace) -> str:
    """What an interrupted command leaves, and what continues it."""
    if arguments.command != "run" or arguments.out is None:
        return "predictions that were there are kept; run the same command again"
    from screen.store.audit import kept

    done = kept(arguments.out / STORE)
    if done is None:
        return f"nothing was screened yet; {AGAIN}"
    return f"{done} are kept in {arguments.out}, what was in work is dropped; {AGAIN}"


AGAIN = "run the same command to continue"


class _TerminatedError(BaseException):
    """SIGTERM came: what is in work is dropped as at Ctrl-C."""


@contextmanager
def _signals() -> Iterator[None]:
    """SIGTERM and Ctrl-C end a command in good order; a second one at once: what is on the disk is whole at any moment."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: object) -> None:
        for each in tuple(before):
            signal.signal(each, lambda number, frame: os._exit(128 + number))
            # and it stays so until the process is gone
            del before[each]
        raise _TerminatedError if number == signal.SIGTERM else KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
