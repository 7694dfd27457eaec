"""A WSGI application that runs the code it is sent, and answers with what is in `result`."""

import traceback

import uwsgi


def application(environ, start_response):
    """Runs one piece of code in this request."""
    code = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)).decode()
    names = {"uwsgi": uwsgi, "environ": environ, "result": None}
    try:
        exec(compile(code, "<test>", "exec"), names)
    except Exception:
        start_response("500 Failed", [("Content-Type", "text/plain")])
        return [traceback.format_exc().encode()]
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [repr(names["result"]).encode()]
