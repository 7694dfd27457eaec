/* The hub of this server, and its master: a thread of uWSGI's master process.
 *
 * It is made just before the first fork, when uWSGI has become a daemon and dropped its
 * privileges. When uWSGI reloads as a whole, its workers, mules and spoolers end, and the
 * master runs itself anew: then nobody is left who has a subscription, and the hub is made
 * anew too.
 */
#include "plugin.h"

channel_hub_t *cc_hub;

/* The process whose thread is the master of the hub. */
static pid_t owner;

static uint32_t helpers(void) {
    uint32_t count = (uint32_t)uwsgi.mules_cnt;
    for (struct uwsgi_spooler *each = uwsgi.spoolers; each; each = each->next) count++;
    return count;
}

static uint32_t small(struct cc_number number, uint32_t otherwise) {
    if (!number.set) return otherwise;
    return number.value > UINT32_MAX ? UINT32_MAX : (uint32_t)number.value;
}

uint32_t cc_slots_of_worker(void) { return small(cc_options.cores, (uint32_t)uwsgi.cores + 2); }

/* For processes that connect, if not told otherwise. */
enum { GUESTS = 8 };

uint32_t cc_slots_beside_workers(void) {
    return small(cc_options.extra, 2 * helpers() + (cc_options.socket ? GUESTS : 0));
}

static size_t size(struct cc_number number, size_t otherwise) {
    return number.set ? number.value : otherwise;
}

static void configure(channel_config_t *config) {
    const struct cc_options *o = &cc_options;
    config->size = sizeof *config;
    channel_config_default(config);
    config->workers = uwsgi.numproc > 0 ? (uint32_t)uwsgi.numproc : 1;
    config->cores = cc_slots_of_worker();
    config->extra = cc_slots_beside_workers();
    config->channels = small(o->channels, config->channels);
    config->queue_bytes = size(o->queue, config->queue_bytes);
    config->lane_bytes = size(o->lane, config->lane_bytes);
    config->arena_bytes = size(o->arena, config->arena_bytes);
    config->slab_bytes = size(o->slab, config->slab_bytes);
    config->max_message = size(o->message, config->max_message);
    config->overflow = small(o->overflow, config->overflow);
    config->order = small(o->order, config->order);
    config->timestamps = small(o->timestamps, config->timestamps);
    config->populate = small(o->populate, config->populate);
    if (o->no_isolation.set || o->assist.set) config->isolation = 0;
    config->assist = o->assist.set;
    config->huge_pages = o->huge_pages.set;
    config->spin_us = small(o->spin, config->spin_us);
    config->answer_timeout_ms = small(o->answer_timeout, config->answer_timeout_ms);
}

static void must(int result, const char *what) {
    if (result >= 0) return;
    uwsgi_log("corecast: %s: %s\n", what, channel_last_error());
    exit(1);
}

static void announce(const channel_config_t *config) {
    uint64_t bytes;
    uint32_t fds;
    must(channel_config_bytes(config, &bytes, &fds), "the channels");
    uwsgi_log("corecast %s: up to %u channels for %u workers x %u cores + %u, "
              "%llu MB reserved, %u descriptors\n",
              channel_version(), config->channels, config->workers, config->cores, config->extra,
              (unsigned long long)bytes >> 20, fds);
}

/* Workers are forked; who connects gets one of the slots beside them. What uWSGI starts from now
 * on (attach-daemon) finds the name where it looks for it. */
static void listen_for_guests(uint32_t workers) {
    if (!cc_options.socket) return;
    must(channel_hub_listen(cc_hub, cc_options.socket, workers, NULL, 0),
         "cannot listen at --channels-socket");
    if (setenv("CORECAST_SOCKET", cc_options.socket, 1)) uwsgi_error("corecast: setenv()");
    uwsgi_log("corecast: other processes connect at %s\n", cc_options.socket);
}

void cc_hub_open(void) {
    channel_config_t config;
    configure(&config);
    announce(&config);
    must(channel_hub_create(&config, &cc_hub), "cannot make the channels");
    must(channel_hub_start(cc_hub), "cannot start the master of the channels");
    owner = getpid();
    listen_for_guests(config.workers);
}

void cc_hub_close(void) {
    if (!cc_hub || owner != getpid()) return;
    channel_hub_destroy(cc_hub);
    cc_hub = NULL;
}
