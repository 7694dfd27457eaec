/* What a child inherits: the hub serves it, the parent's core does not. */
#include "check.h"

#include <fcntl.h>

static void inherited_core_is_refused(channel_core_t *core) {
    channel_id_t id;
    uint64_t ticket;
    channel_body_t body = {"x", 1};
    channel_message_t message = {.size = sizeof message};
    GIVES(CHANNEL_E_WRONG_PROCESS, channel_send(core, "family", "x", 1));
    GIVES(CHANNEL_E_WRONG_PROCESS, channel_send_timeout(core, "family", "x", 1, 10));
    GIVES(CHANNEL_E_WRONG_PROCESS, channel_send_many(core, "family", &body, 1));
    GIVES(CHANNEL_E_WRONG_PROCESS, channel_recv(core, &message));
    GIVES(CHANNEL_E_WRONG_PROCESS, channel_recv_timeout(core, 10, &message));
    GIVES(CHANNEL_E_WRONG_PROCESS, channel_join(core, "other", &id));
    GIVES(CHANNEL_E_WRONG_PROCESS, channel_join_async(core, "other", &ticket));
    GIVES(CHANNEL_E_WRONG_PROCESS, channel_open(core, "other", &id));
    GIVES(CHANNEL_E_WRONG_PROCESS, channel_leave(core, "family"));
    GIVES(CHANNEL_E_WRONG_PROCESS, channel_leave_all(core));
}

static void inherited_master_is_refused(channel_hub_t *hub) {
    CHECK(channel_hub_poll(hub, 0) < 0);
    CHECK(channel_hub_start(hub) < 0);
    GIVES(CHANNEL_E_WRONG_PROCESS, channel_worker_died(hub, 0));
}

/* A child that uses what it may, and gives back all that it has. */
static void child(channel_hub_t *hub, channel_core_t *inherited) {
    inherited_core_is_refused(inherited);
    inherited_master_is_refused(hub);
    channel_core_t *none, *own = attached(hub, 1, 0);
    /* It cannot be another worker, and asking for it costs it nothing. */
    GIVES(CHANNEL_E_OTHER_WORKER, channel_attach(hub, 0, 0, &none));
    CHECK(fcntl(channel_fd(own), F_GETFD) >= 0);
    GIVES(CHANNEL_E_SLOT_BUSY, channel_attach(hub, 1, 0, &none));
    GIVES(0, channel_join(own, "family", NULL));
    GIVES(0, channel_send(own, "family", "from the child", 14));
    channel_message_t message = received(own);
    CHECK(body_is(&message, "from the child") && message.worker == 1);
    CHECK(body_is(&(channel_message_t){.body = message.name, .body_len = message.name_len},
                  "family"));
    GIVES(CHANNEL_E_WRONG_PROCESS, channel_detach(inherited));
    GIVES(CHANNEL_E_DETACHED, channel_send(inherited, "family", "x", 1));
    GIVES(0, channel_detach(own));
    GIVES(0, channel_hub_destroy(hub));
    exit(0);
}

int main(void) {
    watchdog(100);
    channel_config_t config = defaults();
    config.workers = 2;
    channel_hub_t *hub = started(&config);
    channel_core_t *core = attached(hub, 0, 0);
    GIVES(0, channel_join(core, "family", NULL));

    for (int round = 0; round < 3; round++) {
        pid_t pid = forked();
        if (pid == 0) child(hub, core);
        channel_message_t message = received(core);
        CHECK(body_is(&message, "from the child") && message.worker == 1);
        ended_well(pid);
        /* Neither the child's detach nor its destroy has reached the parent's. */
        GIVES(0, channel_send(core, "family", "still here", 10));
        message = received(core);
        CHECK(body_is(&message, "still here") && message.worker == 0);
    }
    EVENTUALLY(stats_of(hub).cores == 1);
    CHECK(stats_of(hub).subscriptions == 1);
    GIVES(0, channel_detach(core));
    GIVES(0, channel_hub_destroy(hub));
    return 0;
}
