#!/usr/bin/env python3
"""Builds the plugin for Debian's uWSGI and for PyPI's, and tests it with real servers.

`--prefix` is where `make install` put corecast; `--build` keeps what is built, and PyPI's
uWSGI, for the next time. Words after the options: only tests with one of them in their name.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from server import Flavour
from suite import Suite

import test_calls  # noqa: F401

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


def quiet(command, **options):
    """Runs a command; shows what it said if it fails."""
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode:
        raise RuntimeError(f"{command}\n{done.stdout}")
    return done.stdout


def build_plugin(flavour, python, prefix, build):
    """Builds the plugin with the headers of that uWSGI."""
    folder = build / flavour.name
    env = dict(os.environ, PKG_CONFIG_PATH=str(prefix / "lib" / "pkgconfig"))
    quiet(["make", "-C", HERE.parent, f"UWSGI={flavour.command}", f"PYTHON={python}",
           f"BUILD={folder}"], env=env)
    flavour.plugin = folder / "corecast_plugin.so"


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
    suite = Suite(args.only)
    for make in (debian, pypi):
        if args.flavour and make.__name__ != args.flavour:
            continue
        flavour, python = make(build)
        if suite.step(f"{flavour.name}: the plugin builds",
                      lambda: build_plugin(flavour, python, prefix, build)):
            suite.step(f"{flavour.name}: it loads without Python", lambda: python_is_weak(flavour))
            suite.run(flavour)
    print(f"{suite.passed} passed, {suite.failed} failed")
    return 1 if suite.failed or not suite.passed else 0


if __name__ == "__main__":
    sys.exit(main())
