/* The functions of the module `uwsgi`.
 *
 * They are made in a built-in module of their own, which each interpreter imports when uWSGI
 * has filled its `uwsgi`, and which adds them there: so every mounted application has them.
 */
#include "python.h"

#include <string.h>

struct cc_state *cc_state(PyObject *module) { return PyModule_GetState(module); }

bool cc_greenlet_serves_request(void) {
    static PyObject *getcurrent;
    if (!getcurrent) {
        PyObject *module = PyImport_ImportModule("greenlet");
        getcurrent = module ? PyObject_GetAttrString(module, "getcurrent") : NULL;
        Py_XDECREF(module);
    }
    PyObject *current = getcurrent ? PyObject_CallObject(getcurrent, NULL) : NULL;
    bool serves = current && PyObject_HasAttrString(current, "uwsgi_wsgi_req");
    Py_XDECREF(current);
    PyErr_Clear();
    return serves;
}

/* The core of who calls, or NULL with an exception. */
static struct cc_core *caller(PyObject *module) {
    struct cc_core *core = NULL;
    int result = cc_caller(&core);
    if (result < 0) cc_raise(cc_state(module), result);
    return core;
}

static PyObject *none_or(PyObject *module, int result) {
    if (result < 0) return cc_raise(cc_state(module), result);
    Py_RETURN_NONE;
}

/* ----------------------------------------------------------- joining, leaving */

static PyObject *join(PyObject *module, PyObject *object) {
    const char *name = cc_name(cc_state(module), object);
    struct cc_core *core = name ? caller(module) : NULL;
    int result;
    if (!core) return NULL;
    Py_BEGIN_ALLOW_THREADS
    result = channel_join(core->handle, name, NULL);
    Py_END_ALLOW_THREADS
    core->joined |= result == 0 || result == CHANNEL_E_TIMEOUT;
    return none_or(module, result);
}

static PyObject *leave(PyObject *module, PyObject *object) {
    const char *name = cc_name(cc_state(module), object);
    struct cc_core *core = name ? caller(module) : NULL;
    if (!core) return NULL;
    int result = cc_leaving(core, name);
    if (result < 0) return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS
    result = channel_leave(core->handle, name);
    Py_END_ALLOW_THREADS
    return none_or(module, result);
}

static PyObject *leave_all(PyObject *module, PyObject *unused) {
    (void)unused;
    struct cc_core *core = caller(module);
    if (!core) return NULL;
    int result = cc_leaving(core, NULL);
    Py_BEGIN_ALLOW_THREADS
    result = channel_leave_all(core->handle);
    Py_END_ALLOW_THREADS
    return none_or(module, result);
}

/* -------------------------------------------------------------------- sending */

static int send_blocking(struct cc_core *core, const char *name, const Py_buffer *body,
                         int64_t ms) {
    int result, timeout = ms > INT_MAX ? -1 : (int)ms;
    Py_BEGIN_ALLOW_THREADS
    result = channel_send_timeout(core->handle, name, body->buf, (size_t)body->len, timeout);
    Py_END_ALLOW_THREADS
    return result;
}

/* For gevent. 1: an exception is set. */
static int send_pausing(struct cc_core *core, const char *name, const Py_buffer *body,
                        int64_t ms) {
    int64_t deadline = cc_deadline(ms);
    for (;;) {
        int result = channel_send(core->handle, name, body->buf, (size_t)body->len);
        if (result != CHANNEL_E_FULL || cc_now() >= deadline) return result;
        if (cc_gevent_pause() < 0) return 1;
    }
}

static int send_in_time(struct cc_core *core, const char *name, const Py_buffer *body,
                        int64_t ms) {
    int result = channel_send(core->handle, name, body->buf, (size_t)body->len);
    if (result != CHANNEL_E_FULL || ms == 0) return result;
    return cc_in_gevent() ? send_pausing(core, name, body, ms)
                          : send_blocking(core, name, body, ms);
}

