/* Which core belongs to who calls.
 *
 * A process has a pool of cores. The first call of a request takes one, and the end of the
 * request gives it back without subscriptions. What runs outside of requests (code of the
 * application's own threads, of mules and spoolers, at the start of a worker, in uWSGI's signal
 * handlers) has one for each thread, until the thread ends. All greenlets of a loop that serve
 * no request share the one of its thread.
 *
 * A core that was given back stays attached for the next one. If the process dies, the hub's
 * master learns that from the kernel and frees all of them.
 */
#include "python.h"

#include <pthread.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Under `lock`: the cores of this process. */
static struct cc_core *pool, *first_free;

/* By the number of the request's uWSGI core. Only its own thread uses an entry. */
static struct cc_core **of_request;

/* The core of a thread. */
static pthread_key_t of_thread;

/* The thread that runs the loop of a worker. */
static pthread_t main_thread;
static bool main_thread_known;

/* ------------------------------------------------------------------- the pool */

static bool is_worker(void) { return uwsgi.mywid > 0; }

static bool may_have_cores(void) {
    return cc_hub && (is_worker() || uwsgi.muleid > 0 || uwsgi.i_am_a_spooler);
}

static uint32_t pool_size(void) {
    return is_worker() ? cc_slots_of_worker() : cc_slots_beside_workers();
}

/* The master never makes a pool, so no worker inherits one. */
static void make_pool(void) {
    uint32_t size = pool_size();
    of_request = uwsgi_calloc(sizeof *of_request * (size_t)(uwsgi.cores + 1));
    pool = uwsgi_calloc(sizeof *pool * (size + 1));
    for (uint32_t i = size; i-- > 0;) {
        pool[i].next_free = first_free;
        first_free = &pool[i];
    }
}

static int attach(struct cc_core *core) {
    uint32_t number = (uint32_t)(core - pool), worker = (uint32_t)uwsgi.mywid - 1;
    if (core->handle) return 0;
    if (is_worker()) return channel_attach(cc_hub, worker, number, &core->handle);
    return channel_attach(cc_hub, CHANNEL_ANY, CHANNEL_ANY, &core->handle);
}

static struct cc_core *take(void) {
    pthread_mutex_lock(&lock);
    if (!pool) make_pool();
    struct cc_core *core = first_free;
    if (core) first_free = core->next_free;
    pthread_mutex_unlock(&lock);
    return core;
}

static void put(struct cc_core *core) {
    pthread_mutex_lock(&lock);
    core->next_free = first_free;
    first_free = core;
    pthread_mutex_unlock(&lock);
}

static void drop_held(struct cc_core *core);

/* A slot that could not be detached stays busy until the process ends: such a core is not
 * offered again. */
static int take_attached(struct cc_core **out) {
    int result = CHANNEL_E_SLOT_BUSY;
    while (result == CHANNEL_E_SLOT_BUSY) {
        *out = take();
        if (!*out) return CC_NO_CORE_LEFT;
        result = attach(*out);
    }
    return result;
}

static int lend(struct cc_core **out) {
    struct cc_core *core;
    int result = take_attached(&core);
    if (result < 0) {
        if (core) put(core);
        return result == CHANNEL_E_NO_FREE_SLOT ? CC_NO_CORE_LEFT : result;
    }
    core->lost_before = (uint64_t)channel_lost(core->handle);
    *out = core;
    return 0;
}

/* Leaves what it has joined, and lets go of what it has not read: a full queue would hold up
 * the others if the policy is to block. */
static int clear(struct cc_core *core) {
    drop_held(core);
    int result = core->joined ? channel_leave_all(core->handle) : 0;
    while (result == 0 && core->joined && cc_receive(core) > 0) continue;
    core->joined = false;
    return result;
}

static void give_back(struct cc_core *core) {
    if (clear(core) < 0) { /* the master is far behind, or gone: make sure by detaching */
        channel_detach(core->handle);
        core->handle = NULL;
        core->armed = false;
    }
    put(core);
}

/* ------------------------------------------------------------------ who calls */

static void thread_ended(void *core) { give_back(core); }

void cc_caller_init(void) {
    if (pthread_key_create(&of_thread, thread_ended)) {
        uwsgi_log("corecast: no thread key left\n");
        exit(1);
    }
}

void cc_caller_worker(void) {
    if (!pool) make_pool();
    main_thread = pthread_self();
    main_thread_known = true;
}

