/* A signal handler that uses the core which the signal interrupted is refused, and
 * harms nothing; a SIGCHLD handler may report a death. */
#include "check.h"

#include <sys/time.h>

static channel_hub_t *hub;
static channel_core_t *core;
static volatile sig_atomic_t refused, accepted, other;
static volatile sig_atomic_t reported;

static void interrupt(int signal) {
    (void)signal;
    int got = channel_send(core, "ticks", "tick", 4);
    if (got == CHANNEL_E_IN_USE)
        refused++;
    else if (got == 0)
        accepted++;
    else if (got != CHANNEL_E_FULL)
        other = got;
}

static void child_ended(int signal) {
    (void)signal;
    reported = channel_worker_died(hub, 1) == 0;
}

static void on(int signal, void (*handler)(int)) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    CHECK(sigaction(signal, &action, NULL) == 0);
}

static void ticks_every(long microseconds) {
    struct itimerval timer = {{0, microseconds}, {0, microseconds}};
    CHECK(setitimer(ITIMER_REAL, &timer, NULL) == 0);
}

/* Numbered messages, with ticks in between; gives how many ticks came. */
static int send_and_count(uint32_t messages) {
    int ticks = 0;
    for (uint32_t next = 0, i = 0; next < messages;) {
        channel_message_t message = {.size = sizeof message};
        if (i < messages && channel_send(core, "numbers", &i, sizeof i) == 0) i++;
        while (channel_recv(core, &message) == 1) {
            CHECK(message.lost == 0 && message.body_len == 4);
            if (memcmp(message.body, "tick", 4) == 0 && message.name_len == 5) {
                ticks++;
                continue;
            }
            CHECK(memcmp(message.body, &next, sizeof next) == 0);
            next++;
        }
    }
    return ticks;
}

static void interrupted_sends(void) {
    int ticks = 0;
    GIVES(0, channel_join(core, "ticks", NULL));
    GIVES(0, channel_join(core, "numbers", NULL));
    on(SIGALRM, interrupt);
    ticks_every(200);
    for (int round = 0; round < 400 && (refused < 20 || accepted < 5); round++)
        ticks += send_and_count((uint32_t)effort(20000, 500));
    ticks_every(0);
    CHECK(refused > 0 && accepted > 0 && other == 0);

    channel_message_t message = {.size = sizeof message};
    while (ticks < accepted) {
        GIVES(1, channel_recv_timeout(core, 20000, &message));
        CHECK(body_is(&message, "tick"));
        ticks++;
    }
    CHECK(ticks == accepted);
    GIVES(0, channel_recv_timeout(core, 20, &message));
}

static void reported_death(void) {
    uint64_t reaped = stats_of(hub).reaped;
    on(SIGCHLD, child_ended);
    pid_t pid = forked();
    if (pid == 0) {
        attached(hub, 1, 0);
        raise(SIGKILL);
    }
    EVENTUALLY(reported);
    EVENTUALLY(stats_of(hub).reaped == reaped + 1);
    CHECK(waitpid(pid, NULL, 0) == pid);
}

int main(void) {
    channel_config_t config = defaults();
    config.queue_bytes = 8 << 20;
    hub = started(&config);
    core = attached(hub, 0, 0);
    interrupted_sends();
    on(SIGALRM, SIG_DFL);
    watchdog(60);
    reported_death();
    GIVES(0, channel_detach(core));
    GIVES(0, channel_hub_destroy(hub));
    return 0;
}
