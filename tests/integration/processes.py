# SPDX-License-Identifier: MIT
"""Processes that end with their test, and how to wait for what they do."""

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

HERE = Path(__file__).parent
SECONDS = 30  # that anything may take
# A worker that says when it is ready, and is so soon; the scheduler is one that keeps no file.
QUICKLY = ("--without-gossip", "--without-mingle", "--without-heartbeat")
WORKER = ("celery", "--app", "shop.worker", "worker", "--loglevel", "INFO", *QUICKLY)
BEAT = ("--beat", "--scheduler", "celery.beat:Scheduler")


def eventually(condition):
    """Poll a condition until it is true, and return its value."""
    deadline = time.monotonic() + SECONDS
    while not (value := condition()):
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)
    return value


def read_events(lines, count):
    """Read server-sent events: the name and the data of each."""
    lines = (line for line in lines if line and not line.startswith(":"))
    events = []
    for _ in range(count):
        name = next(lines).removeprefix("event: ")
        events.append((name, json.loads(next(lines).removeprefix("data: "))))
    return events


class Process:
    """A command that runs in a process group of its own; its output is read as it comes."""

    def __init__(self, *command, **environment):
        if shutil.which("setpriv"):  # so that it ends even if pytest is killed
            command = ("setpriv", "--pdeathsig", "TERM", *command)
        self.output = ""
        self._popen = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": f"{HERE.parent.parent}:{HERE}", **environment},
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self._popen.stdout:
            self.output += line

    def wait_for_output(self, pattern):
        """Return the match of a pattern in the output, once it is there."""

        def look():
            ended = self._popen.poll() is not None
            found = re.search(pattern, self.output)
            assert found or not ended, f"ended without {pattern!r}:\n{self.output}"
            return found

        return eventually(look)

    def send(self, number):
        """Send a signal to the process, but not to its children."""
        self._popen.send_signal(number)

    def wait(self, seconds=SECONDS):
        """Wait for the end of the process; return its status."""
        status = self._popen.wait(seconds)
        self._reader.join(SECONDS)
        return status

    def kill(self):
        """Kill the process and its children, with no time to clean up."""
        self._kill_group()
        self.wait()
        self._popen.stdout.close()

    def close(self):
        """End the process, and see that neither it nor a child of it is left."""
        try:
            if self._popen.poll() is None:
                self._popen.terminate()
            self.wait()
        finally:
            self._kill_group()
            self.wait()
            self._popen.stdout.close()
        eventually(lambda: not self._kill_group())

    def _kill_group(self):
        try:
            os.killpg(self._popen.pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True
