/*
 * corecast: shared-memory publish/subscribe between the workers of a prefork server.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The process that will fork the workers makes a hub, and starts its master. After
 * the fork each worker attaches one core per thread, greenlet or event loop. A core
 * joins channels by name, sends to any, and receives what is sent to those it joined.
 *
 * Functions return 0, a count or a 1, and a negative code, a CHANNEL_E_..., if they
 * failed. Then nothing has changed, and channel_last_error says what exactly was wrong.
 *
 * A hub may be used by several threads at once, but for channel_hub_destroy, and by
 * the children that inherit it. A core is used by one thread at a time, in the process
 * that attached it. "Those of a handle" are the errors CHANNEL_E_DETACHED,
 * CHANNEL_E_IN_USE, CHANNEL_E_WRONG_PROCESS, CHANNEL_E_POISONED and CHANNEL_E_PANIC.
 */

#ifndef CORECAST_H
#define CORECAST_H

/* Generated from ffi/src by `make header`. Do not edit. */

#include <stddef.h>
#include <stdint.h>

/**
 * For channel_attach: any worker, any core.
 */
#define CHANNEL_ANY UINT32_MAX

/**
 * Bytes that are enough for the name of any socket, with its NUL.
 */
#define CHANNEL_SOCKET_ROOM 108

/**
 * What a negative return value means. The numbers are stable: none is ever
 * given another meaning. channel_strerror gives a short text of a code,
 * channel_last_error what exactly was wrong, with the value and the limit.
 */
typedef enum {
    /**
     * A pointer that must not be NULL was NULL.
     */
    CHANNEL_E_NULL = -1,
    /**
     * The `size` field of a struct is not one that this library knows: set it to sizeof.
     */
    CHANNEL_E_SIZE = -2,
    /**
     * A field that takes one of a few values has another one.
     */
    CHANNEL_E_VALUE = -3,
    /**
     * The handle was detached or destroyed before.
     */
    CHANNEL_E_DETACHED = -4,
    /**
     * The handle is in use: by another thread, or by the call that a signal interrupted.
     */
    CHANNEL_E_IN_USE = -5,
    /**
     * The handle belongs to another process: it was attached before the fork.
     */
    CHANNEL_E_WRONG_PROCESS = -6,
    /**
     * An earlier call on this handle failed inside the library: only freeing it works now.
     */
    CHANNEL_E_POISONED = -7,
    /**
     * The library failed inside, a bug in it: the handle is poisoned from now on.
     */
    CHANNEL_E_PANIC = -8,
    /**
     * A system call failed.
     */
    CHANNEL_E_OS = -9,
    /**
     * An error that this version of the C interface has no number for.
     */
    CHANNEL_E_OTHER = -10,
    /**
     * The name is empty.
     */
    CHANNEL_E_NAME_EMPTY = -20,
    /**
     * The name is longer than 255 bytes.
     */
    CHANNEL_E_NAME_TOO_LONG = -21,
    /**
     * The name has a NUL inside (C callers cannot get this: a NUL ends their names).
     */
    CHANNEL_E_NAME_NUL = -22,
    /**
     * The core has not joined that channel.
     */
    CHANNEL_E_NOT_JOINED = -23,
    /**
     * No channel has that id: nobody has it open or joined any more.
     */
    CHANNEL_E_STALE_CHANNEL = -24,
    /**
     * As many channels are in use as the hub was configured for.
     */
    CHANNEL_E_TOO_MANY_CHANNELS = -25,
    /**
     * Too many asynchronous joins of this core are unanswered.
     */
    CHANNEL_E_TOO_MANY_PENDING = -26,
    /**
     * No asynchronous join of this core has that ticket; it may have been asked for already.
     */
    CHANNEL_E_NO_SUCH_TICKET = -27,
    /**
     * No room in the sender's lane: the master is behind. Try again later.
     */
    CHANNEL_E_FULL = -30,
    /**
     * The time given ran out.
     */
    CHANNEL_E_TIMEOUT = -31,
    /**
     * The message is larger than the hub's max_message.
     */
    CHANNEL_E_TOO_LARGE = -32,
    /**
     * The master is gone: nothing is routed any more.
     */
    CHANNEL_E_MASTER_GONE = -33,
    /**
     * The queue of the core was damaged: what could not be read was skipped.
     */
    CHANNEL_E_DAMAGED = -34,
    /**
     * A loan of this core is out: send or drop it first.
     */
    CHANNEL_E_LOAN_OUT = -35,
    /**
     * This core has no loan out.
     */
    CHANNEL_E_NO_LOAN = -36,
    /**
     * No such worker.
     */
    CHANNEL_E_WORKER_RANGE = -40,
    /**
     * No such core in that worker.
     */
    CHANNEL_E_CORE_RANGE = -41,
    /**
     * A live core holds the slot.
     */
    CHANNEL_E_SLOT_BUSY = -42,
    /**
     * Every slot is held by a live core.
     */
    CHANNEL_E_NO_FREE_SLOT = -43,
    /**
     * The process serves another worker already, and has closed this one's descriptors.
     */
    CHANNEL_E_OTHER_WORKER = -44,
    /**
     * The hub has its master already: a thread, this process or another.
     */
    CHANNEL_E_MASTER_RUNNING = -50,
    /**
     * A number of the configuration is zero that must not be.
     */
    CHANNEL_E_CONFIG_ZERO = -51,
    /**
     * A number of the configuration is above its limit, or two settings exclude each other.
     */
    CHANNEL_E_CONFIG_TOO_LARGE = -52,
    /**
     * A number of the configuration is below its minimum.
     */
    CHANNEL_E_CONFIG_TOO_SMALL = -53,
    /**
     * The hub needs more memory than there is.
     */
    CHANNEL_E_MEMORY = -54,
    /**
     * The hub needs more file descriptors than the process may open.
     */
    CHANNEL_E_FDS = -55,
    /**
     * The region was made by another version of corecast.
     */
    CHANNEL_E_VERSION = -56,
    /**
     * The text is not the handoff of a hub, or what it names is not there.
     */
    CHANNEL_E_HANDOFF = -57,
    /**
     * Not the name of a socket: @ and a name, or a path with a slash.
     */
    CHANNEL_E_SOCKET_NAME = -60,
    /**
     * Somebody else's socket has the name.
     */
    CHANNEL_E_SOCKET_TAKEN = -61,
    /**
     * No corecast hub listens there, or no socket is named.
     */
    CHANNEL_E_NO_HUB = -62,
    /**
     * The hub is another user's.
     */
    CHANNEL_E_NOT_ALLOWED = -63,
    /**
     * The hub listens already.
     */
    CHANNEL_E_LISTENING = -64,
} channel_e;

