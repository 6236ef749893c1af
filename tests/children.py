"""Functions of the tests in processes of their own, which start at once: forked from a server that has imported the package.

To import it anew would take each of them seconds. The server starts no JAX, so that each process has its own devices and precision.
"""

import importlib
import multiprocessing
import os
import traceback

import jax

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["dualebm.cli.main", "pytest"])


def call(sender, devices, x64, module, name, arguments):
    """What a process does: `module.name(*arguments)`, whose value it sends, or else the error's text."""
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    jax.config.update("jax_enable_x64", x64)
    jax.config.update("jax_numpy_rank_promotion", "raise")
    try:
        sender.send((getattr(importlib.import_module(module), name)(*arguments), None))
    except Exception:
        sender.send((None, traceback.format_exc()))
        raise


class Child:
    """A process that calls a function of a module, found by its name, with so many devices; its errors go to standard error too."""

    def __init__(self, function, *arguments, devices=1, x64=False):
        self.receiver, sender = CONTEXT.Pipe(duplex=False)
        given = (sender, devices, x64, function.__module__, function.__name__, arguments)
        self.process = CONTEXT.Process(target=call, args=given, daemon=True)
        self.process.start()
        sender.close()

    def answer(self, seconds=300):
        """What the function returns, once the process has ended; EOFError where it ends before that."""
        try:
            assert self.receiver.poll(seconds), f"no answer within {seconds} s"
            value, error = self.receiver.recv()
            assert error is None, error
            self.process.join(seconds)
            return value
        finally:
            self.kill()

    def kill(self) -> int:
        """The exit code: that of SIGKILL, where it had not ended by itself."""
        self.process.kill()
        self.process.join()
        return self.process.exitcode
