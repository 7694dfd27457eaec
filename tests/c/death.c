/* A worker killed at any time: its slot and its subscriptions become free, a worker
 * forked again takes its place, and the others notice nothing. */
#include "check.h"

#include <sys/syscall.h>

static channel_hub_t *hub;

/* Without pidfds (an old kernel, valgrind) the master has only the host's word. */
static int master_sees_deaths(void) {
    int fd = (int)syscall(SYS_pidfd_open, getpid(), 0);
    return fd >= 0 && close(fd) == 0;
}

/* Joins, and floods until it is killed. */
static void victim(void) {
    channel_core_t *core = attached(hub, 1, 0);
    GIVES(0, channel_join(core, "noise", NULL));
    GIVES(0, channel_join(core, "private", NULL));
    GIVES(0, channel_send(core, "here", "ready", 5));
    for (uint64_t i = 0;; i++) {
        channel_message_t message = {.size = sizeof message};
        int got = channel_send_timeout(core, "noise", &i, sizeof i, 20000);
        GIVES(0, got);
        while ((got = channel_recv(core, &message)) == 1) continue;
        GIVES(0, got);
    }
}

/* Noise until `core` hears that the victim is ready. */
static void until_ready(channel_core_t *core) {
    for (;;) {
        channel_message_t message = received(core);
        if (message.name_len == 4 && memcmp(message.name, "here", 4) == 0) return;
    }
}

/* The victim's numbers have no gap and no repetition, as far as they go. */
static void noise_is_whole(channel_core_t *core, int messages) {
    uint64_t next = 0;
    for (int i = 0; i < messages; i++) {
        channel_message_t message = received(core);
        uint64_t number;
        CHECK(message.worker == 1 && message.body_len == sizeof number);
        memcpy(&number, message.body, sizeof number);
        CHECK(number == next + message.lost);
        next = number + 1;
    }
}

static void kill_worker(pid_t pid) {
    CHECK(kill(pid, SIGKILL) == 0);
    CHECK(waitpid(pid, NULL, 0) == pid);
}

static void drain(channel_core_t *core) {
    channel_message_t message = {.size = sizeof message};
    int got;
    while ((got = channel_recv(core, &message)) == 1) continue;
    GIVES(0, got);
}

int main(void) {
    watchdog(150);
    channel_config_t config = defaults();
    config.workers = 2;
    hub = started(&config);
    channel_core_t *core = attached(hub, 0, 0);
    GIVES(0, channel_join(core, "here", NULL));
    GIVES(0, channel_join(core, "noise", NULL));
    channel_stats_t before = stats_of(hub);

    int rounds = effort(20, 4);
    for (int round = 0; round < rounds; round++) {
        pid_t pid = forked();
        if (pid == 0) victim();
        until_ready(core);
        noise_is_whole(core, effort(200, 20));
        usleep((useconds_t)(round * 137 % 1000));
        kill_worker(pid);
        /* Half of the time the master has to find it out by itself. */
        if (round % 2 || !master_sees_deaths()) GIVES(0, channel_worker_died(hub, 1));
        EVENTUALLY(stats_of(hub).cores == 1);
        EVENTUALLY(stats_of(hub).subscriptions == before.subscriptions);
        CHECK(stats_of(hub).reaped == before.reaped + (uint64_t)round + 1);
        drain(core);
    }

    /* The survivor is as it was. */
    GIVES(0, channel_send(core, "here", "alone", 5));
    channel_message_t message = received(core);
    CHECK(body_is(&message, "alone") && message.worker == 0);
    CHECK(stats_of(hub).quarantined == 0 && stats_of(hub).violations == 0);
    GIVES(0, channel_detach(core));
    GIVES(0, channel_hub_destroy(hub));
    return 0;
}