/**
 * What happens to a message for a core whose queue is full.
 */
typedef enum {
    /**
     * It is dropped for that core alone, and counted. The default.
     */
    CHANNEL_OVERFLOW_DROP_NEWEST = 0,
    /**
     * What that core has not yet taken is dropped, and counted; the new message stays.
     */
    CHANNEL_OVERFLOW_DROP_OLDEST = 1,
    /**
     * Nothing is dropped: the master waits for the core, the lanes fill up, and senders get
     * CHANNEL_E_FULL, or wait with a time-out. The slowest core sets everybody's pace.
     */
    CHANNEL_OVERFLOW_BLOCK = 2,
} channel_overflow;

/**
 * What the timestamp of a message is.
 */
typedef enum {
    /**
     * Always 0.
     */
    CHANNEL_TIMESTAMPS_OFF = 0,
    /**
     * When the master took the batch that the message is in. The default.
     */
    CHANNEL_TIMESTAMPS_BATCH = 1,
    /**
     * When the sender sent it. Costs every send a reading of the clock.
     */
    CHANNEL_TIMESTAMPS_MESSAGE = 2,
} channel_timestamps;

/**
 * In which order cores see messages of several senders.
 */
typedef enum {
    /**
     * All cores see one order, and a send that returned before another began is
     * seen before it. The default.
     */
    CHANNEL_ORDER_TOTAL = 0,
    /**
     * Only the messages of one sender keep their order.
     */
    CHANNEL_ORDER_PER_SENDER = 1,
} channel_order;

/**
 * A core: one slot of the hub, used by one thread, greenlet or loop at a time.
 */
typedef struct channel_core_t channel_core_t;

/**
 * A hub: the shared region and all that lives in it. Made before fork; the
 * children use the pointer that they inherit.
 */
typedef struct channel_hub_t channel_hub_t;

/**
 * All limits of a hub. Set `size`, call channel_config_default, change what you like.
 */
