# SPDX-License-Identifier: MIT
"""Databases and a broker of a test's own, in temporary folders; none has to be running before."""

import os
import shutil
import signal
import socket
import subprocess
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from processes import Process

# PostgreSQL refuses to run as root; and becoming another user forgets whose death ends it.
AS_POSTGRES = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups")


class MissingServerError(Exception):
    """A server is not installed; the message says how to get it."""


def find_postgres():
    """Return the binary, or None; Debian leaves it off the path, in a folder of its version."""
    on_path = shutil.which("postgres")
    found = [on_path] if on_path else sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    return Path(found[-1]).resolve() if found else None


def free_port():
    """Return a port of the loopback that nobody listens on yet."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return str(free.getsockname()[1])


def sqlite(folder):
    """Return the address of a database in a folder; its writers wait 30 seconds for each other."""
    return f"sqlite+aiosqlite:///{folder}/shop.db?timeout=30"


@contextmanager
def redis():
    """Run a Redis; yield its address."""
    if not shutil.which("redis-server"):
        missing = "redis-server is not installed (Debian: apt-get install redis-server)"
        raise MissingServerError(missing)
    port = free_port()
    with TemporaryDirectory() as folder:
        options = ("--bind", "127.0.0.1", "--port", port, "--dir", folder, "--save", "")
        with closing(Process("redis-server", *options)) as process:
            process.wait_for_output("Ready to accept connections")
            yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def postgresql():
    """Run a PostgreSQL on a socket in a folder that nobody else may enter; yield its address."""
    postgres = find_postgres()
    if postgres is None:
        missing = "postgresql is not installed (Debian: apt-get install postgresql)"
        raise MissingServerError(missing)
    user = (*AS_POSTGRES, "--pdeathsig=QUIT") if os.geteuid() == 0 else ()
    with TemporaryDirectory() as folder:
        if user:
            shutil.chown(folder, "postgres", "postgres")
        data = f"{folder}/data"
        options = ("--auth=trust", "--username=shop", "--encoding=UTF8", "--no-sync")
        initdb = (*user, postgres.with_name("initdb"), "--pgdata", data, *options)
        subprocess.run(initdb, check=True, cwd=folder, stdout=subprocess.DEVNULL)
        options = ("-c", "listen_addresses=", "-c", f"unix_socket_directories={folder}")
        with closing(Process(*user, postgres, "-D", data, *options)) as process:
            process.wait_for_output("ready to accept connections")
            yield f"postgresql+asyncpg://shop@/postgres?host={folder}"
            process.send(signal.SIGQUIT)  # at once: nothing is to be saved, no client waited for
