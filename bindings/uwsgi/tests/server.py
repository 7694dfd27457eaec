"""Real uWSGI servers for the tests: started, asked over HTTP on a Unix socket, stopped."""

import ast
import atexit
import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
# All that a run writes, but for what it builds. Short: it is part of a socket's name.
SCRATCH = Path(tempfile.mkdtemp(prefix="corecast-"))
atexit.register(shutil.rmtree, SCRATCH, ignore_errors=True)
WATCHDOG = 60  # seconds: what takes longer hangs


RUNNING = set()  # process groups of the servers


def end_all(number, frame):
    """Whoever ends the tests ends the servers too."""
    for group in RUNNING:
        try:
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            pass
    os._exit(1)


class Flavour:
    """One uWSGI: how it is called, and where the plugin that was built for it is."""

    def __init__(self, name, command, plugins, modes):
        """`plugins`: of uWSGI's own, to load first; `modes`: which of MODES it can do."""
        self.name, self.command, self.plugins, self.modes = name, command, plugins, modes
        # Set when the plugin is built.
        self.plugin = self.python = self.version = self.other = None


# What each mode adds to the options, after the plugins that Debian needs for it.
MODES = {
    "processes": ([], {}),
    "threads": ([], {"threads": 4, "enable-threads": True}),
    "gevent": (["gevent_python3"], {"gevent": 16, "enable-threads": True}),
    "greenlet": (["greenlet_python3"], {"async": 16, "greenlet": True}),
}


class Unix(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path, timeout=WATCHDOG):
        super().__init__("localhost", timeout=timeout)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def until(check, what, seconds=WATCHDOG):
    """Waits until a check gives something true, and gives that; the watchdog of all waits."""
    deadline = time.monotonic() + seconds
    while True:
        got = check()
        if got:
            return got
        if time.monotonic() > deadline:
            raise AssertionError(f"not after {seconds} s: {what}")
        time.sleep(0.002)


class Server:
    """A uWSGI with two workers that runs tests/app.py, unless the options say otherwise."""

    def __init__(self, flavour, mode="processes", app=HERE / "app.py", plugins=None, plugin=None,
                 **options):
        """`plugins`: of uWSGI's, and `plugin`: ours, if not those of the flavour and mode. An
        option with None is left out, one with a list given several times; {folder} in a value
        is the server's own."""
        self.folder = Path(tempfile.mkdtemp(dir=SCRATCH))
        (self.folder / "spool").mkdir()
        self.socket = self.folder / "http.sock"
        extra, of_mode = MODES[mode]
        if plugins is None:
            plugins = [*flavour.plugins, *(extra if flavour.plugins else [])]
        self.plugins, self.plugin = plugins, plugin or flavour.plugin
        self.options = {
            "http-socket": self.socket, "master": True, "processes": 2, "wsgi-file": app,
            "need-app": True, "disable-logging": True, "worker-reload-mercy": 5,
            "socket-timeout": 30, **of_mode,
            "master-fifo": self.folder / "fifo",
            **{name.replace("_", "-"): value for name, value in options.items()}}
        self.flavour, self.mode = flavour, mode
        self.process = None

    def command(self):
        """The command line: the plugins, ours, and the options."""
        words = [str(self.flavour.command)]
        for plugin in self.plugins:
            words += ["--plugin", plugin]
        words += ["--plugin", str(self.plugin)]
        for name, value in self.options.items():
            for each in value if isinstance(value, list) else [value]:
                if each is True:
                    words.append(f"--{name}")
                elif each is not None:
                    words.append(f"--{name}={each}".replace("{folder}", str(self.folder)))
        return words

    def __enter__(self):
        self.log = open(self.folder / "log", "w+")
        self.process = subprocess.Popen(self.command(), stdout=self.log, stderr=self.log,
                                        cwd=self.folder, start_new_session=True)
        RUNNING.add(self.process.pid)
        try:
            until(self.answers, "the server answers")
        except BaseException:
            print(self.said())
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind, value, trace):
        if kind:
            print("    " + self.said()[-6000:].replace("\n", "\n    "))
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        RUNNING.discard(self.process.pid)
        self.process.wait()
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def said(self):
        """The log."""
        return (self.folder / "log").read_text(errors="replace")

    def answers(self):
        """True if it serves requests."""
        if self.process.poll() is not None:
            raise AssertionError(f"uWSGI ended with {self.process.returncode}:\n{self.said()}")
        try:
            return self.run("result = 1") == 1 and self.settled()
        except OSError:
            return False

    def settled(self):
        """True if the master has opened what it needs: workers answer earlier."""
        fifo = self.options["master-fifo"]
        return fifo is None or any(kind.endswith("/fifo") for kind in self.descriptors())

    def post(self, body, path="/", timeout=WATCHDOG):
        """Sends one request; gives (status, body)."""
        connection = Unix(self.socket, timeout)
        try:
            connection.request("POST", path, body, {"Connection": "close"})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except http.client.HTTPException as error:
            raise ConnectionError(str(error)) from error
        finally:
            connection.close()

    def run(self, code, path="/", timeout=WATCHDOG):
        """Runs Python code in a request of its own; gives what it left in `result`."""
        status, body = self.post(code, path, timeout)
        if status != 200:
            raise AssertionError(f"status {status}: {body}")
        return ast.literal_eval(body)

    def stats(self):
        """channel_stats, asked for in a request."""
        return self.run("result = uwsgi.channel_stats()")

    def descriptors(self):
        """What descriptors the master has open: how many of each kind."""
        kinds = Counter()
        for each in Path(f"/proc/{self.process.pid}/fd").iterdir():
            try:
                kinds[re.sub(r"\d+", "N", os.readlink(each))] += 1
            except OSError:  # closed meanwhile
                pass
        return kinds

    def has_again(self, descriptors):
        """Waits until the master has the descriptors that it had."""
        try:
            until(lambda: self.descriptors() == descriptors, "the descriptors as before")
        except AssertionError as error:
            now = self.descriptors()
            raise AssertionError(f"more: {now - descriptors}; less: {descriptors - now}") from error

    def fifo(self, letter):
        """Gives the master a command."""
        with open(self.folder / "fifo", "w") as fifo:
            fifo.write(letter)

    def stop(self):
        """Ends the server in its own way; gives its exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(WATCHDOG)