typedef struct {
    /**
     * sizeof(channel_config_t), set by the caller.
     */
    size_t size;
    /**
     * Worker processes.
     */
    uint32_t workers;
    /**
     * Cores of each worker: threads, greenlets or loops that receive for themselves.
     */
    uint32_t cores;
    /**
     * Slots beside those of the workers: for helpers, mules, the master.
     */
    uint32_t extra;
    /**
     * Channels in use at the same time, at most 1,000,000.
     */
    uint32_t channels;
    /**
     * Bytes of a core's lane: what it may have sent and not yet been routed.
     */
    size_t lane_bytes;
    /**
     * Bytes of unread messages that a core's queue holds.
     */
    size_t queue_bytes;
    /**
     * Bytes of the largest message body.
     */
    size_t max_message;
    /**
     * A ChannelOverflow: CHANNEL_OVERFLOW_...
     */
    uint32_t overflow;
    /**
     * A ChannelTimestamps: CHANNEL_TIMESTAMPS_...
     */
    uint32_t timestamps;
    /**
     * A ChannelOrder: CHANNEL_ORDER_...
     */
    uint32_t order;
    /**
     * 1: take all memory at creation, so that running out is an error there. 0: when used.
     */
    uint32_t populate;
    /**
     * How long the master's thread polls before it sleeps, in microseconds. 0: not at all.
     */
    uint32_t spin_us;
    /**
     * How long join, open and attach wait for the master's answer, in milliseconds.
     */
    uint32_t answer_timeout_ms;
    /**
     * 1: a worker process can write its own lanes and the words of its own queues only; a
     * stray store anywhere else ends it with SIGSEGV. In force in forked children once they
     * attach. One more file descriptor for each worker and extra slot. The default.
     * 0: one memory that all processes write.
     */
    uint32_t isolation;
    /**
     * 0: calls fail with CHANNEL_E_MASTER_GONE when the master has stopped or died.
     * 1: they go on as if it were slow, for a successor will come: a send fills the
     * lane until it is full, waiting calls wait as long as they were told.
     */
    uint32_t await_successor;
    /**
     * Bytes of the arena, where the router writes once what it would otherwise copy into
     * each queue. 0: none. While it is full of what slow cores have not read yet, queues
     * get copies.
     */
    size_t arena_bytes;
    /**
     * 1: assist mode. A worker that sends while the master sleeps does the master's work once,
     * unless it sends in a stream or more than two must be woken. Needs isolation 0. A worker
     * that is stopped in the middle of it holds up all; one that is killed does not. Default 0.
     */
    uint32_t assist;
    /**
     * 1: huge pages for queues and arena, where the kernel gives them
     * (/sys/kernel/mm/transparent_hugepage/shmem_enabled is `advise` or more, or with
     * `populate` on Linux 6.1 and later). Memory is then touched two megabytes at a time.
     * Default 0.
     */
    uint32_t huge_pages;
    /**
     * Bytes of a core's slab: messages over 4 KiB are written there and received from there, so
     * that they are never copied. 0: none. While it is full of what slow cores have not read yet,
     * messages are copied once.
     */
    size_t slab_bytes;
} channel_config_t;

/**
 * A channel, as a number: the same for all processes of the hub for as long as
 * anybody has it joined or open.
 */
typedef uint64_t channel_id_t;

/**
 * Counters of a hub since its creation, and how much is there now. Set `size` first.
 */
typedef struct {
    /**
     * sizeof(channel_stats_t), set by the caller.
     */
    size_t size;
    /**
     * Messages routed.
     */
    uint64_t messages;
    /**
     * Copies of them put into queues.
     */
    uint64_t deliveries;
    /**
     * Messages on channels that nobody was subscribed to.
     */
    uint64_t unheard;
    /**
     * Deliveries dropped because a queue was full.
     */
    uint64_t lost;
    /**
     * Sleeping cores that were notified.
     */
    uint64_t wakes;
    /**
     * Passes of the router.
     */
    uint64_t passes;
    /**
     * Subscriptions made.
     */
    uint64_t joins;
    /**
     * Subscriptions ended.
     */
    uint64_t leaves;
    /**
     * Channels in use now.
     */
    uint64_t channels;
    /**
     * Subscriptions now.
     */
    uint64_t subscriptions;
    /**
     * Cores attached now.
     */
    uint64_t cores;
    /**
     * Slots cleaned up after a worker that died.
     */
    uint64_t reaped;
    /**
     * Cores shut out because their lane held what no core writes.
     */
    uint64_t quarantined;
    /**
     * Such records found.
     */
    uint64_t violations;
    /**
     * Runs of messages, and large messages, written once for all of their queues.
     */
    uint64_t shared;
    /**
     * How often the arena had no room for them, so that each queue got a copy.
     */
    uint64_t unshared;
    /**
     * How often a worker did the master's work, see `assist` of channel_config_t.
     */
    uint64_t assisted;
} channel_stats_t;

/**
 * A received message. Set `size` once; channel_recv fills the rest. What it points
 * at belongs to the core, and is valid until the next channel_recv, channel_recv_many,
 * channel_recv_timeout, channel_leave, channel_leave_all or channel_detach of that
 * core. Sending it on as it lies there is fine.
 */
typedef struct {
    /**
     * sizeof(channel_message_t), set by the caller.
     */
    size_t size;
    /**
     * Name of the channel: `name_len` bytes, with no NUL at their end.
     */
    const char *name;
    /**
     * Bytes of the name, 1 to 255.
     */
    size_t name_len;
    /**
     * The body: `body_len` bytes, at any alignment.
     */
    const void *body;
    /**
     * Bytes of the body.
     */
    size_t body_len;
    /**
     * The channel, as channel_join gave it.
     */
    channel_id_t channel;
    /**
     * Worker that sent it; the configured number of workers stands for the extra slots.
     */
    uint32_t worker;
    /**
     * Core of that worker that sent it.
     */
    uint32_t core;
    /**
     * Position in the order of the hub. It never decreases among messages of one sender; another
     * sender that was held up may come late, with a smaller one. The order received is the order
     * of the hub.
     * Messages that one core sent in a row may share one.
     */
    uint64_t ticket;
    /**
     * Nanoseconds since 1970 (CLOCK_REALTIME), or 0 if the hub keeps none.
     */
    uint64_t timestamp;
    /**
     * Messages lost to this core just before this one, because its queue was full.
     */
    uint64_t lost;
} channel_message_t;

