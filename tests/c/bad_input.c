/* Every misuse has its own code, a text that names the value and the limit, and changes
 * nothing: no message, subscription, channel or descriptor more or less than before. */
#include "check.h"

enum { CHANNELS = 8, MAX_MESSAGE = 1000 };

static channel_hub_t *hub;
static channel_core_t *core;
static channel_config_t config;

static void names(void) {
    static char longest[257];
    memset(longest, 'n', 255);
    GIVES(0, channel_join(core, longest, NULL));
    GIVES(0, channel_send(core, longest, "x", 1));
    received(core);
    GIVES(0, channel_leave(core, longest));
    longest[255] = 'n';

    channel_id_t id = 77;
    uint64_t ticket = 77;
    channel_body_t body = {"x", 1};
    struct {
        int code;
        const char *name, *text;
    } bad[] = {
        {CHANNEL_E_NAME_EMPTY, "", "255"},
        {CHANNEL_E_NAME_TOO_LONG, longest, "256"},
        {CHANNEL_E_NULL, NULL, "name"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const char *name = bad[i].name, *text = bad[i].text;
        int code = bad[i].code;
        GIVES_TEXT(code, text, channel_join(core, name, &id));
        GIVES_TEXT(code, text, channel_join_async(core, name, &ticket));
        GIVES_TEXT(code, text, channel_open(core, name, &id));
        GIVES_TEXT(code, text, channel_leave(core, name));
        GIVES_TEXT(code, text, channel_send(core, name, "x", 1));
        GIVES_TEXT(code, text, channel_send_timeout(core, name, "x", 1, 10));
        GIVES_TEXT(code, text, channel_send_many(core, name, &body, 1));
    }
    CHECK(id == 77 && ticket == 77);
}

static void sizes(void) {
    static char body[MAX_MESSAGE + 1];
    channel_id_t id;
    GIVES(0, channel_open(core, "sizes", &id));
    GIVES(0, channel_join(core, "sizes", NULL));
    GIVES(0, channel_send(core, "sizes", body, MAX_MESSAGE));
    GIVES(0, channel_send(core, "sizes", NULL, 0));
    CHECK(received(core).body_len == MAX_MESSAGE);
    CHECK(received(core).body_len == 0);

    channel_body_t bodies[] = {{body, 1}, {body, sizeof body}};
    GIVES_TEXT(CHANNEL_E_TOO_LARGE, "1001", channel_send(core, "sizes", body, sizeof body));
    GIVES_TEXT(CHANNEL_E_TOO_LARGE, "1000", channel_send_to(core, id, body, sizeof body));
    GIVES(CHANNEL_E_TOO_LARGE, channel_send_timeout(core, "sizes", body, sizeof body, 10));
    GIVES(CHANNEL_E_TOO_LARGE, channel_send_to_timeout(core, id, body, sizeof body, 10));
    GIVES(CHANNEL_E_TOO_LARGE, channel_send_many(core, "sizes", bodies + 1, 1));
    GIVES(CHANNEL_E_TOO_LARGE, channel_send(core, "sizes", body, SIZE_MAX));
    GIVES(CHANNEL_E_NULL, channel_send(core, "sizes", NULL, 1));
    bodies[1].data = NULL;
    GIVES(CHANNEL_E_NULL, channel_send_many(core, "sizes", bodies, 2));
    GIVES(CHANNEL_E_NULL, channel_send_many(core, "sizes", NULL, 2));
    GIVES(0, channel_send_many(core, "sizes", NULL, 0));

    channel_message_t message = {.size = sizeof message};
    GIVES(0, channel_recv(core, &message));
    GIVES(0, channel_close(core, id));
    GIVES(CHANNEL_E_NOT_JOINED, channel_close(core, id));
    GIVES(CHANNEL_E_STALE_CHANNEL, channel_send_to(core, 0, "x", 1));
    GIVES(CHANNEL_E_STALE_CHANNEL, channel_send_to(core, UINT64_MAX, "x", 1));
    GIVES(CHANNEL_E_STALE_CHANNEL, channel_send_to_timeout(core, UINT64_MAX, "x", 1, 10));
    GIVES(CHANNEL_E_STALE_CHANNEL, channel_send_many_to(core, UINT64_MAX, bodies, 1));

    /* A number ends when nobody has the channel open or joined any more. */
    GIVES(0, channel_leave(core, "sizes"));
    EVENTUALLY(stats_of(hub).channels == 0);
    GIVES(CHANNEL_E_STALE_CHANNEL, channel_send_to(core, id, "x", 1));
}

static void too_many_channels(void) {
    char name[] = "channel 0";
    for (int i = 0; i < CHANNELS; i++) {
        name[8] = (char)('a' + i);
        GIVES(0, channel_join(core, name, NULL));
    }
    channel_id_t id = 77;
    GIVES_TEXT(CHANNEL_E_TOO_MANY_CHANNELS, "8", channel_join(core, "one more", &id));
    GIVES(CHANNEL_E_TOO_MANY_CHANNELS, channel_open(core, "one more", &id));
    CHECK(id == 77 && stats_of(hub).channels == CHANNELS);
    GIVES(CHANNEL_E_NOT_JOINED, channel_leave(core, "one more"));

    GIVES(0, channel_leave(core, name));
    GIVES(0, channel_join(core, "one more", &id));
    GIVES(0, channel_leave_all(core));
    GIVES(0, channel_leave_all(core));
    GIVES(CHANNEL_E_NOT_JOINED, channel_leave(core, "one more"));
}

static void slots(void) {
    channel_core_t *none = NULL, *rest[3];
    GIVES_TEXT(CHANNEL_E_SLOT_BUSY, "worker 0 core 0", channel_attach(hub, 0, 0, &none));
    GIVES_TEXT(CHANNEL_E_CORE_RANGE, "core 2", channel_attach(hub, 0, 2, &none));
    GIVES_TEXT(CHANNEL_E_WORKER_RANGE, "worker 9", channel_attach(hub, 9, 0, &none));
    GIVES(CHANNEL_E_WORKER_RANGE, channel_attach(hub, CHANNEL_ANY, 0, &none));
    GIVES(CHANNEL_E_NULL, channel_attach(hub, 0, 1, NULL));
    GIVES(CHANNEL_E_NULL, channel_attach(NULL, 0, 1, &none));
    CHECK(none == NULL && stats_of(hub).cores == 1);

    GIVES(0, channel_attach(hub, 0, CHANNEL_ANY, &rest[0]));
    GIVES_TEXT(CHANNEL_E_NO_FREE_SLOT, "2", channel_attach(hub, 0, CHANNEL_ANY, &none));
    GIVES(0, channel_attach(hub, CHANNEL_ANY, CHANNEL_ANY, &rest[1]));
    GIVES_TEXT(CHANNEL_E_NO_FREE_SLOT, "3",
               channel_attach(hub, CHANNEL_ANY, CHANNEL_ANY, &none));
    CHECK(none == NULL);
    for (int i = 0; i < 2; i++) GIVES(0, channel_detach(rest[i]));
}

/* Calls all that take a core; each must give the code. */
static void all_give(int code, channel_core_t *core) {
    channel_id_t id;
    uint64_t ticket;
    channel_body_t body = {"x", 1};
    channel_message_t message = {.size = sizeof message};
    GIVES(code, channel_join(core, "a", &id));
    GIVES(code, channel_join_async(core, "a", &ticket));
    GIVES(code, channel_join_result(core, 1, &id));
    GIVES(code, channel_leave(core, "a"));
    GIVES(code, channel_leave_all(core));
    GIVES(code, channel_open(core, "a", &id));
    GIVES(code, channel_close(core, 1));
    GIVES(code, channel_send(core, "a", "x", 1));
    GIVES(code, channel_send_timeout(core, "a", "x", 1, 1));
    GIVES(code, channel_send_many(core, "a", &body, 1));
    GIVES(code, channel_send_to(core, 1, "x", 1));
    GIVES(code, channel_send_to_timeout(core, 1, "x", 1, 1));
    GIVES(code, channel_send_many_to(core, 1, &body, 1));
    GIVES(code, channel_recv(core, &message));
    GIVES(code, channel_recv_timeout(core, 1, &message));
    GIVES(code, channel_lost(core));
    GIVES(code, channel_set_linger(core, 100));
    GIVES(code, channel_fd(core));
}

static void handles(void) {
    all_give(CHANNEL_E_NULL, NULL);
    GIVES(0, channel_detach(NULL));
    channel_core_t *other = attached(hub, 0, 1);
    GIVES(0, channel_detach(other));
    all_give(CHANNEL_E_DETACHED, other);
    GIVES(CHANNEL_E_DETACHED, channel_detach(other));

    GIVES(CHANNEL_E_NULL, channel_join_async(core, "a", NULL));
    GIVES(CHANNEL_E_NULL, channel_open(core, "a", NULL));
    GIVES(CHANNEL_E_NULL, channel_recv(core, NULL));
    GIVES(CHANNEL_E_NULL, channel_recv_timeout(core, 1, NULL));
    GIVES(CHANNEL_E_NULL, channel_set_linger(NULL, 100));
    channel_message_t message = {.size = sizeof message - 8};
    GIVES_TEXT(CHANNEL_E_SIZE, "channel_message_t", channel_recv(core, &message));
    GIVES(CHANNEL_E_NO_SUCH_TICKET, channel_join_result(core, 12345, NULL));
}

static void hubs(void) {
    channel_stats_t stats = {.size = 0};
    GIVES(CHANNEL_E_NULL, channel_hub_start(NULL));
    GIVES(CHANNEL_E_NULL, channel_hub_poll(NULL, 0));
    GIVES(CHANNEL_E_NULL, channel_hub_fd(NULL));
    GIVES(CHANNEL_E_NULL, channel_worker_died(NULL, 0));
    GIVES(CHANNEL_E_NULL, channel_hub_stats(NULL, &stats));
    GIVES(CHANNEL_E_NULL, channel_hub_stats(hub, NULL));
    GIVES(CHANNEL_E_SIZE, channel_hub_stats(hub, &stats));
    GIVES(0, channel_hub_destroy(NULL));
    GIVES_TEXT(CHANNEL_E_WORKER_RANGE, "worker 7", channel_worker_died(hub, 7));
    GIVES(CHANNEL_E_MASTER_RUNNING, channel_hub_start(hub));
    GIVES(CHANNEL_E_MASTER_RUNNING, channel_hub_poll(hub, 0));
    GIVES(CHANNEL_E_MASTER_RUNNING, channel_hub_fd(hub));
}

/* A configuration with one thing wrong; it must not make a hub. */
static void refused(int code, const char *text, channel_config_t bad) {
    channel_hub_t *none = NULL;
    uint64_t bytes = 77;
    uint32_t fds = 77;
    GIVES_TEXT(code, text, channel_config_bytes(&bad, &bytes, &fds));
    GIVES_TEXT(code, text, channel_hub_create(&bad, &none));
    CHECK(none == NULL && bytes == 77 && fds == 77);
}

#define WITH(field, value, code, text)                                              \
    do {                                                                            \
        channel_config_t bad = config;                                              \
        bad.field = (value);                                                        \
        refused((code), (text), bad);                                               \
    } while (0)

static void configurations(void) {
    WITH(workers, 0, CHANNEL_E_CONFIG_ZERO, "workers");
    WITH(cores, 0, CHANNEL_E_CONFIG_ZERO, "cores");
    WITH(channels, 0, CHANNEL_E_CONFIG_ZERO, "channels");
    WITH(lane_bytes, 0, CHANNEL_E_CONFIG_ZERO, "lane_bytes");
    WITH(queue_bytes, 0, CHANNEL_E_CONFIG_ZERO, "queue_bytes");
    WITH(max_message, 0, CHANNEL_E_CONFIG_ZERO, "max_message");
    WITH(workers, UINT32_MAX, CHANNEL_E_CONFIG_TOO_LARGE, "workers");
    WITH(channels, 1000001, CHANNEL_E_CONFIG_TOO_LARGE, "1000000");
    WITH(max_message, SIZE_MAX, CHANNEL_E_CONFIG_TOO_LARGE, "max_message");
    WITH(queue_bytes, SIZE_MAX, CHANNEL_E_CONFIG_TOO_LARGE, "queue_bytes");
    WITH(lane_bytes, 1, CHANNEL_E_CONFIG_TOO_SMALL, "lane_bytes");
    WITH(overflow, 3, CHANNEL_E_VALUE, "overflow is 3");
    WITH(timestamps, 3, CHANNEL_E_VALUE, "timestamps is 3");
    WITH(order, 2, CHANNEL_E_VALUE, "order is 2");
    WITH(populate, 2, CHANNEL_E_VALUE, "populate is 2");
    WITH(size, 0, CHANNEL_E_SIZE, "channel_config_t");
    WITH(size, 9, CHANNEL_E_SIZE, "9");

    uint64_t bytes;
    uint32_t fds;
    channel_config_t unsized_one = {.size = 0};
    GIVES(CHANNEL_E_SIZE, channel_config_default(&unsized_one));
    GIVES(CHANNEL_E_NULL, channel_config_default(NULL));
    GIVES(CHANNEL_E_NULL, channel_config_bytes(NULL, &bytes, &fds));
    GIVES(CHANNEL_E_NULL, channel_config_bytes(&config, NULL, &fds));
    GIVES(CHANNEL_E_NULL, channel_config_bytes(&config, &bytes, NULL));
    GIVES(CHANNEL_E_NULL, channel_hub_create(NULL, &hub));
    GIVES(CHANNEL_E_NULL, channel_hub_create(&config, NULL));
}

/* A struct of a newer header: what this library does not know has to be zero. */
static void newer_structs(void) {
    struct {
        channel_config_t known;
        uint64_t newer;
    } config = {.known = defaults(), .newer = 0};
    uint64_t bytes;
    uint32_t fds;
    config.known.size = sizeof config;
    GIVES(0, channel_config_bytes(&config.known, &bytes, &fds));
    config.newer = 1;
    GIVES(CHANNEL_E_SIZE, channel_config_bytes(&config.known, &bytes, &fds));
}

static void codes(void) {
    CHECK(strcmp(channel_strerror(0), "success") == 0);
    CHECK(strcmp(channel_strerror(5), "success") == 0);
    CHECK(strcmp(channel_strerror(-12345), "no such error code") == 0);
    CHECK(strcmp(channel_strerror(CHANNEL_E_FULL), channel_strerror(CHANNEL_E_NULL)) != 0);
    CHECK(strchr(channel_version(), '.') != NULL);
}

int main(void) {
    watchdog(150);
    CHECK(*channel_last_error() == 0);
    config = defaults();
    config.workers = 1;
    config.cores = 2;
    config.extra = 1;
    config.channels = CHANNELS;
    config.max_message = MAX_MESSAGE;
    hub = started(&config);
    core = attached(hub, 0, 0);
    GIVES(0, channel_join(core, "warm up", NULL));
    GIVES(0, channel_leave(core, "warm up"));

    EVENTUALLY(stats_of(hub).channels == 0);
    int fds = open_fds();
    channel_stats_t before = stats_of(hub);
    names();
    sizes();
    too_many_channels();
    slots();
    handles();
    hubs();
    configurations();
    newer_structs();
    codes();
    channel_message_t message = {.size = sizeof message};
    GIVES(0, channel_recv(core, &message));
    EVENTUALLY(stats_of(hub).channels == 0 && stats_of(hub).cores == 1);
    channel_stats_t after = stats_of(hub);
    CHECK(open_fds() == fds && after.subscriptions == 0);
    CHECK(after.messages == before.messages + 3 && after.lost == 0 && after.violations == 0);

    GIVES(0, channel_detach(core));
    GIVES(0, channel_hub_destroy(hub));
    GIVES(CHANNEL_E_DETACHED, channel_hub_destroy(hub));
    GIVES(CHANNEL_E_DETACHED, channel_hub_poll(hub, 0));
    GIVES(CHANNEL_E_DETACHED, channel_attach(hub, 0, 0, &core));
    return 0;
}
