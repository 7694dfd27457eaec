/* Waiting for a core in the loop engine that is running.
 *
 * Processes and threads sleep in poll, without Python's lock. Greenlets must not block the
 * thread that they share: under gevent its own poll waits, under uWSGI's async engines its
 * hooks do, which suspend the request and count time in whole seconds.
 */
#include "python.h"

#include <poll.h>
#include <time.h>

int64_t cc_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* The clock is cut to milliseconds: one more, so that no wait is shorter than was asked. */
int64_t cc_deadline(int64_t timeout_ms) {
    int64_t now = cc_now() + (timeout_ms > 0);
    return timeout_ms > CC_FOREVER - now ? CC_FOREVER : now + timeout_ms;
}

/* What is left until a deadline, at most so much: who waits longer looks again. */
static int left(int64_t deadline, int most) {
    int64_t ms = deadline - cc_now();
    if (ms < 0) return 0;
    return ms > most ? most : (int)ms;
}

/* ------------------------------------------------------- processes and threads */

/* So often a thread that waits asks whether there is still a master. */
enum { LOOK_MS = 1000, HOUR_MS = 3600 * 1000 };

static int poll_once(struct pollfd *fds, nfds_t count, int64_t deadline) {
    int result, error;
    Py_BEGIN_ALLOW_THREADS
    result = poll(fds, count, left(deadline, LOOK_MS));
    error = errno;
    Py_END_ALLOW_THREADS
    errno = error;
    return result;
}

static int look(struct cc_core *core) {
    int result;
    Py_BEGIN_ALLOW_THREADS
    result = cc_look(core);
    Py_END_ALLOW_THREADS
    return result;
}

static int wait_in_thread(struct cc_core *core, int fd, int64_t deadline) {
    struct pollfd fds[] = {{channel_fd(core->handle), POLLIN, 0}, {fd, POLLIN, 0}};
    for (;;) {
        int ready = poll_once(fds, fd < 0 ? 1 : 2, deadline);
        if (ready > 0) return 1;
        if (ready < 0 && errno != EINTR) {
            PyErr_SetFromErrno(PyExc_OSError);
            return -1;
        }
        if (cc_now() >= deadline) return 0;
        int found = look(core);
        if (found != 0) return found;
    }
}

/* --------------------------------------------------------------------- gevent */

static bool is_gevent(void) { return uwsgi.loop && !strcmp(uwsgi.loop, "gevent"); }

static int watch(PyObject *poller, int fd) {
    if (fd < 0) return 0;
    PyObject *done = PyObject_CallMethod(poller, "register", "ii", fd, POLLIN);
    Py_XDECREF(done);
    return done ? 0 : -1;
}

/* gevent's own poll object, which knows no limit for descriptors. */
static PyObject *gevent_poller(int channel, int fd) {
    PyObject *module = PyImport_ImportModule("gevent.select");
    PyObject *poller = module ? PyObject_CallMethod(module, "poll", NULL) : NULL;
    Py_XDECREF(module);
    if (!poller || (watch(poller, channel) == 0 && watch(poller, fd) == 0)) return poller;
    Py_DECREF(poller);
    return NULL;
}

static int wait_in_gevent(int channel, int fd, int64_t deadline) {
    PyObject *poller = gevent_poller(channel, fd);
    Py_ssize_t ready = poller ? 0 : -1;
    while (ready == 0) {
        PyObject *events = PyObject_CallMethod(poller, "poll", "i", left(deadline, HOUR_MS));
        ready = events ? PyObject_Size(events) : -1;
        Py_XDECREF(events);
        if (ready == 0 && cc_now() >= deadline) break;
    }
    Py_XDECREF(poller);
    return ready > 0 ? 1 : (int)ready;
}

bool cc_in_gevent(void) { return cc_in_loop() && is_gevent(); }

int cc_gevent_pause(void) {
    PyObject *module = PyImport_ImportModule("gevent");
    PyObject *done = module ? PyObject_CallMethod(module, "sleep", "d", 0.001) : NULL;
    Py_XDECREF(module);
    Py_XDECREF(done);
    return done ? 0 : -1;
}

/* -------------------------------------------------------- uWSGI's async engines */

static int suspend(int channel, int fd, int seconds) {
    int which;
    if (fd < 0) return uwsgi.wait_read_hook(channel, seconds);
    return uwsgi.wait_read2_hook(channel, fd, seconds, &which);
}

static int wait_suspended(int channel, int fd, int64_t deadline) {
    for (;;) {
        int ready = suspend(channel, fd, (left(deadline, HOUR_MS) + 999) / 1000);
        if (ready > 0) return 1;
        if (ready < 0) {
            if (!PyErr_Occurred()) PyErr_SetString(PyExc_OSError, "uWSGI cannot wait for this");
            return -1;
        }
        if (cc_now() >= deadline) return 0;
    }
}

/* ----------------------------------------------------------------- any of them */

static bool may_block(void) { return !cc_in_loop() || (!is_gevent() && !cc_in_request()); }

static int wait_for(struct cc_core *core, int fd, int64_t deadline) {
    int channel = channel_fd(core->handle);
    if (may_block() || cc_now() >= deadline) return wait_in_thread(core, fd, deadline);
    return is_gevent() ? wait_in_gevent(channel, fd, deadline)
                       : wait_suspended(channel, fd, deadline);
}

int cc_wait(struct cc_core *core, int fd, int64_t timeout_ms) {
    int64_t deadline = cc_deadline(timeout_ms);
    if (!core->armed) {
        int found = cc_peek(core);
        if (found != 0) return found > 0 ? 1 : found;
    }
    return wait_for(core, fd, deadline);
}
