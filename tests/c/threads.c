/* One process with threads as cores: everybody gets everything once, in one order. */
#include "check.h"

#include <pthread.h>

enum { THREADS = 4, MOST = 20000 };

/* What a thread sends, and what it saw: who sent the message, and its number there. */
struct item {
    uint32_t thread, number;
};

static channel_hub_t *hub;
static pthread_barrier_t all_joined;
static int count;
static struct item seen[THREADS][THREADS * MOST];

static void send_one(channel_core_t *core, struct item item) {
    int got;
    while ((got = channel_send_timeout(core, "all", &item, sizeof item, 20000)) != 0)
        GIVES(0, got);
}

static int take(channel_core_t *core, struct item *out) {
    channel_message_t message = {.size = sizeof message};
    int got = channel_recv(core, &message);
    if (got == 0) return 0;
    GIVES(1, got);
    CHECK(message.lost == 0 && message.body_len == sizeof *out);
    memcpy(out, message.body, sizeof *out);
    CHECK(out->thread == message.core);
    return 1;
}

static void *run(void *arg) {
    uint32_t me = (uint32_t)(uintptr_t)arg;
    channel_core_t *core = attached(hub, 0, me);
    int got = 0;
    GIVES(0, channel_join(core, "all", NULL));
    pthread_barrier_wait(&all_joined);
    for (int i = 0; i < count; i++) {
        send_one(core, (struct item){me, (uint32_t)i});
        while (take(core, &seen[me][got])) got++;
    }
    while (got < THREADS * count) {
        channel_message_t message = received(core);
        CHECK(message.body_len == sizeof(struct item) && message.lost == 0);
        memcpy(&seen[me][got++], message.body, sizeof(struct item));
    }
    GIVES(0, channel_detach(core));
    return NULL;
}

/* All saw the same, each sender's numbers in order. */
static void verify(void) {
    uint32_t next[THREADS] = {0};
    for (int i = 0; i < THREADS * count; i++) {
        struct item item = seen[0][i];
        CHECK(item.thread < THREADS && item.number == next[item.thread]++);
        for (int t = 1; t < THREADS; t++)
            CHECK(memcmp(&seen[t][i], &item, sizeof item) == 0);
    }
}

int main(void) {
    watchdog(150);
    pthread_t threads[THREADS];
    channel_config_t config = defaults();
    config.workers = 1;
    config.cores = THREADS;
    config.queue_bytes = 8 << 20;
    count = effort(MOST, 500);
    hub = started(&config);
    pthread_barrier_init(&all_joined, NULL, THREADS);
    for (uintptr_t i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, run, (void *)i) == 0);
    for (int i = 0; i < THREADS; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    verify();
    CHECK(stats_of(hub).lost == 0);
    EVENTUALLY(stats_of(hub).cores == 0);
    GIVES(0, channel_hub_destroy(hub));
    return 0;
}
