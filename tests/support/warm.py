"""The command `perturbscreen` for pages with many commands: each is forked from one process that has imported what takes long.

As a module: `python -m tests.support.warm SOCKET` is that process, until its standard input ends.
"""

import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from tests.support.faults import SLOW_IMPORTS, leave

CLIENT = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    asked = [sys.argv[1:], os.getcwd(), dict(os.environ)]
    socket.send_fds(server, [b"."], [0, 1, 2])
    server.sendall(json.dumps(asked).encode())
    server.shutdown(socket.SHUT_WR)
    code = server.recv(16)
sys.exit(int(code))
"""
"""What a shell finds: it hands over its arguments, folder, variables and streams, and ends with the command's exit code."""


@contextmanager
def commands(folder: Path) -> Iterator[Path]:
    """A folder for PATH that holds the command, and python."""
    address, script = str(folder / "socket"), folder / "perturbscreen"
    script.write_text(CLIENT.format(python=os.path.realpath(sys.executable), address=address))
    # a link to python would not find the packages of its virtual environment
    (folder / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    for each in (script, folder / "python"):
        each.chmod(0o755)
    server = [sys.executable, "-m", __spec__.name, address]
    with subprocess.Popen(server, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.read(1) == b"."
        try:
            yield folder
        finally:
            process.stdin.close()


def _serve(address: str) -> None:
    for name in SLOW_IMPORTS:
        import_module(name)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        os.write(1, b".")
        while True:
            ready, _, _ = select.select([listener, 0], [], [])
            if 0 in ready:
                return
            client, _ = listener.accept()
            with client:
                pid = os.fork()
                if pid == 0:
                    listener.close()
                    _run(client)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                client.send(str(code).encode())


def _run(client: socket.socket) -> NoReturn:
    """What a forked process does."""
    _, streams, _, _ = socket.recv_fds(client, 1, 3)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    text = b"".join(iter(lambda: client.recv(2**16), b""))
    argv, folder, variables = json.loads(text)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    leave(import_module("screen.cli.main").main(argv))


if __name__ == "__main__":
    _serve(sys.argv[1])
