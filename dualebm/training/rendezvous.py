"""The rendezvous of several processes, before JAX's runtime starts in any of them.

JAX's runtime crashes where a process is missing, or where the port of process 0 is taken. So the processes first find each
other here. Process 0 listens at the port and greets each of the others, which say who they are. When all are there, process 0
lets them begin and leaves the port, and JAX takes it. Messages are lines of JSON.
"""

import contextlib
import json
import os
import re
import socket
import time
import warnings
from collections.abc import Callable
from typing import Any

REMINDER = 10.0
"""Seconds after which a process says for which of the others it waits."""

REPLY = 5.0
"""Seconds that a peer has to send its line. It is longer than a network needs, and a stranger must not hold up the others for long."""

LONGEST = 4096
"""The largest number of bytes of a line."""


def address_of(text: str) -> tuple[str, int]:
    """Return the host and the port of an address.

    Args:
        text: The address host:port. An IPv6 address is in brackets.

    Returns:
        The host, without brackets, and the port.

    Raises:
        ValueError: When the text is no such address, or the port is not from 1 to 65535.

    >>> address_of("10.0.0.1:1234"), address_of("[::1]:1234")
    (('10.0.0.1', 1234), ('::1', 1234))
    """
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^\s\[\]:/]+)):([0-9]+)", text, re.ASCII)
    if not found:
        raise ValueError(f"coordinator is {text!r}; it must be host:port of process 0, as 10.0.0.1:1234 or [fd00::1]:1234, or auto")
    port = int(found[3]) if len(found[3]) < 6 else 65536
    if not 0 < port < 65536:
        raise ValueError(f"coordinator is {text!r}; its port must be from 1 to 65535")
    return found[1] or found[2], port


def meet(coordinator: str, index: int, count: int, patience: float) -> None:
    """Return when all processes are there, and the port of process 0 is free for JAX.

    Args:
        coordinator: The address host:port of process 0.
        index: The index of this process, from 0.
        count: The number of processes, at least 2.
        patience: The longest time to wait for the others, in seconds.

    Raises:
        ValueError: When the address is not allowed, or two processes have other counts or the same index. All raise it.
        TimeoutError: When a process is missing after `patience` seconds. It names the process.
        OSError: When process 0 cannot listen at the port, or the name of its host is not known.
        ConnectionError: When the port belongs to another program, or process 0 ended meanwhile.
    """
    place = address_of(coordinator)
    if index == 0:
        _receive(coordinator, place[1], count, patience)
    else:
        _report(coordinator, place, index, count, patience)


# -- Process 0 -----------------------------------------------------------------------------------------


def _receive(coordinator: str, port: int, count: int, patience: float) -> None:
    """Wait for the others, and let them begin."""
    present: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_listen(coordinator, port))
        deadline, remind = time.monotonic() + patience, _reminder(lambda: f"process 0 waits at port {port} for {_missing(present, count)}")
        try:
            while len(present) < count - 1:
                remind()
                left = deadline - time.monotonic()
                if left <= 0:
                    missing = _missing(present, count)
                    raise TimeoutError(f"coordinator is {coordinator!r}; {missing} did not come within {patience:g} s")
                server.settimeout(min(left, 1.0))
                with contextlib.suppress(TimeoutError):
                    peer = stack.enter_context(server.accept()[0])
                    _admit(peer, present, count)
        except (ValueError, TimeoutError) as error:
            for peer in present.values():
                _send(peer, error=str(error), kind=type(error).__name__)
            raise
        for peer in present.values():
            _send(peer, begin=True)
        for peer in present.values():  # who closes a connection first keeps the port for a while: let it be the others
            with contextlib.suppress(OSError):
                peer.settimeout(REPLY)
                peer.recv(1)


def _listen(coordinator: str, port: int) -> socket.socket:
    dual = socket.has_dualstack_ipv6()
    try:
        return socket.create_server(("", port), family=socket.AF_INET6 if dual else socket.AF_INET, dualstack_ipv6=dual)
    except OSError as error:
        reason = f"coordinator is {coordinator!r}; process 0 cannot listen at port {port} ({os.strerror(error.errno or 0)})"
        raise OSError(f"{reason}: give all processes another port") from error


