/* Python, as far as the plugin uses it.
 *
 * Its functions are weak: so the plugin loads into a uWSGI that has no Python (yet), and can
 * say what is wrong. The tests check that no other symbol of Python is needed.
 */
#ifndef CORECAST_UWSGI_PYTHON_H
#define CORECAST_UWSGI_PYTHON_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "plugin.h"

/* ------------------------------------------------------------------- module.c */

/* What the module keeps for each interpreter. */
struct cc_state {
    PyObject *error, *value_error, *full, *master_gone;
    PyTypeObject *message;
};

struct cc_state *cc_state(PyObject *module);

/* True if uWSGI's loop of greenlets has started the greenlet that runs for a request. */
bool cc_greenlet_serves_request(void);

/* ----------------------------------------------------------------- messages.c */

/* The type of channel_recv_message, or NULL with an exception. */
PyTypeObject *cc_message_type(void);

PyObject *cc_body(const channel_message_t *message);
PyObject *cc_message(struct cc_state *state, const channel_message_t *message);

/* ------------------------------------------------------------------- errors.c */

/* Adds the exceptions to the state: 0, or -1 with an exception. */
int cc_errors_make(struct cc_state *state);

/* Raises what a negative code stands for; always NULL. */
PyObject *cc_raise(struct cc_state *state, int code);

/* ---------------------------------------------------------------- arguments.c */

/* A name for the C functions: ends with NUL, and has none inside. Lives as long as the
 * object. NULL with an exception. */
const char *cc_name(struct cc_state *state, PyObject *object);

/* The bytes of a message. Release it with PyBuffer_Release. 0, or -1 with an exception. */
int cc_bytes(PyObject *object, Py_buffer *out);

/* Seconds, or None for ever, to milliseconds: 0, or -1 with an exception. */
int cc_timeout(PyObject *object, int64_t *ms);

/* A file descriptor, a thing that has one, or None: 0, or -1 with an exception. */
int cc_descriptor(PyObject *object, int *fd);

#endif
