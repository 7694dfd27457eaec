/* A server that starts its workers with exec: they have nothing of it but the name of a socket in
 * the environment, and talk all the same. One is killed; its successor gets its place. */
#include "check.h"

enum { WORKERS = 3 };

/* The program that a worker runs: says that it is there, answers what it hears, until told to end. */
static int worker(void) {
    channel_hub_t *hub = NULL;
    GIVES(0, channel_hub_connect(NULL, 20000, &hub));
    channel_core_t *core = attached(hub, CHANNEL_ANY, CHANNEL_ANY);
    GIVES(CHANNEL_E_NO_FREE_SLOT, channel_attach(hub, CHANNEL_ANY, CHANNEL_ANY, &core));
    GIVES(CHANNEL_E_WRONG_PROCESS, channel_hub_start(hub));
    GIVES(CHANNEL_E_WRONG_PROCESS, channel_hub_listen(hub, NULL, 0, NULL, 0));
    GIVES(0, channel_join(core, "workers", NULL));
    GIVES(0, channel_send(core, "master", "here", 4));

    pid_t child = forked(); /* has to connect for itself */
    if (child == 0) {
        channel_core_t *copy = NULL;
        GIVES_TEXT(CHANNEL_E_WRONG_PROCESS, "connect again",
                   channel_attach(hub, CHANNEL_ANY, CHANNEL_ANY, &copy));
        _exit(0);
    }
    ended_well(child);

    for (;;) {
        channel_message_t message = received(core);
        if (body_is(&message, "end")) break;
        GIVES(0, channel_send(core, "master", message.body, message.body_len));
    }
    GIVES(0, channel_detach(core));
    return channel_hub_destroy(hub) < 0;
}

static pid_t spawned(char *self) {
    pid_t pid = forked();
    if (pid == 0) {
        execv(self, (char *[]){self, "worker", NULL});
        CHECK(!"exec");
    }
    return pid;
}

/* As many answers as there are workers, each from another. */
static void all_say(channel_core_t *core, const char *text) {
    unsigned heard = 0;
    for (int i = 0; i < WORKERS; i++) {
        channel_message_t message = received(core);
        CHECK(body_is(&message, text) && message.worker < WORKERS);
        CHECK(!(heard & 1u << message.worker));
        heard |= 1u << message.worker;
    }
}

static void bad_names(channel_hub_t *hub) {
    channel_hub_t *out = NULL;
    char text[CHANNEL_SOCKET_ROOM];
    GIVES_TEXT(CHANNEL_E_SOCKET_NAME, "begins with @",
               channel_hub_listen(hub, "plain", 0, text, sizeof text));
    GIVES(CHANNEL_E_TOO_LARGE, channel_hub_listen(hub, NULL, 0, text, sizeof text - 1));
    GIVES_TEXT(CHANNEL_E_WORKER_RANGE, "no seat",
               channel_hub_listen(hub, NULL, WORKERS, text, sizeof text));
    GIVES(CHANNEL_E_NULL, channel_hub_listen(NULL, NULL, 0, text, sizeof text));
    GIVES(CHANNEL_E_NULL, channel_hub_connect("@x", 0, NULL));
    GIVES(CHANNEL_E_SOCKET_NAME, channel_hub_connect("plain", 0, &out));
    GIVES(CHANNEL_E_NO_HUB, channel_hub_connect("@nobody-listens-here", 0, &out));
    unsetenv("CORECAST_SOCKET");
    GIVES_TEXT(CHANNEL_E_NO_HUB, "CORECAST_SOCKET", channel_hub_connect(NULL, 0, &out));
    CHECK(out == NULL);
}

int main(int argc, char **argv) {
    watchdog(120);
    if (argc == 2) return worker();
    channel_config_t config = defaults();
    config.workers = WORKERS;
    config.extra = 0;
    channel_hub_t *hub = started(&config);
    bad_names(hub);
    char name[CHANNEL_SOCKET_ROOM];
    CHECK(channel_hub_listen(hub, NULL, 1, name, sizeof name) == (int)strlen(name));
    GIVES(CHANNEL_E_LISTENING, channel_hub_listen(hub, NULL, 1, NULL, 0));
    CHECK(setenv("CORECAST_SOCKET", name, 1) == 0);
    GIVES(0, channel_hub_destroy(hub));

    /* A name as a server would have it in its settings; the last worker is the master itself. */
    config.workers = WORKERS + 1;
    hub = started(&config);
    snprintf(name, sizeof name, "@corecast-spawned-%d", (int)getpid());
    CHECK(channel_hub_listen(hub, name, 0, NULL, 0) == (int)strlen(name));
    CHECK(setenv("CORECAST_SOCKET", name, 1) == 0);
    channel_core_t *core = attached(hub, WORKERS, 0);
    GIVES(0, channel_join(core, "master", NULL));
    pid_t workers[WORKERS];
    for (int i = 0; i < WORKERS; i++) workers[i] = spawned(argv[0]);
    all_say(core, "here");
    GIVES(0, channel_send(core, "workers", "again", 5));
    all_say(core, "again");

    CHECK(kill(workers[0], SIGKILL) == 0 && waitpid(workers[0], NULL, 0) == workers[0]);
    workers[0] = spawned(argv[0]);
    channel_message_t message = received(core);
    CHECK(body_is(&message, "here"));
    CHECK(stats_of(hub).reaped == 1 && stats_of(hub).cores == WORKERS + 1);
    GIVES(0, channel_send(core, "workers", "new", 3));
    all_say(core, "new");

    GIVES(0, channel_send(core, "workers", "end", 3));
    for (int i = 0; i < WORKERS; i++) ended_well(workers[i]);
    EVENTUALLY(stats_of(hub).cores == 1);
    GIVES(0, channel_detach(core));
    GIVES(0, channel_hub_destroy(hub));
    return 0;
}
