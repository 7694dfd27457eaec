/* A core that does not read: what happens to its messages under each overflow. */
#include "check.h"

enum { BODY = 100 };

static channel_hub_t *hub;
static channel_core_t *sender, *slow;
static uint32_t sent;

static void open_hub(uint32_t overflow) {
    channel_config_t config = defaults();
    config.overflow = overflow;
    config.workers = 2;
    config.queue_bytes = 16 << 10;
    config.lane_bytes = 16 << 10;
    config.max_message = 1 << 10;
    hub = started(&config);
    sender = attached(hub, 0, 0);
    slow = attached(hub, 1, 0);
    GIVES(0, channel_join(slow, "flood", NULL));
    sent = 0;
}

static void close_hub(void) {
    GIVES(0, channel_detach(sender));
    GIVES(0, channel_detach(slow));
    GIVES(0, channel_hub_destroy(hub));
}

/* The next numbered message; gives what the send gave. */
static int send_next(int timeout_ms) {
    char body[BODY] = {0};
    memcpy(body, &sent, sizeof sent);
    int got = timeout_ms < 0 ? channel_send(sender, "flood", body, sizeof body)
                             : channel_send_timeout(sender, "flood", body, sizeof body, timeout_ms);
    sent += got == 0;
    return got;
}

static uint32_t number_of(const channel_message_t *message) {
    uint32_t number;
    CHECK(message->body_len == BODY);
    memcpy(&number, message->body, sizeof number);
    return number;
}

/* Reads all there is; every gap in the numbers is announced by as many losses. */
static uint32_t read_all(uint32_t next) {
    channel_message_t message = {.size = sizeof message};
    int got;
    for (int turn = 0;; turn++) {
        channel_message_t some[5] = {{.size = sizeof *some}};
        if (turn % 2)
            got = channel_recv_many(slow, some, 5);
        else if ((got = channel_recv(slow, &message)) == 1)
            some[0] = message;
        if (got <= 0) break;
        for (int i = 0; i < got; i++) {
            CHECK(number_of(&some[i]) == next + some[i].lost);
            next = number_of(&some[i]) + 1;
        }
    }
    GIVES(0, got);
    return next;
}

/* The count is complete soon after the queue is empty, without another message. */
static void losses_are_told(void) {
    channel_message_t message = {.size = sizeof message};
    int got;
    EVENTUALLY((got = channel_recv(slow, &message)) != 0 ||
               channel_lost(slow) == (int64_t)stats_of(hub).lost);
    GIVES(0, got);
}

/* Sends far more than the queue holds, then one that arrives after the reading. */
static void dropping(uint32_t overflow) {
    open_hub(overflow);
    for (int round = 0; round < 3; round++) {
        uint32_t first = sent;
        while (sent < first + 2000) GIVES(0, send_next(10000));
        EVENTUALLY(stats_of(hub).messages == sent);
        CHECK(stats_of(hub).lost > 0);
        CHECK(read_all(first) <= sent);
        losses_are_told();
        GIVES(0, send_next(10000));
        channel_message_t message = received(slow);
        CHECK(number_of(&message) == sent - 1);
        GIVES(0, channel_recv(slow, &message));
    }
    close_hub();
}

/* Drop-newest keeps the oldest, and says where the others were. */
static void newest(void) {
    open_hub(CHANNEL_OVERFLOW_DROP_NEWEST);
    while (sent < 2000) GIVES(0, send_next(10000));
    EVENTUALLY(stats_of(hub).messages == sent);
    channel_message_t message = received(slow);
    CHECK(number_of(&message) == 0 && message.lost == 0);
    uint32_t next = read_all(1);
    losses_are_told();
    CHECK(next < sent && channel_lost(slow) == (int64_t)(sent - next));

    GIVES(0, send_next(10000));
    message = received(slow);
    CHECK(number_of(&message) == sent - 1 && message.lost == sent - 1 - next);
    GIVES(0, send_next(10000));
    CHECK(received(slow).lost == 0);
    close_hub();
}

/* Drop-oldest keeps the newest. */
static void oldest(void) {
    open_hub(CHANNEL_OVERFLOW_DROP_OLDEST);
    while (sent < 2000) GIVES(0, send_next(10000));
    EVENTUALLY(stats_of(hub).messages == sent);
    CHECK(read_all(0) == sent);
    CHECK(channel_lost(slow) > 0 && channel_lost(slow) == (int64_t)stats_of(hub).lost);
    close_hub();
}

/* Block loses nothing: the sender is told. */
static void block(void) {
    open_hub(CHANNEL_OVERFLOW_BLOCK);
    int got;
    while ((got = send_next(200)) == 0) CHECK(sent < 100000);
    GIVES(CHANNEL_E_TIMEOUT, got);
    GIVES_TEXT(CHANNEL_E_FULL, "lane", send_next(-1));
    static char body[BODY];
    channel_body_t many[2] = {{body, BODY}, {body, BODY}};
    int taken = channel_send_many(sender, "flood", many, 2);
    CHECK(taken == 0 || taken == CHANNEL_E_FULL);

    uint32_t refused_at = sent, next = 0;
    while (next < refused_at) {
        channel_message_t message = received(slow);
        CHECK(number_of(&message) == next++ && message.lost == 0);
    }
    GIVES(0, send_next(10000));
    channel_message_t message = received(slow);
    CHECK(number_of(&message) == refused_at);
    CHECK(channel_lost(slow) == 0 && stats_of(hub).lost == 0);
    close_hub();
}

int main(void) {
    watchdog(150);
    dropping(CHANNEL_OVERFLOW_DROP_NEWEST);
    dropping(CHANNEL_OVERFLOW_DROP_OLDEST);
    newest();
    oldest();
    block();
    return 0;
}
