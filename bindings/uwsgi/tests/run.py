#!/usr/bin/env python3
"""Builds the plugin for Debian's uWSGI and for PyPI's, and tests it with real servers.

`--prefix` is where `make install` put corecast; `--build` keeps what is built, and PyPI's
uWSGI, for the next time. Words after the options: only tests with one of them in their name.
"""

import argparse
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from server import Flavour, end_all
from suite import Suite

import test_apps  # noqa: F401
import test_calls  # noqa: F401
import test_chat  # noqa: F401
import test_deaths  # noqa: F401
import test_errors  # noqa: F401
import test_guests  # noqa: F401
import test_readme  # noqa: F401

HERE = Path(__file__).resolve().parent
PYPI_VERSION = "2.0.31"


def debian(build):
    """What apt-get installed."""
    plugins = ["processes", "threads", "gevent", "greenlet"]
    return Flavour("debian", "/usr/bin/uwsgi", ["python3"], plugins), "/usr/bin/python3"


def pypi(build):
    """Built from its source into an environment of its own, once."""
    home = build / f"uwsgi-{PYPI_VERSION}"
    if not (home / "bin" / "uwsgi").exists():
        print(f"  building uWSGI {PYPI_VERSION} into {home}", flush=True)
        quiet([sys.executable, "-m", "venv", home])
        quiet([home / "bin" / "pip", "install", "--quiet", "--no-binary", "uwsgi",
               f"uwsgi=={PYPI_VERSION}", "gevent"])
    flavour = Flavour("pypi", home / "bin" / "uwsgi", [], ["processes", "threads", "gevent"])
    return flavour, home / "bin" / "python"


def quiet(command):
    """Runs a command; shows what it said if it fails."""
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(f"{command}\n{done.stdout}")
    return done.stdout


def build_plugin(flavour, python, build):
    """Builds the plugin with the headers of that uWSGI."""
    folder = build / flavour.name
    quiet(["make", "-C", HERE.parent, f"UWSGI={flavour.command}", f"PYTHON={python}",
           f"BUILD={folder}"])
    flavour.plugin, flavour.python = folder / "corecast_plugin.so", python
    flavour.version = quiet([flavour.command, "--version"]).strip()


def python_is_weak(flavour):
    """No function of Python is needed to load the plugin: see src/weak.h."""
    needed = quiet(["nm", "-D", "--undefined-only", flavour.plugin])
    strong = [line for line in needed.splitlines() if " U Py" in line or " U _Py" in line]
    assert not strong, strong


def main():
    """Builds and runs everything; 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prefix", type=Path, required=True)
    parser.add_argument("--build", type=Path, required=True)
    parser.add_argument("--flavour", choices=["debian", "pypi"], help="only this uWSGI")
    parser.add_argument("only", nargs="*")
    args = parser.parse_args()
    build, prefix = args.build.resolve(), args.prefix.resolve()
    build.mkdir(parents=True, exist_ok=True)
    os.environ["PKG_CONFIG_PATH"] = str(prefix / "lib" / "pkgconfig")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end_all)
    suites = {name: Suite(args.only) for name in ("debian", "pypi")}
    made = [make(build) for make in (debian, pypi)]
    for (flavour, python), (other, _) in zip(made, reversed(made), strict=True):
        flavour.other, suite = other, suites[flavour.name]
        suite.step(f"{flavour.name}: the plugin builds",
                   lambda: build_plugin(flavour, python, build))
        suite.step(f"{flavour.name}: it loads without Python", lambda: python_is_weak(flavour))
    # Both at the same time: most of it is waiting.
    runs = []
    with ThreadPoolExecutor() as pool:
        for flavour, _ in made:
            if flavour.name == (args.flavour or flavour.name):
                runs.append(pool.submit(suites[flavour.name].run, flavour))
    for each in runs:
        each.result()
    passed, failed = (sum(getattr(suite, what) for suite in suites.values())
                      for what in ("passed", "failed"))
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