static PyObject *send_message(PyObject *module, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"name", "message", "timeout", NULL};
    PyObject *name_object, *body_object, *timeout = NULL;
    int64_t ms;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO|O:channel_send", names, &name_object,
                                     &body_object, &timeout))
        return NULL;
    const char *name = cc_name(cc_state(module), name_object);
    if (!name || cc_timeout(timeout, &ms) < 0) return NULL;
    struct cc_core *core = caller(module);
    Py_buffer body;
    if (!core || cc_bytes(body_object, &body) < 0) return NULL;
    int result = send_in_time(core, name, &body, ms);
    PyBuffer_Release(&body);
    return result == 1 ? NULL : none_or(module, result);
}

/* ------------------------------------------------------------------ receiving */

/* The core of who calls, with its next message: 1, 0 if there is none in time, or -1 with
 * an exception. */
static int receive(PyObject *module, PyObject *timeout, struct cc_core **out) {
    int64_t ms;
    struct cc_core *core = cc_timeout(timeout, &ms) == 0 ? caller(module) : NULL;
    if (!core) return -1;
    int64_t deadline = cc_deadline(ms);
    int result = cc_receive(core);
    while (result == 0 && cc_now() < deadline) {
        result = cc_wait(core, -1, deadline == CC_FOREVER ? CC_FOREVER : deadline - cc_now());
        if (result >= 0) result = cc_receive(core);
    }
    if (result < 0 && !PyErr_Occurred()) cc_raise(cc_state(module), result);
    *out = core;
    return result < 0 ? -1 : result;
}

static int parse_timeout(PyObject *args, PyObject *kwargs, const char *format, PyObject **out) {
    static char *names[] = {"timeout", NULL};
    *out = NULL;
    return PyArg_ParseTupleAndKeywords(args, kwargs, format, names, out);
}

static PyObject *recv_body(PyObject *module, PyObject *args, PyObject *kwargs) {
    PyObject *timeout;
    struct cc_core *core;
    if (!parse_timeout(args, kwargs, "|O:channel_recv", &timeout)) return NULL;
    int got = receive(module, timeout, &core);
    if (got > 0) return cc_body(&core->message);
    if (got < 0) return NULL;
    Py_RETURN_NONE;
}

static PyObject *recv_message(PyObject *module, PyObject *args, PyObject *kwargs) {
    PyObject *timeout;
    struct cc_core *core;
    if (!parse_timeout(args, kwargs, "|O:channel_recv_message", &timeout)) return NULL;
    int got = receive(module, timeout, &core);
    if (got > 0) return cc_message(cc_state(module), &core->message);
    if (got < 0) return NULL;
    Py_RETURN_NONE;
}

static PyObject *wait_for(PyObject *module, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"fd", "timeout", NULL};
    PyObject *file = NULL, *timeout = Py_None;
    int64_t ms;
    int fd;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|OO:channel_wait", names, &file, &timeout))
        return NULL;
    if (cc_descriptor(file, &fd) < 0 || cc_timeout(timeout, &ms) < 0) return NULL;
    struct cc_core *core = caller(module);
    if (!core) return NULL;
    int ready = cc_wait(core, fd, ms);
    if (ready < 0) return PyErr_Occurred() ? NULL : cc_raise(cc_state(module), ready);
    return PyBool_FromLong(ready);
}

static PyObject *descriptor(PyObject *module, PyObject *unused) {
    (void)unused;
    struct cc_core *core = caller(module);
    return core ? PyLong_FromLong(channel_fd(core->handle)) : NULL;
}

static PyObject *lost(PyObject *module, PyObject *unused) {
    (void)unused;
    struct cc_core *core = caller(module);
    if (!core) return NULL;
    return PyLong_FromLongLong(channel_lost(core->handle) - (int64_t)core->lost_before);
}

/* ----------------------------------------------------------------- statistics */

static PyObject *statistics(PyObject *module, PyObject *unused) {
    channel_stats_t s = {.size = sizeof s};
    (void)unused;
    int result = cc_hub ? channel_hub_stats(cc_hub, &s) : CC_NOT_A_WORKER;
    if (result < 0) return cc_raise(cc_state(module), result);
    return Py_BuildValue("{sKsKsKsKsKsKsKsKsKsKsKsKsKsKsKsKsK}", "messages", s.messages, "deliveries",
                         s.deliveries, "unheard", s.unheard, "lost", s.lost, "wakes", s.wakes,
                         "passes", s.passes, "joins", s.joins, "leaves", s.leaves, "channels",
                         s.channels, "subscriptions", s.subscriptions, "cores", s.cores, "reaped",
                         s.reaped, "quarantined", s.quarantined, "violations", s.violations,
                         "shared", s.shared, "unshared", s.unshared, "assisted", s.assisted);
}

