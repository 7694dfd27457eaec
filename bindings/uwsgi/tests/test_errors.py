"""Bad input gives exceptions with useful texts; limits are options; other uWSGIs are refused."""

import re
import subprocess
from pathlib import Path

from server import Server
from suite import test

ATTEMPT = """
import time
def attempt(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except Exception as error:
        bases = [base.__name__ for base in type(error).__mro__]
        return bases, str(error), getattr(error, "code", None)
    return None
"""


@test(("processes", "threads", "gevent"), share=True)
def a_wrong_type_is_a_type_error_that_names_it(server):
    got = server.run(ATTEMPT + """
result = [attempt(uwsgi.channel_join, 5), attempt(uwsgi.channel_send, None, b"x"),
          attempt(uwsgi.channel_send, "a", 5), attempt(uwsgi.channel_recv, "soon"),
          attempt(uwsgi.channel_send, "a"), attempt(uwsgi.channel_wait, "x")]
""")
    expected = ["str or bytes, not int", "str or bytes, not NoneType", "a bytes-like object or a "
                "str, not int", "real number, not str", "argument", "fileno() method"]
    for (bases, text, _), part in zip(got, expected, strict=True):
        assert bases[0] == "TypeError" and part in text, (bases, text)


@test(("processes",), share=True)
def a_bad_name_or_time_is_a_value_error_that_says_why(server):
    got = server.run(ATTEMPT + """
result = [attempt(uwsgi.channel_join, ""), attempt(uwsgi.channel_join, "x" * 256),
          attempt(uwsgi.channel_join, "a\\0b"), attempt(uwsgi.channel_recv, -1),
          attempt(uwsgi.channel_recv, float("nan"))]
uwsgi.channel_join("x" * 255)
""")
    for (bases, text, _), part in zip(got, ["empty", "255", "NUL", "seconds", "seconds"],
                                      strict=True):
        assert "ValueError" in bases and part in text, (bases, text)
    assert all("ChannelError" in bases for bases, _, _ in got[:3]), got
    assert [code for _, _, code in got[:3]] == [-20, -21, -22], got


@test(("processes",), share=True)
def leaving_what_was_not_joined_is_an_error_and_changes_nothing(server):
    got = server.run(ATTEMPT + """
uwsgi.channel_join("a")
error = attempt(uwsgi.channel_leave, "b")
uwsgi.channel_send("a", b"x")
result = error, uwsgi.channel_recv(5)
""")
    (bases, text, code), message = got
    assert bases[0] == "ChannelError" and text and code == -23 and message == b"x", got


@test(("processes", "gevent"), channels_message=100)
def an_oversized_message_is_refused_with_its_size_and_the_limit(server):
    got = server.run(ATTEMPT + """
uwsgi.channel_join("a")
uwsgi.channel_send("a", b"x" * 100)
result = attempt(uwsgi.channel_send, "a", b"x" * 101), len(uwsgi.channel_recv(5))
""")
    (bases, text, code), received = got
    assert bases[:2] == ["ChannelValueError", "ChannelError"] and code == -32, got
    assert "101" in text and "100" in text and received == 100, got


FILL = ATTEMPT + """
uwsgi.channel_join("a")
error, sent = None, 0
while not error and sent < 100000:
    start = time.monotonic()
    error = attempt(uwsgi.channel_send, "a", b"x" * 1000, timeout=0.2)
    sent += 0 if error else 1
waited = time.monotonic() - start
at_once = attempt(uwsgi.channel_send, "a", b"x" * 1000)
got = 0
while uwsgi.channel_recv(1): got += 1
result = error, at_once, waited, sent, got
"""


@test(("processes", "threads", "gevent", "greenlet"), channels_overflow="block",
      channels_queue="16k", channels_lane="16k", channels_message="4k")
def a_full_lane_refuses_at_once_or_after_the_time_and_loses_nothing(server):
    error, at_once, waited, sent, got = server.run(FILL)
    assert error[0][0] == at_once[0][0] == "ChannelFull" and at_once[1], (error, at_once)
    assert waited >= 0.2 and sent == got > 0, (waited, sent, got)
    assert server.run("uwsgi.channel_join('a'); uwsgi.channel_send('a', b'x'); "
                      "result = uwsgi.channel_recv(10)") == b"x", "an unread queue holds up nobody"


@test(("processes", "gevent"), channels_queue="8k")
def what_a_full_queue_lost_is_counted_where_it_was_lost(server):
    got = server.run("""
uwsgi.channel_join("a")
for n in range(1000): uwsgi.channel_send("a", b"x" * 100, timeout=5)
messages, lost = 0, 0
while messages + lost < 1000:
    m = uwsgi.channel_recv_message(1)
    if m is None: break
    messages, lost = messages + 1, lost + m.lost
result = messages, lost, uwsgi.channel_lost()
""")
    messages, lost, counted = got
    assert 0 < counted and messages + counted == 1000 and lost <= counted, got
    assert server.run("uwsgi.channel_join('a'); result = uwsgi.channel_lost()") == 0