/**
 * One body for channel_send_many.
 */
typedef struct {
    /**
     * The bytes; may be NULL if `len` is 0.
     */
    const void *data;
    /**
     * How many.
     */
    size_t len;
} channel_body_t;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Fills a configuration with the defaults. Set config->size to
 * sizeof(channel_config_t) first.
 *
 * Any thread, before and after fork. Never blocks. Signal-safe. The struct is the
 * caller's. Errors: CHANNEL_E_NULL, CHANNEL_E_SIZE.
 */
int channel_config_default(channel_config_t *config);

/**
 * Says beforehand what a hub of this configuration takes: bytes of memory, and
 * file descriptors in the process that creates it.
 *
 * Any thread, before and after fork. Never blocks. Not signal-safe. All memory is
 * the caller's; `bytes` and `fds` are written only on success. Errors:
 * CHANNEL_E_NULL, CHANNEL_E_SIZE, CHANNEL_E_VALUE, CHANNEL_E_CONFIG_...
 */
int channel_config_bytes(const channel_config_t *config, uint64_t *bytes, uint32_t *fds);

/**
 * Takes a slot of the hub for the thread, greenlet or loop that calls. `worker`
 * and `core` count from 0. CHANNEL_ANY as core takes any free core of that worker,
 * as worker and core any free slot: for helpers, mules and the master itself.
 *
 * Any thread, in the process that will use the core: after the fork. Waits for
 * the master, if the slot's last owner has just died, at most answer_timeout_ms.
 * Not signal-safe. `*out` is written only on success; the caller frees it with
 * channel_detach. Errors: CHANNEL_E_NULL, CHANNEL_E_WORKER_RANGE,
 * CHANNEL_E_CORE_RANGE, CHANNEL_E_SLOT_BUSY, CHANNEL_E_NO_FREE_SLOT,
 * CHANNEL_E_OTHER_WORKER (a forked child that has attached as one worker cannot be
 * another), CHANNEL_E_TIMEOUT, CHANNEL_E_MASTER_GONE, CHANNEL_E_VERSION, and those
 * of a handle.
 */
int channel_attach(channel_hub_t *hub,
                   uint32_t worker,
                   uint32_t core,
                   channel_core_t **out);

/**
 * Gives the slot back and frees the core: its subscriptions end, what it has sent
 * is still delivered, what it has not received is gone. The core is freed
 * whatever is returned, but for CHANNEL_E_IN_USE. In a child that inherited it,
 * the child's copy is freed and the parent's core is left alone. NULL is a no-op.
 *
 * The thread that uses the core. May wait for room in its lane, at most
 * answer_timeout_ms. Not signal-safe. The pointer is invalid afterwards: the next
 * calls with it give CHANNEL_E_DETACHED, as long as fewer than 256 other cores have
 * been detached in this process. Errors: CHANNEL_E_DETACHED, CHANNEL_E_IN_USE,
 * CHANNEL_E_WRONG_PROCESS; CHANNEL_E_TIMEOUT and CHANNEL_E_MASTER_GONE, with which
 * the slot becomes free when the process ends.
 */
int channel_detach(channel_core_t *core);

/**
 * Subscribes the core to a channel and waits for the master's answer: every
 * message whose sending begins after this call has returned will be received. A
 * channel exists by being named; joining twice is no error. The channel's number
 * is stored in `*id` unless `id` is NULL.
 *
 * The thread that uses the core. Blocks at most answer_timeout_ms. Not
 * signal-safe. The name is read during the call only. Errors: CHANNEL_E_NULL,
 * CHANNEL_E_NAME_EMPTY, CHANNEL_E_NAME_TOO_LONG, CHANNEL_E_TOO_MANY_CHANNELS,
 * CHANNEL_E_FULL, CHANNEL_E_TIMEOUT, CHANNEL_E_MASTER_GONE, and those of a handle.
 */
int channel_join(channel_core_t *core, const char *name, channel_id_t *id);

/**
 * Asks to join, without waiting: for event loops. The answer comes later, and
 * channel_fd becomes readable with it; channel_join_result gives it out.
 *
 * The thread that uses the core. Never blocks. Not signal-safe. The name is read
 * during the call only; `*ticket` is written only on success, and names the
 * request. Errors: as channel_join without CHANNEL_E_TIMEOUT, and
 * CHANNEL_E_TOO_MANY_PENDING.
 */
int channel_join_async(channel_core_t *core, const char *name, uint64_t *ticket);