def _admit(peer: socket.socket, present: dict[int, socket.socket], count: int) -> None:
    """Add a process that has come. Raises ValueError where it and process 0 were not started alike. Strangers are left out."""
    for gone in [index for index, other in present.items() if not _is_there(other)]:
        del present[gone]  # it may come again
    with contextlib.suppress(OSError):
        _send(peer, dualebm="process 0")
        peer.settimeout(REPLY)
        said = _line(peer)
        index, theirs = said.get("process"), said.get("of")
        if not (type(index) is int and type(theirs) is int):
            return
        if theirs != count:
            present[-1] = peer  # it is to hear the reason, too
            raise ValueError(f"process is 0/{count} and {index}/{theirs}; all processes must have the same number of processes")
        if not 0 < index < count or index in present:
            present[-1] = peer
            raise ValueError(f"process is {index}/{count} in two processes; each must have an index of its own")
        present[index] = peer


def _is_there(peer: socket.socket) -> bool:
    """Return whether a process that has come still waits: it sends nothing, and has not closed its connection."""
    peer.setblocking(False)
    try:
        return bool(peer.recv(1))
    except BlockingIOError:
        return True
    except OSError:
        return False


def _missing(present: dict[int, socket.socket], count: int) -> str:
    missing = [index for index in range(1, count) if index not in present]
    names = ", ".join(map(str, missing[:5])) + f" and {len(missing) - 5} more" * (len(missing) > 5)
    return f"process{'es' * (len(missing) > 1)} {names} of {count}"


# -- The other processes -------------------------------------------------------------------------------


def _report(coordinator: str, place: tuple[str, int], index: int, count: int, patience: float) -> None:
    """Tell process 0 that this process is there, and wait until it may begin."""
    with _connect(coordinator, place, index, patience) as peer:
        peer.settimeout(4 * REPLY)  # a stranger that came before may hold process 0 up
        if "dualebm" not in _line(peer):
            raise ConnectionError(f"coordinator is {coordinator!r}; another program listens there: give all processes another port")
        _send(peer, process=index, of=count)
        peer.settimeout(patience + 4 * REPLY)  # process 0 may have come later, and waits as long
        said = _line(peer)
    if "error" in said:
        raise (TimeoutError if said.get("kind") == "TimeoutError" else ValueError)(said["error"])
    if "begin" not in said:
        raise ConnectionError(f"coordinator is {coordinator!r}; process 0 ended before all processes were there")


def _connect(coordinator: str, place: tuple[str, int], index: int, patience: float) -> socket.socket:
    """Return a connection to process 0, once it listens."""
    deadline, reason = time.monotonic() + patience, ""
    remind = _reminder(lambda: f"process {index} waits for process 0 at {coordinator} ({reason})")
    while time.monotonic() < deadline:
        try:
            return socket.create_connection(place, timeout=REPLY)
        except socket.gaierror as error:
            raise OSError(f"coordinator is {coordinator!r}; its host is not known ({error.strerror})") from error
        except OSError as error:
            reason = error.strerror or str(error)
        remind()
        time.sleep(0.1)
    raise TimeoutError(f"coordinator is {coordinator!r}; process 0 was not there within {patience:g} s ({reason})")


def _reminder(text: Callable[[], str]) -> Callable[[], None]:
    """Return a function that warns once, some seconds after now."""
    due = [time.monotonic() + REMINDER]

    def remind():
        if due and time.monotonic() > due[0]:
            due.clear()
            warnings.warn(text(), stacklevel=2)

    return remind


# -- Lines ---------------------------------------------------------------------------------------------


def _send(peer: socket.socket, **said: Any) -> None:
    """Send a line, unless the peer has gone."""
    with contextlib.suppress(OSError):
        peer.sendall(json.dumps(said).encode() + b"\n")


def _line(peer: socket.socket) -> dict[str, Any]:
    """Return the next line of a peer, or an empty dictionary where it sends none, or something else."""
    line = b""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        while not line.endswith(b"\n") and len(line) < LONGEST:
            if not (part := peer.recv(1)):
                return {}
            line += part
        said = json.loads(line)
        return said if isinstance(said, dict) else {}
    return {}
