"""The lines that the README at the top shows for uWSGI, as they stand there."""

import http.client
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from server import Server, Unix, until
from suite import test

README = Path(__file__).parents[3] / "README.md"


def blocks():
    """The code blocks of the section, by language."""
    section = re.search(r"^## In uWSGI\n(.*?)^## ", README.read_text(), re.M | re.S)[1]
    return dict(re.findall(r"```(\w+)\n(.*?)```", section, re.S))


class Shown(Server):
    """A server with those lines; it listens where the test asks it, not on the port 8080."""

    def __init__(self, flavour):
        super().__init__(flavour)
        shown = blocks()
        ini = shown["ini"].replace("127.0.0.1:8080", str(self.socket))
        assert str(self.socket) in ini, "the README's ini listens elsewhere"
        if not flavour.plugins:
            ini = ini.replace("python3,corecast", "corecast")
        (self.folder / "app.ini").write_text(ini)
        (self.folder / "app.py").write_text(shown["python"])

    def command(self):
        folder = Path(self.plugin).parent
        return [str(self.flavour.command), "--plugins-dir", str(folder), "app.ini"]

    def answers(self):
        assert self.process.poll() is None, self.said()
        try:
            return self.ask("POST", b"early") == b"sent\n"
        except OSError:
            return False

    def ask(self, method, body=None):
        """One request; gives what it answers."""
        connection = Unix(self.socket)
        try:
            connection.request(method, "/", body)
            return connection.getresponse().read()
        except http.client.HTTPException as error:
            raise ConnectionError(str(error)) from error
        finally:
            connection.close()


@test(("threads",), server=False)
def the_lines_of_the_top_readme_do_what_it_says(flavour, mode):
    """Every request that waits, in whatever worker, gets what one sends."""
    with Shown(flavour) as server, ThreadPoolExecutor() as pool:
        waiting = [pool.submit(server.ask, "GET") for _ in range(4)]

        def all_have_it():
            server.ask("POST", b"hello")  # again, for who has not joined yet
            return all(each.done() for each in waiting)
        until(all_have_it, "all get the news")
        assert [each.result() for each in waiting] == [b"hello"] * 4


@test(server=False)
def the_command_of_the_top_readme_installs_the_plugin_where_uwsgi_looks(flavour, mode):
    """Below a folder of the test. PyPI's uWSGI looks nowhere, so there one says where."""
    line, = [line for line in blocks()["sh"].splitlines() if "-C bindings/uwsgi" in line]
    words = line.split("&&")[1].split()
    where = "/usr/lib/uwsgi/plugins"
    server = Server(flavour)
    ours = {"UWSGI": flavour.command, "PYTHON": flavour.python, "DESTDIR": server.folder,
            "BUILD": Path(flavour.plugin).parent, **({} if flavour.plugins else {"PLUGINS": where})}
    assert [word.split("=")[0] for word in words[4:]] == ["UWSGI", "PYTHON"], words
    command = [*words[:4], *(f"{name}={value}" for name, value in ours.items())]
    done = subprocess.run(command, cwd=README.parent, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (server.folder / where[1:] / "corecast_plugin.so").exists(), done.stdout