/* ----------------------------------------------------------------- the module */

#define KEYWORDS(function) ((PyCFunction)(void (*)(void))(function))

static PyMethodDef functions[] = {
    {"channel_join", join, METH_O,
     "channel_join(name): subscribes this request to a channel, until it ends."},
    {"channel_leave", leave, METH_O, "channel_leave(name): ends a subscription."},
    {"channel_leave_all", leave_all, METH_NOARGS, "channel_leave_all(): ends all of them."},
    {"channel_send", KEYWORDS(send_message), METH_VARARGS | METH_KEYWORDS,
     "channel_send(name, message, timeout=0): sends to all who have joined the channel."},
    {"channel_recv", KEYWORDS(recv_body), METH_VARARGS | METH_KEYWORDS,
     "channel_recv(timeout=0): the next message as bytes, or None."},
    {"channel_recv_message", KEYWORDS(recv_message), METH_VARARGS | METH_KEYWORDS,
     "channel_recv_message(timeout=0): the next one as a ChannelMessage, or None."},
    {"channel_wait", KEYWORDS(wait_for), METH_VARARGS | METH_KEYWORDS,
     "channel_wait(fd=None, timeout=None): waits for a message, or for fd to be readable."},
    {"channel_fd", descriptor, METH_NOARGS,
     "channel_fd(): readable when there is a message after channel_recv() gave None."},
    {"channel_lost", lost, METH_NOARGS,
     "channel_lost(): messages lost to this request because its queue was full."},
    {"channel_stats", statistics, METH_NOARGS, "channel_stats(): counters of all channels."},
    {NULL, NULL, 0, NULL},
};

/* Adds what we have made to the module `uwsgi`. */
static int add(PyObject *uwsgi_module, const char *name, PyObject *object) {
    return object ? PyObject_SetAttrString(uwsgi_module, name, object) : -1;
}

static int add_functions(PyObject *uwsgi_module, PyObject *module) {
    for (PyMethodDef *each = functions; each->ml_name; each++) {
        PyObject *function = PyObject_GetAttrString(module, each->ml_name);
        int added = add(uwsgi_module, each->ml_name, function);
        Py_XDECREF(function);
        if (added < 0) return -1;
    }
    return 0;
}

static int fill(PyObject *module) {
    struct cc_state *state = cc_state(module);
    PyObject *into = PyImport_AddModule("uwsgi");
    if (!into || cc_errors_make(state) < 0) return -1;
    state->message = cc_message_type();
    if (add(into, "ChannelError", state->error) < 0 ||
        add(into, "ChannelValueError", state->value_error) < 0 ||
        add(into, "ChannelFull", state->full) < 0 ||
        add(into, "ChannelMasterGone", state->master_gone) < 0 ||
        add(into, "ChannelMessage", (PyObject *)state->message) < 0)
        return -1;
    return add_functions(into, module);
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)fill}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = CC_MODULE,
    .m_doc = "The channel functions of the module uwsgi.",
    .m_size = sizeof(struct cc_state),
    .m_methods = functions,
    .m_slots = slots,
};

static PyObject *make(void) { return PyModuleDef_Init(&definition); }

int cc_module_announce(void) {
    if (!PyImport_AppendInittab) return -1; /* weak: there is no Python */
    return PyImport_AppendInittab(CC_MODULE, make);
}

const char *cc_module_mismatch(void) {
    static char why[256];
    static const char built[] = Py_STRINGIFY(PY_MAJOR_VERSION) "." Py_STRINGIFY(PY_MINOR_VERSION);
    const char *running = Py_GetVersion();
    size_t len = sizeof built - 1;
    if (!strncmp(running, built, len) && (running[len] < '0' || running[len] > '9')) return NULL;
    snprintf(why, sizeof why, "this plugin was built for Python %s and this is Python %.20s", built,
             running);
    return why;
}
