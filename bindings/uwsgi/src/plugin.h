/* The parts of the plugin, and what they tell each other.
 *
 *     plugin.c   what uWSGI sees: hooks, and the check of its version
 *     options.c  --channels...: every limit of the hub
 *     hub.c      the hub of this server and its master, a thread of uWSGI's master
 *     caller.c   which core belongs to who calls: a request, or a thread of its own
 *     wait.c     waiting for a core in the loop engine that is running
 *     module.c, arguments.c, errors.c, message.c   the Python functions
 */
#ifndef CORECAST_UWSGI_PLUGIN_H
#define CORECAST_UWSGI_PLUGIN_H

#include <corecast.h>
#include <stdbool.h>
#include <stdint.h>
#include <uwsgi.h>

extern struct uwsgi_server uwsgi;

/* ------------------------------------------------------------------ options.c */

/* What the options say; only what was given is `set`. */
struct cc_number {
    uint64_t value;
    bool set;
};

struct cc_options {
    struct cc_number channels, queue, lane, arena, slab, message;  /* bytes but for `channels` */
    struct cc_number overflow, order, timestamps, populate;  /* CHANNEL_... of corecast.h */
    struct cc_number no_isolation, assist, huge_pages;
    struct cc_number spin, answer_timeout;                   /* microseconds, milliseconds */
    struct cc_number cores, extra;                           /* slots per worker, beside them */
    char *socket;                                            /* NULL: nobody connects */
};

extern struct cc_options cc_options;
extern struct uwsgi_option cc_option_table[];

/* ---------------------------------------------------------------------- hub.c */

/* NULL until the workers are about to be forked. */
extern channel_hub_t *cc_hub;

/* Slots of one worker; those of mules, spoolers and the like together. */
uint32_t cc_slots_of_worker(void);
uint32_t cc_slots_beside_workers(void);

/* Makes the hub and starts its master in this process. Ends the process if it cannot. */
void cc_hub_open(void);

/* Ends the master and the hub, in the process that made it: before it runs itself anew. */
void cc_hub_close(void);

/* ------------------------------------------------------------------- caller.c */

/* A core of this process, lent to one request or thread at a time. */
struct cc_core {
    channel_core_t *handle;     /* NULL: not attached */
    bool armed;                 /* the last receive found nothing: the descriptor will tell */
    bool held;                  /* `message` is the next one: it was looked at, not taken */
    void *copy;                 /* what `message` points at, if it had to be moved */
    bool joined;                /* may have subscriptions */
    uint64_t lost_before;       /* channel_lost when it was lent out */
    channel_message_t message;  /* what the last receive gave */
    struct cc_core *next_free;
};

/* The result of cc_caller: no core, and no error of the library either. */
enum { CC_NOT_A_WORKER = -1000, CC_NO_CORE_LEFT = -1001 };

/* Once, before any fork. */
void cc_caller_init(void);

/* In a worker's main thread, before it serves requests. */
void cc_caller_worker(void);

/* The core of the request, or else the thread, that calls; lent to it until the request or
 * the thread ends. 0, or a negative code, of the library or of above. */
int cc_caller(struct cc_core **out);

/* The request is over: its subscriptions end, and others may have its core. */
void cc_request_ended(struct wsgi_request *request);

/* Takes the next message: 1, or 0 if there is none, or an error. */
int cc_receive(struct cc_core *core);

/* Like it, but the next cc_receive takes the same message. */
int cc_peek(struct cc_core *core);

/* Like cc_peek, when nothing has come for long: waits a millisecond and asks the kernel whether
 * the master lives, so that who waits for ever learns that it does not. */
int cc_look(struct cc_core *core);

/* Before channel_leave, or with NULL channel_leave_all: they take back what was received.
 * 0, or CHANNEL_E_MEMORY. */
int cc_leaving(struct cc_core *core, const char *name);

/* True if the caller may be suspended: it serves a request. With the GIL held. */
bool cc_in_request(void);

/* True if the thread that calls runs a loop of greenlets. */
bool cc_in_loop(void);

/* --------------------------------------------------------------------- wait.c */

/* For ever, as a time-out in milliseconds. */
#define CC_FOREVER INT64_MAX

/* Waits until the core, or `fd` unless it is -1, has something to read. With the GIL held;
 * others run meanwhile. 1, 0 if the time is over, -1 with a Python exception, or another
 * negative code of the library. */
int cc_wait(struct cc_core *core, int fd, int64_t timeout_ms);

/* True in the loop of gevent, whose greenlets let others run with cc_gevent_pause: 0, or -1
 * with a Python exception. (uWSGI's async engines know no pause below a second.) */
bool cc_in_gevent(void);
int cc_gevent_pause(void);

/* Milliseconds of a clock that only goes forward; a point of time on it. */
int64_t cc_now(void);
int64_t cc_deadline(int64_t timeout_ms);

/* ------------------------------------------------------------------- module.c */

#define CC_MODULE "_corecast"

/* Makes Python know the module: before it is initialised. 0, or -1 if there is no Python. */
int cc_module_announce(void);

/* NULL, or why the Python that runs is not the one the plugin was built for. */
const char *cc_module_mismatch(void);

#endif