/**
 * The answer to a channel_join_async: 1 if the core has joined, 0 if there is no
 * answer yet, or the error. The answer is given once. The channel's number is
 * stored in `*id`, with 1, unless `id` is NULL.
 *
 * The thread that uses the core. Never blocks. Not signal-safe. Errors: as
 * channel_join, and CHANNEL_E_NO_SUCH_TICKET.
 */
int channel_join_result(channel_core_t *core, uint64_t ticket, channel_id_t *id);

/**
 * Ends the subscription: from here on no message of that channel is received, not
 * even one that is already in the queue.
 *
 * The thread that uses the core. May wait for room in its lane, at most
 * answer_timeout_ms. Not signal-safe. The name is read during the call only.
 * Errors: CHANNEL_E_NULL, CHANNEL_E_NAME_EMPTY, CHANNEL_E_NAME_TOO_LONG,
 * CHANNEL_E_NOT_JOINED, CHANNEL_E_FULL, CHANNEL_E_TIMEOUT, CHANNEL_E_MASTER_GONE,
 * and those of a handle.
 */
int channel_leave(channel_core_t *core, const char *name);

/**
 * Ends all subscriptions of the core: what a server calls at the end of a request.
 * No subscription at all is no error.
 *
 * As channel_leave. Errors: CHANNEL_E_NULL, CHANNEL_E_FULL, CHANNEL_E_TIMEOUT,
 * CHANNEL_E_MASTER_GONE, and those of a handle.
 */
int channel_leave_all(channel_core_t *core);

/**
 * Looks a channel up once, for channel_send_to, and keeps its number from being
 * given to another channel until channel_close or channel_detach. Does not
 * subscribe.
 *
 * The thread that uses the core. Waits for the master's answer, at most
 * answer_timeout_ms. Not signal-safe. The name is read during the call only;
 * `*id` is written only on success. Errors: as channel_join.
 */
int channel_open(channel_core_t *core, const char *name, channel_id_t *id);

/**
 * Ends what channel_open began.
 *
 * As channel_leave. Errors: CHANNEL_E_NULL, CHANNEL_E_NOT_JOINED (not open),
 * CHANNEL_E_FULL, CHANNEL_E_TIMEOUT, CHANNEL_E_MASTER_GONE, and those of a handle.
 */
int channel_close(channel_core_t *core, channel_id_t id);

/**
 * Lets processes that do not inherit the hub be workers of it: for servers that spawn
 * or exec theirs. Opens a Unix socket at which they call channel_hub_connect. `name`
 * is @ and a name in the kernel's abstract namespace, or a path; NULL makes one up that
 * nobody can guess. It is written to `text`, unless that is NULL, with a NUL; `room` is
 * what `text` has, at least CHANNEL_SOCKET_ROOM. Returns its length without the NUL.
 *
 * The master serves the socket. Each process that comes gets a seat to its end: a
 * worker from `first_worker` on (those before are for forked children), or, when these
 * are taken, an extra slot. It must be of the same user, or root's. The socket closes
 * with the hub in this process.
 *
 * Any thread, in the process that made the hub or the master's. Does not block. Not
 * signal-safe. Errors: CHANNEL_E_SOCKET_NAME, CHANNEL_E_SOCKET_TAKEN,
 * CHANNEL_E_LISTENING, CHANNEL_E_TOO_LARGE (`room`), CHANNEL_E_WORKER_RANGE (no seats
 * are left), CHANNEL_E_WRONG_PROCESS, CHANNEL_E_OS, and those of a handle.
 */
int channel_hub_listen(channel_hub_t *hub,
                       const char *name,
                       uint32_t first_worker,
                       char *text,
                       size_t room);

/**
 * Becomes a worker of the hub that listens at the socket `name`; NULL: the one that the
 * environment names in CORECAST_SOCKET. What comes through the socket is checked. Cores
 * are attached with CHANNEL_ANY as worker and core, as many as a worker of the hub has.
 * The seat is free again when this process ends, however, or when the hub is destroyed
 * and the last of its cores detached here. A child that this process forks connects for
 * itself; the parent's hub gives it CHANNEL_E_WRONG_PROCESS.
 *
 * Any thread. Waits for the hub's master, at most `timeout_ms`; -1 waits as long as it
 * takes. Not signal-safe. `*out` is written only on success; the caller frees it with
 * channel_hub_destroy. Errors: CHANNEL_E_NULL, CHANNEL_E_SOCKET_NAME, CHANNEL_E_NO_HUB,
 * CHANNEL_E_NOT_ALLOWED, CHANNEL_E_NO_FREE_SLOT, CHANNEL_E_TIMEOUT, CHANNEL_E_VERSION,
 * CHANNEL_E_OS.
 */
int channel_hub_connect(const char *name, int timeout_ms, channel_hub_t **out);

