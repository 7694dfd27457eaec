"""What the tests are collected and counted with.

A test is a function named as a sentence. It gets a running server, and fails with an
exception. It runs under each uWSGI, in each of the modes that it names; those that leave a
server as they found it share one.
"""

import time
import traceback

from server import Server

ALL = ("processes", "threads", "gevent", "greenlet")
TESTS = []


class Test:
    """One test and the server it needs."""

    def __init__(self, function, modes, share, options):
        self.function, self.modes, self.share, self.options = function, modes, share, options
        self.name = function.__name__.replace("_", " ")

    def key(self):
        """Tests with the same key can share a server."""
        return repr(sorted(self.options.items(), key=str)) if self.share else self.name


def test(modes=("processes",), share=False, server=True, **options):
    """Declares a test. `server=False`: it gets the flavour, and starts what it needs."""
    def declare(function):
        options["server"] = server
        TESTS.append(Test(function, modes, share, options))
        return function
    return declare


class Suite:
    """Runs tests and counts the outcomes."""

    def __init__(self, only):
        self.only = only
        self.passed = self.failed = 0

    def wanted(self, name):
        """True if the name has one of the words asked for."""
        return not self.only or any(word in name for word in self.only)

    def step(self, name, check):
        """Runs a check, which fails with an exception; gives True if it passed."""
        start = time.monotonic()
        try:
            note = check()
        except Exception:
            self.failed += 1
            print(f"  {name:<96} FAILED", flush=True)
            print("    " + traceback.format_exc().replace("\n", "\n    "), flush=True)
            return False
        self.passed += 1
        note = f"; {note}" if note else ""
        print(f"  {name:<96} ok ({time.monotonic() - start:.1f} s{note})", flush=True)
        return True

    def run(self, flavour):
        """All tests under one uWSGI."""
        groups = {}
        for each in TESTS:
            for mode in each.modes:
                label = f"{flavour.name}, {mode}: {each.name}"
                if mode in flavour.modes and self.wanted(label):
                    groups.setdefault((mode, each.key()), []).append((label, each))
        for (mode, _), tests in groups.items():
            self.group(flavour, mode, tests)

    def group(self, flavour, mode, tests):
        """Tests that share a server, or one that has its own."""
        options = dict(tests[0][1].options)
        if not options.pop("server"):
            for label, each in tests:
                self.step(label, lambda each=each: each.function(flavour, mode))
            return
        def serve():
            with Server(flavour, mode, **options) as server:
                for label, each in tests[:-1]:
                    self.step(label, lambda each=each: each.function(server))
                return tests[-1][1].function(server)
        self.step(tests[-1][0], serve)
