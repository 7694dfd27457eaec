/* A server reloads: it replaces itself with exec, and its worker stays. What was on the way
 * arrives, in order and once; the next program adopts the hub and goes on. */
#include "check.h"

enum { BEFORE = 200, AFTER = 200 };

/* Everything, numbered, in order; from a worker that never notices the reload. */
static void worker(channel_hub_t *hub) {
    watchdog(60);
    channel_core_t *core = attached(hub, 0, 0);
    GIVES(0, channel_join(core, "news", NULL));
    channel_message_t message = {.size = sizeof message};
    for (int n = 0, got; n < BEFORE + AFTER; n++) {
        while ((got = channel_recv_timeout(core, 1000, &message)) != 1)
            CHECK(got == 0 || got == CHANNEL_E_MASTER_GONE);
        CHECK(message.body_len == sizeof n && memcmp(message.body, &n, sizeof n) == 0);
    }
    GIVES(0, channel_recv(core, &message));
    GIVES(0, channel_detach(core));
    _exit(0);
}

static void send_numbers(channel_core_t *core, int from, int to) {
    for (int n = from; n < to; n++) GIVES(0, channel_send(core, "news", &n, sizeof n));
}

static void first_program(char *self) {
    channel_config_t config = defaults();
    config.workers = 1;
    channel_hub_t *hub = NULL;
    GIVES(0, channel_hub_create(&config, &hub));
    pid_t child = fork();
    if (child == 0) worker(hub);
    while (stats_of(hub).subscriptions == 0) CHECK(channel_hub_poll(hub, 1000) >= 0);
    channel_core_t *core = attached(hub, CHANNEL_ANY, CHANNEL_ANY);
    send_numbers(core, 0, BEFORE / 2);
    CHECK(channel_hub_poll(hub, 0) >= 0);
    send_numbers(core, BEFORE / 2, BEFORE); /* still in the lane when the program ends */

    char handoff[256], pid[16];
    GIVES(CHANNEL_E_NULL, channel_hub_handoff(hub, NULL, sizeof handoff));
    GIVES(CHANNEL_E_TOO_LARGE, channel_hub_handoff(hub, handoff, 10));
    CHECK(channel_hub_handoff(hub, handoff, sizeof handoff) == (int)strlen(handoff));
    snprintf(pid, sizeof pid, "%d", (int)child);
    execv(self, (char *[]){self, handoff, pid, NULL});
    CHECK(!"exec");
}

static int next_program(const char *handoff, pid_t child) {
    channel_hub_t *hub = NULL;
    GIVES(CHANNEL_E_NULL, channel_hub_adopt(NULL, &hub));
    GIVES(CHANNEL_E_NULL, channel_hub_adopt(handoff, NULL));
    GIVES(CHANNEL_E_HANDOFF, channel_hub_adopt("corecast1:0:1:2", &hub));
    GIVES(CHANNEL_E_HANDOFF, channel_hub_adopt("nonsense", &hub));
    CHECK(hub == NULL);
    GIVES(0, channel_hub_adopt(handoff, &hub));
    while (stats_of(hub).messages < BEFORE) CHECK(channel_hub_poll(hub, 1000) >= 0);
    CHECK(stats_of(hub).cores == 1); /* the worker's; the old program's core is gone */
    channel_core_t *core = attached(hub, CHANNEL_ANY, CHANNEL_ANY);
    send_numbers(core, BEFORE, BEFORE + AFTER);
    int status = -1;
    while (waitpid(child, &status, WNOHANG) == 0) CHECK(channel_hub_poll(hub, 10) >= 0);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    GIVES(0, channel_detach(core));
    GIVES(0, channel_hub_destroy(hub));
    return 0;
}

int main(int argc, char **argv) {
    watchdog(60);
    if (argc == 3) return next_program(argv[1], (pid_t)atoi(argv[2]));
    first_program(argv[0]);
    return 1;
}