/**
 * Creates a hub: its memory is reserved, and touched only when used, unless the
 * configuration says `populate`. Nothing is routed before channel_hub_start, or
 * channel_hub_poll, has been called.
 *
 * Any thread, before fork: the children inherit it. May take long with
 * `populate`; does not wait for anybody. Not signal-safe. `*out` is written only
 * on success; the caller frees it with channel_hub_destroy, in each process for
 * itself. Errors: CHANNEL_E_NULL, CHANNEL_E_SIZE, CHANNEL_E_VALUE,
 * CHANNEL_E_CONFIG_..., CHANNEL_E_MEMORY, CHANNEL_E_FDS, CHANNEL_E_OS.
 */
int channel_hub_create(const channel_config_t *config, channel_hub_t **out);

/**
 * Writes a line of text by which the next program in this process finds the hub
 * (channel_hub_adopt), for its arguments or environment: to `text`, which has room
 * for `room` bytes, with a NUL. Returns its length without the NUL. From then on
 * the hub's descriptors stay open across exec, whoever calls it in this process.
 * Workers that are attached go on; the master's role ends with the program.
 *
 * Any thread, in the process that made or adopted the hub. Does not block. Not
 * signal-safe. Errors: CHANNEL_E_NULL, CHANNEL_E_TOO_LARGE (`room` is not enough;
 * 256 bytes are for most hubs, 32 for each slot for all), CHANNEL_E_WRONG_PROCESS,
 * CHANNEL_E_OS, and those of a handle.
 */
int channel_hub_handoff(channel_hub_t *hub, char *text, size_t room);

/**
 * Takes over the hub that the program before exec has handed on; `handoff` is the
 * text of channel_hub_handoff. The text is checked, and so is what it names. The
 * master is started as for a new hub, and goes on where the last one stopped or
 * died: nothing is lost, repeated or reordered.
 *
 * Once for each handoff, and again after a failure, which leaves the descriptors
 * open. Any thread. Does not block. Not signal-safe. `*out` is written only on
 * success; the caller frees it with channel_hub_destroy. Errors:
 * CHANNEL_E_NULL, CHANNEL_E_HANDOFF, CHANNEL_E_VERSION, CHANNEL_E_OS.
 */
int channel_hub_adopt(const char *handoff, channel_hub_t **out);

/**
 * Starts the master in a thread of its own, in the process that calls. It ends
 * with channel_hub_destroy in the same process.
 *
 * Any thread, before or after the workers are forked; they do not inherit the
 * thread. Does not block. Not signal-safe. Errors: CHANNEL_E_NULL,
 * CHANNEL_E_MASTER_RUNNING, CHANNEL_E_IN_USE, CHANNEL_E_WRONG_PROCESS,
 * CHANNEL_E_OS, and those of a handle.
 */
int channel_hub_start(channel_hub_t *hub);

/**
 * Routes what is there and watches the workers, as the master, in the thread
 * that calls: for a host that has its own loop. Waits up to `timeout_ms` for
 * something to do; 0 does not wait, -1 waits as long as it takes. Returns the
 * number of messages routed. A signal ends the wait. The first call takes the
 * master's role.
 *
 * One thread at a time, in the process that called first. Blocks as `timeout_ms`
 * says. Not signal-safe. Errors: CHANNEL_E_NULL, CHANNEL_E_MASTER_RUNNING (a
 * thread or another process is the master), CHANNEL_E_WRONG_PROCESS,
 * CHANNEL_E_IN_USE, CHANNEL_E_OS, and those of a handle.
 */
int channel_hub_poll(channel_hub_t *hub, int timeout_ms);

/**
 * A file descriptor that is readable when channel_hub_poll has something to do,
 * for a host's own poll or epoll. Takes the master's role, like channel_hub_poll.
 *
 * As channel_hub_poll, but never blocks. The descriptor belongs to the library:
 * neither read nor close it. Errors: as channel_hub_poll.
 */
int channel_hub_fd(channel_hub_t *hub);

/**
 * Tells the master that a worker process has ended, for a host that learns of it
 * before the master does: its slots become free. Harmless if it is not so: the
 * master looks at the process itself.
 *
 * In the master's process. Does not block. Signal-safe: may be called from a
 * SIGCHLD handler. Errors: CHANNEL_E_NULL, CHANNEL_E_WORKER_RANGE,
 * CHANNEL_E_WRONG_PROCESS, and those of a handle.
 */
int channel_worker_died(channel_hub_t *hub, uint32_t worker);

/**
 * Copies the counters of a hub. Set stats->size to sizeof(channel_stats_t) first.
 *
 * Any thread of any process that has the hub. Never blocks. Not signal-safe. The
 * struct is the caller's, and written only on success. Errors: CHANNEL_E_NULL,
 * CHANNEL_E_SIZE, and those of a handle.
 */
int channel_hub_stats(const channel_hub_t *hub, channel_stats_t *stats);