static bool in_main_thread(void) {
    return main_thread_known && pthread_equal(main_thread, pthread_self());
}

bool cc_in_loop(void) { return is_worker() && uwsgi.async > 1 && in_main_thread(); }

/* uWSGI's loops of greenlets mark each greenlet that serves a request. */
static struct wsgi_request *request_of_greenlet(void) {
    if (uwsgi.current_wsgi_req == simple_current_wsgi_req) return uwsgi.wsgi_req;
    return cc_greenlet_serves_request() ? (*uwsgi.current_wsgi_req)() : NULL;
}

static struct wsgi_request *request_of_thread(void) {
    if (!is_worker()) return NULL;
    if (uwsgi.threads > 1) return (*uwsgi.current_wsgi_req)();
    if (!in_main_thread()) return NULL;
    return uwsgi.async > 1 ? request_of_greenlet() : uwsgi.wsgi_req;
}

/* The request that is being served by who calls, or NULL. */
static struct wsgi_request *current_request(void) {
    struct wsgi_request *request = request_of_thread();
    if (!request || !uwsgi.workers[uwsgi.mywid].cores[request->async_id].in_request) return NULL;
    return request;
}

static int caller_in_request(struct wsgi_request *request, struct cc_core **out) {
    struct cc_core *core = of_request ? of_request[request->async_id] : NULL;
    if (!core) {
        int result = lend(&core);
        if (result < 0) return result;
        of_request[request->async_id] = core;
    }
    *out = core;
    return 0;
}

static int caller_in_thread(struct cc_core **out) {
    struct cc_core *core = pthread_getspecific(of_thread);
    if (!core) {
        int result = lend(&core);
        if (result < 0) return result;
        pthread_setspecific(of_thread, core);
    }
    *out = core;
    return 0;
}

int cc_caller(struct cc_core **out) {
    if (!may_have_cores()) return CC_NOT_A_WORKER;
    struct wsgi_request *request = current_request();
    return request ? caller_in_request(request, out) : caller_in_thread(out);
}

void cc_request_ended(struct wsgi_request *request) {
    struct cc_core *core = of_request ? of_request[request->async_id] : NULL;
    if (!core) return;
    of_request[request->async_id] = NULL;
    give_back(core);
}

bool cc_in_request(void) { return current_request() != NULL; }

/* -------------------------------------------------------------------- receive */

/* The descriptor is an event counter that stays readable until it is read: for whoever waits
 * level-triggered (uWSGI, gevent, select) it is read before the queue is looked at, so that
 * what comes after the look makes it readable again. */
static void hush(struct cc_core *core) {
    uint64_t count;
    if (core->armed && read(channel_fd(core->handle), &count, sizeof count) < 0 && errno != EAGAIN)
        uwsgi_error("corecast: read()");
    core->armed = false;
}

static void drop_held(struct cc_core *core) {
    free(core->copy);
    core->copy = NULL;
    core->held = false;
}

int cc_receive(struct cc_core *core) {
    if (core->held) {
        core->held = false;
        return 1;
    }
    drop_held(core);
    hush(core);
    core->message.size = sizeof core->message;
    int result = channel_recv(core->handle, &core->message);
    core->armed = result == 0;
    return result;
}

int cc_peek(struct cc_core *core) {
    int result = cc_receive(core);
    core->held = result == 1;
    return result;
}

int cc_look(struct cc_core *core) {
    drop_held(core);
    int result = channel_recv_timeout(core->handle, 1, &core->message);
    core->armed = result == 0;
    core->held = result == 1;
    return result;
}

static int copy_held(struct cc_core *core) {
    channel_message_t *m = &core->message;
    char *copy = malloc(m->name_len + m->body_len);
    if (!copy) return CHANNEL_E_MEMORY;
    memcpy(copy, m->name, m->name_len);
    memcpy(copy + m->name_len, m->body, m->body_len);
    free(core->copy);
    core->copy = copy;
    m->name = copy;
    m->body = copy + m->name_len;
    return 0;
}

int cc_leaving(struct cc_core *core, const char *name) {
    const channel_message_t *m = &core->message;
    if (!core->held) return 0;
    if (name && (strlen(name) != m->name_len || memcmp(name, m->name, m->name_len)))
        return copy_held(core);
    drop_held(core);
    return 0;
}
