/* --channels...: every limit of the hub. What is wrong ends the start, with what was said. */
#include "plugin.h"

struct cc_options cc_options;

static void wrong(const char *option, const char *value, const char *expected) {
    uwsgi_log("corecast: --%s %s: expected %s\n", option, value, expected);
    exit(1);
}

static void set(struct cc_number *number, uint64_t value) {
    number->value = value;
    number->set = true;
}

/* 10, 64k, 16M, 1G. */
static void number(char *option, char *value, void *out) {
    char *end;
    uint64_t parsed = strtoull(value, &end, 10), factor = 1;
    if (*end == 'k' || *end == 'K') factor = 1 << 10;
    if (*end == 'm' || *end == 'M') factor = 1 << 20;
    if (*end == 'g' || *end == 'G') factor = 1 << 30;
    if (factor > 1) end++;
    bool overflow = parsed > UINT64_MAX / factor || (errno == ERANGE && parsed == UINT64_MAX);
    if (value[0] < '0' || value[0] > '9' || *end || overflow)
        wrong(option, value, "a number, or one with k, M or G behind it");
    set(out, parsed * factor);
}

/* The position of a value in a list of names. */
static void one_of(char *option, char *value, struct cc_number *out, const char *const *names,
                   const char *expected) {
    for (int i = 0; names[i]; i++)
        if (!strcmp(names[i], value)) return set(out, (uint64_t)i);
    wrong(option, value, expected);
}

/* In the order of the numbers in corecast.h. */
static void overflow(char *option, char *value, void *out) {
    static const char *const names[] = {"drop-newest", "drop-oldest", "block", NULL};
    one_of(option, value, out, names, "drop-newest, drop-oldest or block");
}

static void timestamps(char *option, char *value, void *out) {
    static const char *const names[] = {"off", "batch", "message", NULL};
    one_of(option, value, out, names, "off, batch or message");
}

static void order(char *option, char *value, void *out) {
    static const char *const names[] = {"total", "per-sender", NULL};
    one_of(option, value, out, names, "total or per-sender");
}

static void flag(char *option, char *value, void *out) {
    (void)option, (void)value;
    set(out, 1);
}

#define NUMBER(name, help, field) \
    {name, required_argument, 0, help, number, &cc_options.field, 0}

struct uwsgi_option cc_option_table[] = {
    NUMBER("channels", "channels in use at the same time, up to 1000000 (default 65536)", channels),
    NUMBER("channels-queue", "bytes of unread messages kept for each core (default 256k)", queue),
    NUMBER("channels-lane", "bytes a core may have sent ahead of the master (default 256k)", lane),
    NUMBER("channels-arena",
           "bytes for messages that several cores read in one place (default 8M; 0: each gets a copy)",
           arena),
    NUMBER("channels-slab",
           "bytes of each sender for messages over 4 KiB, read where it wrote them; 0: copied (default 2M)",
           slab),
    NUMBER("channels-message", "bytes of the largest message, up to 1G (default 1M)", message),
    {"channels-overflow", required_argument, 0,
     "what happens when a queue is full: drop-newest (default), drop-oldest or block", overflow,
     &cc_options.overflow, 0},
    {"channels-order", required_argument, 0,
     "all receivers see one order: total (default), or one for each sender: per-sender", order,
     &cc_options.order, 0},
    {"channels-timestamps", required_argument, 0,
     "what dates a message: off, batch (the master, default) or message (its sender)", timestamps,
     &cc_options.timestamps, 0},
    {"channels-populate", no_argument, 0,
     "take the memory of all channels and queues at start, not when it is used", flag,
     &cc_options.populate, 0},
    {"channels-huge-pages", no_argument, 0,
     "huge pages for queues and arena, where the kernel gives them (shmem_enabled: advise)", flag,
     &cc_options.huge_pages, 0},
    {"channels-no-isolation", no_argument, 0,
     "let all workers write all of the channels' memory (default: each only its own part)", flag,
     &cc_options.no_isolation, 0},
    {"channels-assist", no_argument, 0,
     "let workers that send while the master sleeps do its work; implies channels-no-isolation",
     flag, &cc_options.assist, 0},
    NUMBER("channels-spin", "microseconds the master polls before it sleeps (default 0)", spin),
    NUMBER("channels-answer-timeout",
           "milliseconds that channel_join waits for the master (default 5000)", answer_timeout),
    NUMBER("channels-cores",
           "requests and threads of a worker that use channels at the same time "
           "(default: its cores, and 2)",
           cores),
    NUMBER("channels-extra",
           "the same for all mules, spoolers and processes that connect together (default: 2 for "
           "each mule or spooler, and 8 with channels-socket)",
           extra),
    {"channels-socket", required_argument, 0,
     "let processes outside of uWSGI connect to the channels at this Unix socket: @name or a path",
     uwsgi_opt_set_str, &cc_options.socket, 0},
    {0, 0, 0, 0, 0, 0, 0},
};