/**
 * Frees the hub in this process; the last process that does so, or ends, frees the
 * memory. (A child forked while the master's thread ran keeps it mapped until it
 * ends: it has a copy of what the thread held.) In the master's process the master
 * stops first: other processes then get CHANNEL_E_MASTER_GONE. Cores of this process
 * that are attached still stay usable handles, and must be detached all the same.
 * NULL is a no-op.
 *
 * Any thread, when no other thread is in a call with this hub. Waits for the
 * master's thread to end its pass. Not signal-safe. The pointer is invalid
 * afterwards: the next calls with it give CHANNEL_E_DETACHED, as long as fewer
 * than 256 other hubs have been destroyed. Errors: CHANNEL_E_DETACHED,
 * CHANNEL_E_IN_USE (a thread is in channel_hub_poll; nothing was freed).
 */
int channel_hub_destroy(channel_hub_t *hub);

/**
 * What exactly was wrong with the last call of this thread that failed: the
 * value and the limit, NUL-terminated, at most 511 bytes. Empty if none failed.
 * A call that succeeds does not change it.
 *
 * Any thread, before and after fork. Never blocks. Not signal-safe. The text
 * belongs to the library and is valid until the next failing call of this
 * thread, or its end.
 */
const char *channel_last_error(void);

/**
 * A short text of a code that a call returned; "success" for zero and above,
 * and a text that says so for a number that is no code.
 *
 * Any thread, before and after fork. Never blocks. Signal-safe. The text is static.
 */
const char *channel_strerror(int code);

/**
 * The version of the library that is loaded, for example "0.1.0".
 *
 * Any thread, before and after fork. Never blocks. Signal-safe. The text is static.
 */
const char *channel_version(void);

/**
 * Takes the next message of the queue. Returns 1 and fills `*message`, or 0 if
 * there is none: then the core is armed, and channel_fd becomes readable when
 * there is one. So: call it until it returns 0, then wait for channel_fd. Set
 * message->size to sizeof(channel_message_t) first.
 *
 * If the queue was full and messages were lost, message->lost of the next one
 * says how many; channel_lost says so without waiting for a next one.
 *
 * The thread that uses the core. Never blocks, but see channel_set_linger. Not
 * signal-safe. The struct is the caller's; for how long what it points at is valid,
 * see there. Errors: CHANNEL_E_NULL, CHANNEL_E_SIZE, CHANNEL_E_MASTER_GONE (and
 * nothing is left), CHANNEL_E_DAMAGED, and those of a handle.
 */
int channel_recv(channel_core_t *core, channel_message_t *message);

/**
 * Like channel_recv, but waits up to `timeout_ms` for a message; -1 waits as long
 * as it takes. For threads without an event loop: it sleeps on shared memory, with one
 * system call, and leaves channel_fd alone.
 *
 * As channel_recv, but blocks as `timeout_ms` says. Errors: as channel_recv.
 */
int channel_recv_timeout(channel_core_t *core, int timeout_ms, channel_message_t *message);

/**
 * Takes up to `len` messages with one call: channel_recv for many. Returns how many
 * it filled, or 0 if there is none: then the core is armed, as with channel_recv. So:
 * call it until it returns 0; fewer than `len` do not mean that no more are there. All
 * of them are valid as long as the message of one channel_recv would be. Set
 * messages[0].size to sizeof(channel_message_t) first; the others' is set for you.
 *
 * messages[i].lost says how many were lost just before that one.
 *
 * The thread that uses the core. Never blocks, but see channel_set_linger. Not
 * signal-safe. Errors: as channel_recv; nothing is taken then. With a `len` of 0 it
 * returns 0 and does not arm.
 */
int channel_recv_many(channel_core_t *core, channel_message_t *messages, size_t len);

/**
 * How many messages were lost to this core because its queue was full, as far as
 * channel_recv has come in its stream. When the core has emptied a full queue and
 * no message follows, channel_fd becomes readable all the same, and channel_recv
 * gives 0 and counts the losses.
 *
 * The thread that uses the core. Never blocks. Not signal-safe. Errors:
 * CHANNEL_E_NULL, and those of a handle.
 */
int64_t channel_lost(const channel_core_t *core);

/**
 * How long channel_recv, channel_recv_many and channel_recv_timeout may wait at an empty
 * queue for more before they arm the core and say that there is nothing, in microseconds;
 * 0 (never) at first, more than 10000 count as that. While they wait, others can use the
 * processor. Returns 0.
 *
 * For threads that have nothing else to do: waking a sleeper on another processor costs
 * tens of microseconds, so that 50 to 200 save more than they cost while messages stream.
 * Where they come singly it costs little either: a wait in vain is not tried again before
 * twice as many sleeps, up to 64. Not for event loops, whose other events would wait as
 * long, nor for the thread that calls channel_hub_poll.
 *
 * The thread that uses the core. Never blocks. Not signal-safe. Errors: CHANNEL_E_NULL,
 * and those of a handle.
 */
int channel_set_linger(channel_core_t *core, uint32_t limit_us);

