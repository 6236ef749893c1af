"""Processes that find each other before JAX starts: in threads of one process, over loopback."""

import concurrent.futures
import contextlib
import json
import socket
import time

import pytest

from dualebm.training import rendezvous


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(rendezvous, "REPLY", 0.5)


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def outcomes(port, *processes, patience=5.0):
    """For each process, given as (index, count): None where it may begin, else its error."""

    def meet(process):
        try:
            return rendezvous.meet(f"127.0.0.1:{port}", *process, patience)
        except Exception as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(len(processes)) as pool:
        return list(pool.map(meet, processes))


def lines(errors):
    return {f"{type(error).__name__}: {error}" for error in errors}


def test_all_begin_when_all_are_there(port):
    """In any order, and again at the same port, which is then free."""
    for _ in range(2):
        assert outcomes(port, (2, 3), (0, 3), (1, 3)) == [None] * 3
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_a_missing_process_is_named_by_all(port):
    assert lines(outcomes(port, (0, 4), (1, 4), patience=0.5)) == {
        f"TimeoutError: coordinator is '127.0.0.1:{port}'; processes 2, 3 of 4 did not come within 0.5 s"
    }
    said = lines(outcomes(port, (1, 2), patience=0.2))
    assert said == {f"TimeoutError: coordinator is '127.0.0.1:{port}'; process 0 was not there within 0.2 s (Connection refused)"}


def test_a_note_says_for_whom_a_process_waits(port, monkeypatch):
    monkeypatch.setattr(rendezvous, "REMINDER", 0.05)
    with pytest.warns(UserWarning, match=f"process 0 waits at port {port} for process 1 of 2"), pytest.raises(TimeoutError):
        rendezvous.meet(f"127.0.0.1:{port}", 0, 2, 0.2)
    with pytest.warns(UserWarning, match=f"process 1 waits for process 0 at 127.0.0.1:{port}"), pytest.raises(TimeoutError):
        rendezvous.meet(f"127.0.0.1:{port}", 1, 2, 0.2)


@pytest.mark.parametrize(
    ("processes", "message"),
    [
        ([(0, 2), (1, 3)], "process is 0/2 and 1/3; all processes must have the same number of processes"),
        ([(0, 3), (1, 3), (1, 3)], "process is 1/3 in two processes; each must have an index of its own"),
    ],
)
def test_processes_that_do_not_fit_all_end(port, processes, message):
    assert lines(outcomes(port, *processes)) == {f"ValueError: {message}"}


def test_a_port_of_another_program(monkeypatch):
    """It has a server that says nothing."""
    monkeypatch.setattr(rendezvous, "REPLY", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        first, second = outcomes(port, (0, 2), (1, 2))
        assert str(first).endswith(f"cannot listen at port {port} (Address already in use): give all processes another port")
        assert str(second) == f"coordinator is '127.0.0.1:{port}'; another program listens there: give all processes another port"
    assert isinstance(first, OSError) and isinstance(second, ConnectionError)


def test_an_unknown_host():
    with pytest.raises(OSError, match=r"coordinator is 'no.such.host.invalid:80'; its host is not known"):
        rendezvous.meet("no.such.host.invalid:80", 1, 2, 5.0)


def come(port, said):
    """A connection to process 0 of a peer that has sent some bytes."""
    for _ in range(500):
        with contextlib.suppress(ConnectionRefusedError):
            peer = socket.create_connection(("127.0.0.1", port))
            peer.sendall(said)
            return peer
        time.sleep(0.01)
    raise AssertionError("process 0 does not listen")


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"", b"[" * 4095 + b"\n", b"x" * 9999, b'{"process": "1", "of": 2}\n'])
def test_a_stranger_is_left_out(port, said):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(rendezvous.meet, f"127.0.0.1:{port}", 0, 2, 5.0)
        with come(port, said):
            assert outcomes(port, (1, 2)) == [None] and first.result() is None


def test_a_process_that_was_killed_may_come_again(port):
    """The rendezvous does not count it, and does not take the second for another."""
    hello = json.dumps({"process": 1, "of": 3}).encode() + b"\n"
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(rendezvous.meet, f"127.0.0.1:{port}", 0, 3, 5.0)
        with come(port, hello) as peer:
            peer.settimeout(5.0)
            assert b"dualebm" in peer.recv(100)
            time.sleep(0.05)  # process 0 counts it
        assert outcomes(port, (2, 3), (1, 3)) == [None] * 2 and first.result() is None


def test_process_0_that_ends_meanwhile():
    with socket.create_server(("127.0.0.1", 0)) as server, concurrent.futures.ThreadPoolExecutor(1) as pool:
        port = server.getsockname()[1]
        other = pool.submit(rendezvous.meet, f"127.0.0.1:{port}", 1, 2, 5.0)
        with server.accept()[0] as peer:
            peer.sendall(b'{"dualebm": "process 0"}\n')
            peer.recv(100)
        with pytest.raises(ConnectionError, match="process 0 ended before all processes were there"):
            other.result()
