/* A host with one thread and its own loop: master and core side by side in one epoll,
 * joining without waiting. */
#include "check.h"

#include <sys/epoll.h>

static channel_hub_t *hub;
static channel_core_t *core;
static int loop;

static void watch(int fd, uint32_t events) {
    struct epoll_event event = {.events = events, .data.fd = fd};
    CHECK(fd >= 0 && epoll_ctl(loop, EPOLL_CTL_ADD, fd, &event) == 0);
}

/* Waits once; lets the master work if it has something to do. */
static void turn(void) {
    struct epoll_event events[4];
    int count = epoll_wait(loop, events, 4, 10000);
    CHECK(count > 0);
    for (int i = 0; i < count; i++)
        if (events[i].data.fd == channel_hub_fd(hub)) CHECK(channel_hub_poll(hub, 0) >= 0);
}

static channel_id_t join(const char *name) {
    uint64_t ticket;
    channel_id_t id = 0;
    int got;
    GIVES(0, channel_join_async(core, name, &ticket));
    while ((got = channel_join_result(core, ticket, &id)) == 0) turn();
    GIVES(1, got);
    GIVES(CHANNEL_E_NO_SUCH_TICKET, channel_join_result(core, ticket, &id));
    return id;
}

/* A send is heard after some turns of the loop, and no turn is empty: turn() would fail. */
static void one_message(const char *name, channel_id_t id) {
    channel_message_t message = {.size = sizeof message};
    GIVES(0, channel_recv(core, &message));
    GIVES(0, channel_send(core, name, name, strlen(name)));
    while (channel_recv(core, &message) == 0) turn();
    CHECK(body_is(&message, name) && message.channel == id);
}

/* Without a master's turn a waiting join gives up, in a time that was configured. */
static void nobody_answers(void) {
    GIVES_TEXT(CHANNEL_E_TIMEOUT, "in time", channel_join(core, "nobody answers", NULL));
    CHECK(channel_hub_poll(hub, 0) >= 0);
}

int main(void) {
    watchdog(60);
    channel_config_t config = defaults();
    config.answer_timeout_ms = 50;
    GIVES(0, channel_hub_create(&config, &hub));
    loop = epoll_create1(0);
    watch(channel_hub_fd(hub), EPOLLIN);
    GIVES(CHANNEL_E_MASTER_RUNNING, channel_hub_start(hub));
    core = attached(hub, CHANNEL_ANY, CHANNEL_ANY);
    watch(channel_fd(core), EPOLLIN | EPOLLET);

    channel_id_t one = join("one"), two = join("two");
    CHECK(one != two && one != 0 && two != 0);
    for (int i = 0; i < 100; i++) {
        one_message("one", one);
        one_message("two", two);
    }
    nobody_answers();
    GIVES(0, channel_hub_poll(hub, 0));
    GIVES(0, channel_hub_poll(hub, 20));
    GIVES(0, channel_detach(core));
    GIVES(0, channel_hub_destroy(hub));
    close(loop);
    return 0;
}