/**
 * A file descriptor that becomes readable when a core that is armed gets
 * something: an eventfd. Register it edge-triggered (EPOLLIN | EPOLLET) and do not
 * read it; or, level-triggered, read 8 bytes from it before channel_recv.
 *
 * The thread that uses the core. Never blocks. Not signal-safe. The descriptor
 * belongs to the library: do not close it; it is gone after channel_detach.
 * Errors: CHANNEL_E_NULL, and those of a handle.
 */
int channel_fd(const channel_core_t *core);

/**
 * Sends a message to all cores that have joined the channel, the sender's own
 * included if it has.
 *
 * The thread that uses the core. Never blocks, never allocates; wakes the master
 * if it sleeps. Not signal-safe. Name and body are read during the call only.
 * Errors: CHANNEL_E_NULL, CHANNEL_E_NAME_EMPTY, CHANNEL_E_NAME_TOO_LONG,
 * CHANNEL_E_TOO_LARGE, CHANNEL_E_FULL, CHANNEL_E_MASTER_GONE, and those of a handle.
 */
int channel_send(channel_core_t *core, const char *name, const void *body, size_t body_len);

/**
 * Like channel_send, but waits up to `timeout_ms` for room in the lane; -1 waits
 * as long as it takes.
 *
 * As channel_send, but blocks as `timeout_ms` says. Errors: as channel_send, with
 * CHANNEL_E_TIMEOUT for CHANNEL_E_FULL.
 */
int channel_send_timeout(channel_core_t *core,
                         const char *name,
                         const void *body,
                         size_t body_len,
                         int timeout_ms);

/**
 * Sends several messages to one channel, at less cost than one by one. Returns
 * how many were taken, from the first: fewer than `count` if the lane was full.
 *
 * As channel_send; `bodies` is read during the call only. Errors: as channel_send;
 * then none was taken.
 */
int channel_send_many(channel_core_t *core,
                      const char *name,
                      const channel_body_t *bodies,
                      size_t count);

/**
 * Like channel_send, to a channel that this core has open: for hot paths.
 *
 * As channel_send. Errors: as channel_send, and CHANNEL_E_STALE_CHANNEL.
 */
int channel_send_to(channel_core_t *core,
                    channel_id_t id,
                    const void *body,
                    size_t body_len);

/**
 * Like channel_send_timeout, to a channel that this core has open.
 *
 * As channel_send_timeout. Errors: as there, and CHANNEL_E_STALE_CHANNEL.
 */
int channel_send_to_timeout(channel_core_t *core,
                            channel_id_t id,
                            const void *body,
                            size_t body_len,
                            int timeout_ms);

/**
 * Like channel_send_many, to a channel that this core has open.
 *
 * As channel_send_many. Errors: as there, and CHANNEL_E_STALE_CHANNEL.
 */
int channel_send_many_to(channel_core_t *core,
                         channel_id_t id,
                         const channel_body_t *bodies,
                         size_t count);

/**
 * Lends room for a message of `body_len` bytes, to be written in place and then sent
 * with channel_send_loan: nothing is copied from a buffer of the caller's. Waits up to
 * `timeout_ms` for room in the lane; 0 does not wait, -1 waits as long as it takes.
 * Until the loan is sent or dropped, the core can receive, but not send, join, leave
 * or lend again.
 *
 * The thread that uses the core. Blocks as `timeout_ms` says. Not signal-safe. The name
 * is read during the call only. `*body` is written only on success; what it points at
 * (alignment 8) is the caller's until the loan is sent or dropped, and holds what
 * earlier messages have left there. Errors: as channel_send_timeout (CHANNEL_E_FULL
 * without a timeout), CHANNEL_E_LOAN_OUT.
 */
int channel_loan(channel_core_t *core,
                 const char *name,
                 size_t body_len,
                 int timeout_ms,
                 void **body);

/**
 * Like channel_loan, to a channel that this core has open.
 *
 * As channel_loan. Errors: as there, and CHANNEL_E_STALE_CHANNEL.
 */
int channel_loan_to(channel_core_t *core,
                    channel_id_t id,
                    size_t body_len,
                    int timeout_ms,
                    void **body);

/**
 * Sends the loan as it stands. Its place among the messages is that of this call.
 *
 * The thread that uses the core. Never blocks, never allocates; wakes the master if it
 * sleeps. Not signal-safe. The body is no longer the caller's. Errors: CHANNEL_E_NULL,
 * CHANNEL_E_NO_LOAN, and those of a handle.
 */
int channel_send_loan(channel_core_t *core);

/**
 * Gives the loan up: nothing is sent.
 *
 * The thread that uses the core. Never blocks. Not signal-safe. The body is no longer
 * the caller's. Errors: CHANNEL_E_NULL, CHANNEL_E_NO_LOAN, and those of a handle.
 */
int channel_loan_drop(channel_core_t *core);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* CORECAST_H */
