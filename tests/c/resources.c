/* What a hub takes is known beforehand, is refused if it is not there, and is all given
 * back; a slot can be taken and given back any number of times. */
#include "check.h"

#include <sys/resource.h>

/* Pages of address space, from the kernel's own count. */
static long mapped_pages(void) {
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    CHECK(file && fscanf(file, "%ld", &pages) == 1);
    fclose(file);
    return pages;
}

static void descriptors_are_as_said(void) {
    channel_config_t config = defaults();
    uint64_t bytes;
    uint32_t fds;
    GIVES(0, channel_config_bytes(&config, &bytes, &fds));
    CHECK(fds > 0 && bytes > config.queue_bytes);

    int before = open_fds();
    channel_hub_t *hub = started(&config);
    CHECK(open_fds() > before && open_fds() <= before + (int)fds);
    GIVES(0, channel_hub_destroy(hub));
    CHECK(open_fds() == before);
}

static void too_few_descriptors(void) {
    channel_config_t config = defaults();
    config.workers = 200;
    config.cores = 5;
    struct rlimit old, few;
    CHECK(getrlimit(RLIMIT_NOFILE, &old) == 0);
    few = old;
    few.rlim_cur = 100;
    CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
    int before = open_fds();
    channel_hub_t *hub = NULL;
    GIVES_TEXT(CHANNEL_E_FDS, "descriptors", channel_hub_create(&config, &hub));
    CHECK(hub == NULL && open_fds() == before);
    CHECK(setrlimit(RLIMIT_NOFILE, &old) == 0);
}

/* 4,000 cores with the largest queues: more than any machine has. */
static void too_little_memory(void) {
    channel_config_t config = defaults();
    config.workers = 400;
    config.cores = 1;
    config.populate = 1;
    config.queue_bytes = 1 << 30;
    uint64_t bytes;
    uint32_t fds;
    int before = open_fds();
    long pages = mapped_pages();
    channel_hub_t *hub = NULL;
    GIVES(0, channel_config_bytes(&config, &bytes, &fds));
    CHECK(bytes > (uint64_t)400 << 30);
    GIVES_TEXT(CHANNEL_E_MEMORY, "bytes", channel_hub_create(&config, &hub));
    CHECK(hub == NULL && open_fds() == before);
    CHECK(mapped_pages() < pages + 10000);
}

static void hubs_come_and_go(void) {
    channel_config_t config = defaults();
    GIVES(0, channel_hub_destroy(started(&config)));
    int fds = open_fds();
    long pages = mapped_pages();
    int rounds = effort(300, 10);
    for (int i = 0; i < rounds; i++) {
        channel_hub_t *hub = started(&config);
        channel_core_t *core = attached(hub, 0, 0);
        GIVES(0, channel_join(core, "here", NULL));
        /* Either may go first. */
        if (i % 2) GIVES(0, channel_detach(core));
        GIVES(0, channel_hub_destroy(hub));
        if (i % 2 == 0) channel_detach(core);
    }
    CHECK(open_fds() == fds);
    CHECK(mapped_pages() < pages + 10000);
}

static void cores_come_and_go(void) {
    channel_config_t config = defaults();
    channel_hub_t *hub = started(&config);
    int fds = open_fds();
    GIVES(0, channel_detach(attached(hub, 0, 0)));
    /* The master looks after the owner of a core by a descriptor until it has freed the slot. */
    EVENTUALLY(open_fds() == fds);
    int rounds = effort(2000, 300);
    for (int i = 0; i < rounds; i++) {
        channel_core_t *core = attached(hub, 0, 0);
        if (i % 50 == 0) {
            GIVES(0, channel_join(core, "here", NULL));
            GIVES(0, channel_send(core, "here", "x", 1));
            CHECK(received(core).body_len == 1);
        }
        GIVES(0, channel_detach(core));
        GIVES(CHANNEL_E_DETACHED, channel_detach(core));
    }
    EVENTUALLY(stats_of(hub).cores == 0);
    EVENTUALLY(stats_of(hub).channels == 0);
    EVENTUALLY(open_fds() == fds);
    GIVES(0, channel_hub_destroy(hub));
}

int main(void) {
    watchdog(150);
    descriptors_are_as_said();
    too_few_descriptors();
    too_little_memory();
    hubs_come_and_go();
    cores_come_and_go();
    return 0;
}