@test(("processes",), channels=2)
def one_channel_too_many_is_refused(server):
    got = server.run(ATTEMPT + """
uwsgi.channel_join("a"); uwsgi.channel_join("b")
result = attempt(uwsgi.channel_join, "c")
""")
    assert got[0][0] == "ChannelError" and got[2] == -25, got


@test(("threads",), channels_cores=1, processes=1)
def one_core_too_many_is_refused_and_names_the_option(server):
    got = server.run(ATTEMPT + """
import _thread
done = []
def body(): done.append(attempt(uwsgi.channel_join, "b"))
uwsgi.channel_join("a")
_thread.start_new_thread(body, ())
end = time.monotonic() + 20
while not done and time.monotonic() < end: time.sleep(0.001)
result = done[0]
""")
    assert got[0][0] == "ChannelError" and "--channels-cores" in got[1], got


@test(("processes", "threads"), share=True)
def a_child_of_a_request_may_not_use_its_core(server):
    got = server.run(ATTEMPT + """
import os
uwsgi.channel_join("a")
r, w = os.pipe()
if os.fork() == 0:
    os.write(w, repr(attempt(uwsgi.channel_send, "a", b"x")).encode())
    os._exit(0)
os.wait()
uwsgi.channel_send("a", b"mine")
result = eval(os.read(r, 10000)), uwsgi.channel_recv(5)
os.close(r); os.close(w)
""")
    (bases, text, code), message = got
    assert bases[0] == "ChannelError" and "process" in text and code == -6, got
    assert message == b"mine", got


def starts_not(flavour, mode, app, **options):
    """Starts a server that must refuse to; gives what it said."""
    server = Server(flavour, mode, app=app, **options)
    done = subprocess.run(server.command(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          cwd=server.folder, timeout=60)
    return done.returncode, done.stdout.decode(errors="replace")


@test(server=False)
def using_channels_while_the_master_loads_the_application_says_what_to_do(flavour, mode):
    app = Path(Server(flavour).folder) / "early.py"
    app.write_text("import uwsgi\nuwsgi.channel_join('a')\n")
    code, said = starts_not(flavour, mode, app)
    assert code != 0 and "ChannelError" in said and "postfork" in said, said


@test(server=False)
def a_bad_option_ends_the_start_and_says_what_was_expected(flavour, mode):
    app = Path(__file__).with_name("app.py")
    for name, value, expected in (
            ("channels", "many", "a number"), ("channels_queue", "-5", "a number"),
            ("channels_queue", "64x", "a number"), ("channels_lane", "99999999999999G", "a number"),
            ("channels_overflow", "explode", "drop-newest, drop-oldest or block"),
            ("channels_order", "none", "total or per-sender"),
            ("channels_timestamps", "yes", "off, batch or message"),
            ("channels", "2000000", "1000000"), ("channels_queue", "10", "4096"),
            ("channels_cores", "5000", "4032")):
        code, said = starts_not(flavour, mode, app, **{name: value})
        lines = [line for line in said.splitlines() if line.startswith("corecast: ")]
        assert code == 1 and lines and expected in lines[-1], (name, value, said)


@test(server=False)
def every_option_is_in_the_help_and_in_the_readme(flavour, mode):
    command = Server(flavour).command()
    before = command[:command.index(str(flavour.plugin)) + 1]
    said = subprocess.run([*before, "--help"], capture_output=True, text=True, timeout=60).stdout
    options = set(re.findall(r"--(channels[a-z-]*)", said))
    source = Path(__file__).parents[1] / "src" / "options.c"
    made = set(re.findall(r'"(channels[a-z-]*)"', source.read_text()))
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    written = set(re.findall(r"`(channels[a-z-]*)`", readme))
    assert options == made == written and len(made) == 18, (options, made, written)


@test(server=False)
def the_plugin_of_another_uwsgi_is_refused_with_both_versions(flavour, mode):
    other = flavour.other
    for plugins in (flavour.plugins, []):
        server = Server(flavour, plugins=plugins, plugin=other.plugin)
        done = subprocess.run(server.command(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              cwd=server.folder, timeout=60, text=True)
        wanted = (f"corecast: this plugin was built for uWSGI {other.version} and this is uWSGI "
                  f"{flavour.version}")
        assert done.returncode == 1 and wanted in done.stdout, done.stdout


@test(server=False)
def without_the_python_plugin_it_says_which_to_load_first(flavour, mode):
    if not flavour.plugins:
        return "Python is built in"
    server = Server(flavour, plugins=[])
    done = subprocess.run(server.command(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          cwd=server.folder, timeout=60, text=True)
    assert done.returncode == 1 and "plugins = python3,corecast" in done.stdout, done.stdout
    return None
