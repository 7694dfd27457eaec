"""Tells `uwsgi --build-plugin` how to build the plugin; the Makefile beside it calls that.

corecast is found through pkg-config (PKG_CONFIG_PATH), Python's header in the Python that
runs this: it must be the one of uWSGI's python plugin.
"""

import os
import shlex
import subprocess
import sys
import sysconfig

# Executed as text, so there is no __file__.
HERE = os.path.abspath(sys.argv[sys.argv.index("--extra-plugin") + 1])
LAYOUT_SEED, LAYOUT_PRIME = 0xCBF29CE484222325, 0x100000001B3


def pkg_config(*args):
    """What pkg-config says about corecast."""
    return shlex.split(subprocess.check_output(["pkg-config", *args, "corecast"], text=True))


def layout():
    """A hash of what decides about uWSGI's structures, as in src/plugin.c."""
    with open(".uwsgi_plugins_builder/uwsgi.h", "rb") as header:
        text = os.environ["UWSGI_PLUGINS_BUILDER_CFLAGS"].encode() + header.read()
    total = LAYOUT_SEED
    for byte in text:
        total = ((total ^ byte) * LAYOUT_PRIME) & 0xFFFFFFFFFFFFFFFF
    return total


NAME = "corecast"
LIBRARIES = pkg_config("--variable=libdir")[0]
GCC_LIST = ["src/" + part for part in (
    "plugin", "options", "hub", "caller", "wait", "module", "arguments", "errors", "message")]
CFLAGS = [
    "-std=gnu11", "-Wall", "-Wextra", "-Werror",
    "-I" + sysconfig.get_paths()["include"], *pkg_config("--cflags"),
    "-include", HERE + "/src/weak.h", f"-DCORECAST_UWSGI_LAYOUT=0x{layout():x}u",
]
LDFLAGS = []
LIBS = [*pkg_config("--libs"), "-Wl,-rpath," + LIBRARIES]
