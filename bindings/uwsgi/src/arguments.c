/* What Python code passes: names, messages, times and descriptors. */
#include "python.h"

#include <limits.h>

static const char *no_nul(struct cc_state *state, const char *text, Py_ssize_t len) {
    if (strlen(text) == (size_t)len) return text;
    cc_raise(state, CHANNEL_E_NAME_NUL);
    return NULL;
}

const char *cc_name(struct cc_state *state, PyObject *object) {
    Py_ssize_t len;
    if (PyUnicode_Check(object)) {
        const char *text = PyUnicode_AsUTF8AndSize(object, &len);
        return text ? no_nul(state, text, len) : NULL;
    }
    if (PyBytes_Check(object))
        return no_nul(state, PyBytes_AsString(object), PyBytes_Size(object));
    PyErr_Format(PyExc_TypeError, "a channel's name is a str or bytes, not %.100s",
                 Py_TYPE(object)->tp_name);
    return NULL;
}

int cc_bytes(PyObject *object, Py_buffer *out) {
    Py_ssize_t len;
    if (PyUnicode_Check(object)) {
        const char *text = PyUnicode_AsUTF8AndSize(object, &len);
        return text ? PyBuffer_FillInfo(out, object, (void *)text, len, 1, PyBUF_SIMPLE) : -1;
    }
    if (PyObject_CheckBuffer(object)) return PyObject_GetBuffer(object, out, PyBUF_SIMPLE);
    PyErr_Format(PyExc_TypeError, "a message is a bytes-like object or a str, not %.100s",
                 Py_TYPE(object)->tp_name);
    return -1;
}

int cc_timeout(PyObject *object, int64_t *ms) {
    *ms = 0;
    if (!object) return 0;
    if (object == Py_None) {
        *ms = CC_FOREVER;
        return 0;
    }
    double seconds = PyFloat_AsDouble(object);
    if (seconds == -1.0 && PyErr_Occurred()) return -1;
    if (!(seconds >= 0)) {
        PyErr_SetString(PyExc_ValueError, "a time-out is seconds, 0 or more, or None for ever");
        return -1;
    }
    *ms = seconds > 1e12 ? CC_FOREVER : (int64_t)(seconds * 1000 + 0.999);
    return 0;
}

int cc_descriptor(PyObject *object, int *fd) {
    *fd = -1;
    if (!object || object == Py_None) return 0;
    *fd = PyObject_AsFileDescriptor(object);
    return *fd < 0 ? -1 : 0;
}
