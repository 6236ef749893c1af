"""The command `dualebm`.

`cli.commands` has the settings of each subcommand, and the module `cli.NAME` has its function `run`. All these are imported within
functions, where `main` catches an interruption.
"""

import contextlib
import difflib
import importlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from dualebm.cli import Refused

ABOUT = "Densities by energy-based models, trained by the coupled flow of neurons and particles."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    The exit code is 0 on success, 1 when a run diverged, 2 when an argument, file or folder is not allowed, a result is not finite or
    memory does not suffice, and 130 when the command was interrupted. Standard error then has one line with the reason.

    Args:
        arguments: the words after the command, or None for the arguments of the process.

    Returns:
        The exit code.

    >>> main(["sample", "no/such/folder"])
    2
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    _open_streams()
    try:
        with _notes():
            code = _command(words)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of standard output, such as `head`, has enough
        return 0
    except (Refused, ValueError, OSError, ImportError, MemoryError) as error:
        _tell(f"error: {' '.join(_reason(error).split())}")
        return 2
    except RuntimeError as error:
        if not _exhausted(error):
            raise
        said = " ".join(str(error).split())[:200]
        _tell(f"error: memory is exhausted ({said}); give fewer particles, neurons, draws or rows")
        return 2
    except KeyboardInterrupt as interrupt:
        if arguments is None:  # the process ends, and a second interruption has nothing to stop
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        _tell(str(interrupt) or "interrupted")
        return 130
    finally:
        _empty_streams()


def _open_streams() -> None:
    """Let the standard streams that are closed lead nowhere. Otherwise the next file that is opened would have their number."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))


def _empty_streams() -> None:
    """Let the standard streams that cannot be written lead nowhere. Otherwise the interpreter fails when it writes their buffers."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _tell(text: str) -> None:
    """Print a line on standard error, or nothing where it cannot be written."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def _exhausted(error: RuntimeError) -> bool:
    """Tell whether an error of JAX says that memory could not be allocated.

    >>> _exhausted(RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes."))
    True
    """
    return "RESOURCE_EXHAUSTED" in str(error)


def _reason(error: Exception) -> str:
    """Return the message of an error, and for an error of the system its text and its path without its number."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


@contextlib.contextmanager
def _notes() -> Iterator[None]:
    """Print the warnings of this package as notes of one line on standard error."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        others = warnings.showwarning

        def show(message, category, *arguments, **options):
            if category is UserWarning:
                print(f"note: {' '.join(str(message).split())}", file=sys.stderr)
            else:
                others(message, category, *arguments, **options)

        warnings.showwarning = show
        yield


def _module(name: str) -> Any:
    """Import a module of the command line. An interruption waits for its end, as the import of a compiled module may crash at one."""
    if threading.current_thread() is not threading.main_thread():
        return importlib.import_module(f"dualebm.cli.{name}")
    received: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: received.append(number))
    try:
        return importlib.import_module(f"dualebm.cli.{name}")
    finally:
        signal.signal(signal.SIGINT, before)
        if received and callable(before):
            before(signal.SIGINT, None)


def _command(words: list[str]) -> int:
    """Run the subcommand of the words and return its exit code."""
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return 0
    if words[0] == "--version":
        from dualebm.training.fingerprint import version_of

        print(f"dualebm {version_of('dualebm') or 'of unknown version: it runs without the metadata of an installed package'}")
        return 0
    try:
        given = read(words)
    except SystemExit as end:  # after --help
        return int(end.code or 0)
    run = _module(words[0]).run
    with _module("cache").compilation_cache(getattr(given[0], "cache", False)):
        if len(given) == 1:
            run(*given)
            return 0
        from dualebm.training.run import Diverged

        try:
            run(*given)
        except Diverged as error:
            _tell(f"error: {error}")
            return 1
        return 0


def read(words: Sequence[str]) -> tuple[Any, ...]:
    """Return the settings that the words of a subcommand give, and for a command that trains also those of the method.

    Args:
        words: the words after `dualebm`, the first of which is the name of the command.

    Returns:
        The settings of the command, and for a command that trains those of the method.

    Raises:
        Refused: the words are not allowed.
        SystemExit: the words ask for help, which has been printed.

    >>> read(["show", "results/alpha", "--metric", "kl"])[0].metric
    'kl'
    """
    commands = _module("commands")
    name, *rest = words
    if name not in commands.COMMANDS:
        near = difflib.get_close_matches(name.lower(), commands.COMMANDS, 1)
        hint = f" did you mean {near[0]!r}?" if near else ""
        raise Refused(f"the command is {name!r};{hint} Allowed: {', '.join(commands.COMMANDS)}")
    kind, prog = commands.COMMANDS[name], f"dualebm {name}"
    if kind in commands.WITH_METHOD:
        return _module("methods").read(kind, prog, rest)
    flags = _module("flags")
    return (kind(**_module("words").parse(prog, flags.about(kind), flags.groups_of(kind), rest)),)


def overview() -> str:
    """Return the help of the whole command."""
    sentence = _module("flags").sentence
    names = "\n".join(f"  {name:8}{sentence(kind)}" for name, kind in _module("commands").COMMANDS.items())
    options = "  --help    show this text, or after a command the flags of the command\n  --version"
    return f"usage: dualebm COMMAND ...\n\n{ABOUT}\n\ncommands:\n{names}\n\noptions:\n{options}\n\nFor example: dualebm fit --help"


if __name__ == "__main__":
    sys.exit(main())
