/* Exceptions: what is wrong with a call, in the library's words.
 *
 *     ChannelError                 anything
 *     ├─ ChannelValueError         name or message; a ValueError too
 *     ├─ ChannelFull               no room in the lane, at once or in time: later, perhaps
 *     └─ ChannelMasterGone         nothing is routed any more
 *
 * Each has the number of corecast.h as `code`. A wrong type is a TypeError.
 */
#include "python.h"

static PyObject *exception(const char *name, const char *doc, PyObject *bases) {
    return PyErr_NewExceptionWithDoc(name, doc, bases, NULL);
}

int cc_errors_make(struct cc_state *state) {
    state->error = exception("uwsgi.ChannelError", "A channel_... call failed.", NULL);
    if (!state->error) return -1;
    PyObject *both = PyTuple_Pack(2, state->error, PyExc_ValueError);
    if (!both) return -1;
    state->value_error =
        exception("uwsgi.ChannelValueError", "A bad name, or too large a message.", both);
    Py_DECREF(both);
    state->full = exception("uwsgi.ChannelFull",
                            "No room in the lane: the master is behind. Try again later.",
                            state->error);
    state->master_gone = exception("uwsgi.ChannelMasterGone",
                                   "The master is gone: nothing is routed any more.", state->error);
    return state->value_error && state->full && state->master_gone ? 0 : -1;
}

static PyObject *class_of(struct cc_state *state, int code) {
    switch (code) {
    case CHANNEL_E_TOO_LARGE:
    case CHANNEL_E_NAME_EMPTY:
    case CHANNEL_E_NAME_TOO_LONG:
    case CHANNEL_E_NAME_NUL: return state->value_error;
    case CHANNEL_E_FULL:
    case CHANNEL_E_TIMEOUT: return state->full;
    case CHANNEL_E_MASTER_GONE: return state->master_gone;
    default: return state->error;
    }
}

static const char *text_of(int code) {
    switch (code) {
    case CC_NOT_A_WORKER:
        return "channels are there for workers, mules and spoolers of a running server: this "
               "process is none (if the application is being loaded, use uwsgidecorators.postfork)";
    case CC_NO_CORE_LEFT:
        return "all cores of this process are in use by other requests and threads: raise "
               "--channels-cores, or --channels-extra for mules and spoolers";
    case CHANNEL_E_NAME_NUL: return "a channel's name has a NUL inside";
    default: return channel_last_error();
    }
}

PyObject *cc_raise(struct cc_state *state, int code) {
    PyObject *class = class_of(state, code);
    PyObject *error = PyObject_CallFunction(class, "s", text_of(code));
    PyObject *number = error ? PyLong_FromLong(code) : NULL;
    if (number && PyObject_SetAttrString(error, "code", number) == 0)
        PyErr_SetObject(class, error);
    Py_XDECREF(number);
    Py_XDECREF(error);
    return NULL;
}
