/* A received message, as Python sees it. */
#include "python.h"

#include <structseq.h>

static PyStructSequence_Field fields[] = {
    {"channel", "name of the channel, a str"},
    {"body", "bytes"},
    {"worker", "number of the uWSGI worker that sent it, from 1; 0 for mules and spoolers"},
    {"core", "which of the channel cores there, from 0"},
    {"lost", "messages lost to the receiver just before this one, because its queue was full"},
    {"ticket", "position in the order of all; messages sent in a row may share one"},
    {"timestamp", "seconds since 1970, or 0.0 with --channels-timestamps off"},
    {NULL, NULL},
};

static PyStructSequence_Desc description = {
    "uwsgi.ChannelMessage", "A message, with what is known about it.", fields, 7};

PyTypeObject *cc_message_type(void) { return PyStructSequence_NewType(&description); }

PyObject *cc_body(const channel_message_t *message) {
    return PyBytes_FromStringAndSize(message->body, (Py_ssize_t)message->body_len);
}

/* The hub counts workers from 0, and what is no worker behind them. */
static long sender(const channel_message_t *message) {
    return message->worker < (uint32_t)uwsgi.numproc ? (long)message->worker + 1 : 0;
}

PyObject *cc_message(struct cc_state *state, const channel_message_t *m) {
    PyObject *values[] = {
        PyUnicode_DecodeUTF8(m->name, (Py_ssize_t)m->name_len, "surrogateescape"),
        cc_body(m),
        PyLong_FromLong(sender(m)),
        PyLong_FromUnsignedLong(m->core),
        PyLong_FromUnsignedLongLong(m->lost),
        PyLong_FromUnsignedLongLong(m->ticket),
        PyFloat_FromDouble((double)m->timestamp / 1e9),
    };
    PyObject *out = PyStructSequence_New(state->message);
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        if (out) PyStructSequence_SetItem(out, (Py_ssize_t)i, values[i]);
        else Py_XDECREF(values[i]);
    }
    if (out && PyErr_Occurred()) Py_CLEAR(out);
    return out;
}
