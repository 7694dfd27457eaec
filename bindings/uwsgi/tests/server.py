"""Real uWSGI servers for the tests: started, asked over HTTP on a Unix socket, stopped."""

import ast
import http.client
import os
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
WATCHDOG = 60  # seconds: what takes longer hangs


class Flavour:
    """One uWSGI: how it is called, and where the plugin that was built for it is."""

    def __init__(self, name, command, plugins, modes):
        """`plugins`: of uWSGI's own, to load first; `modes`: which of MODES it can do."""
        self.name, self.command, self.plugins, self.modes = name, command, plugins, modes
        self.plugin = None  # set when it is built


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

    def __init__(self, flavour, mode="processes", load=(), app=HERE / "app.py", **options):
        """`load`: plugins beside those that are needed. An option with None is left out."""
        self.folder = Path(tempfile.mkdtemp(prefix="corecast-"))
        self.socket = self.folder / "http.sock"
        extra, of_mode = MODES[mode]
        self.plugins = [*flavour.plugins, *(extra if flavour.plugins else []), *load]
        self.options = {
            "http-socket": self.socket, "master": True, "processes": 2, "wsgi-file": app,
            "need-app": True, "worker-reload-mercy": 5, "socket-timeout": 30, **of_mode,
            "master-fifo": self.folder / "fifo",
            **{name.replace("_", "-"): value for name, value in options.items()}}
        self.flavour = flavour
        self.process = None

    def command(self):
        """The command line: the plugins, ours, and the options."""
        words = [str(self.flavour.command)]
        for plugin in self.plugins:
            words += ["--plugin", plugin]
        words += ["--plugin", str(self.flavour.plugin)]
        for name, value in self.options.items():
            for each in value if isinstance(value, list) else [value]:
                if each is not None:
                    words += [f"--{name}"] + ([] if each is True else [str(each)])
        return words

    def __enter__(self):
        self.log = open(self.folder / "log", "w+")
        self.process = subprocess.Popen(self.command(), stdout=self.log, stderr=self.log,
                                        cwd=self.folder, start_new_session=True)
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
        self.process.wait()
        self.log.close()

    def said(self):
        """The log."""
        return (self.folder / "log").read_text(errors="replace")

    def answers(self):
        """True if it serves requests."""
        if self.process.poll() is not None:
            raise AssertionError(f"uWSGI ended with {self.process.returncode}:\n{self.said()}")
        try:
            return self.run("result = 1") == 1
        except OSError:
            return False

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
        """How many descriptors the master has open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def fifo(self, letter):
        """Gives the master a command."""
        with open(self.folder / "fifo", "w") as fifo:
            fifo.write(letter)

    def stop(self):
        """Ends the server in its own way; gives its exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(WATCHDOG)
