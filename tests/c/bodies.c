/* Every way to send, and bodies of every kind: empty, binary, as large as allowed. */
#include "check.h"

enum { LARGEST = 300000 };

static channel_core_t *core;
static unsigned char body[LARGEST];

static void comes_back(const char *name, channel_id_t id, size_t len) {
    channel_message_t message = received(core);
    CHECK(message.name_len == strlen(name) && memcmp(message.name, name, message.name_len) == 0);
    CHECK(message.channel == id && message.worker == 0 && message.core == 0);
    CHECK(message.body_len == len && memcmp(message.body, body, len) == 0);
    CHECK(message.lost == 0 && message.timestamp > 1500000000ull * 1000000000ull);
}

static void each_size(const char *name, channel_id_t joined, channel_id_t open) {
    size_t sizes[] = {0, 1, 7, 8, 9, 127, 128, 129, 4095, 4096, 65536, LARGEST};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size_t len = sizes[i];
        GIVES(0, channel_send(core, name, body, len));
        comes_back(name, joined, len);
        GIVES(0, channel_send_to(core, open, body, len));
        comes_back(name, joined, len);
        GIVES(0, channel_send_timeout(core, name, body, len, 1000));
        comes_back(name, joined, len);
        GIVES(0, channel_send_to_timeout(core, open, body, len, -1));
        comes_back(name, joined, len);
    }
}

static void lent(const char *name, channel_id_t joined, channel_id_t open) {
    size_t sizes[] = {0, 1, 9, 4096, LARGEST};
    void *place, *second;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size_t len = sizes[i];
        GIVES(0, channel_loan(core, name, len, 0, &place));
        memcpy(place, body, len);
        GIVES(0, channel_send_loan(core));
        comes_back(name, joined, len);
        GIVES(0, channel_loan_to(core, open, len, 1000, &place));
        memset(place, 0xee, len);
        GIVES(0, channel_loan_drop(core));
        GIVES(0, channel_loan_to(core, open, len, -1, &place));
        memcpy(place, body, len);
        GIVES(0, channel_send_loan(core));
        comes_back(name, joined, len);
    }
    GIVES(CHANNEL_E_NO_LOAN, channel_send_loan(core));
    GIVES(CHANNEL_E_NO_LOAN, channel_loan_drop(core));
    GIVES(CHANNEL_E_NULL, channel_loan(core, name, 1, 0, NULL));
    GIVES(CHANNEL_E_TOO_LARGE, channel_loan(core, name, LARGEST + 1, 0, &place));
    GIVES(0, channel_loan(core, name, 5, 0, &place));
    GIVES(CHANNEL_E_LOAN_OUT, channel_loan(core, name, 5, 0, &second));
    GIVES(CHANNEL_E_LOAN_OUT, channel_send(core, name, body, 1));
    GIVES(CHANNEL_E_LOAN_OUT, channel_leave(core, name));
    GIVES(0, channel_loan_drop(core));
}

/* A loan that is still out when its core is detached is not sent. */
static void lent_and_left(channel_hub_t *hub, const char *name) {
    channel_core_t *other;
    channel_message_t message = {.size = sizeof message};
    void *place;
    GIVES(0, channel_attach(hub, CHANNEL_ANY, CHANNEL_ANY, &other));
    GIVES(0, channel_send(other, name, body, 3));
    GIVES(0, channel_loan(other, name, 5, 0, &place));
    memset(place, 0xee, 5);
    GIVES(0, channel_detach(other));
    CHECK(received(core).body_len == 3);
    GIVES(0, channel_recv_timeout(core, 20, &message));
}

static void many(const char *name, channel_id_t joined, channel_id_t open) {
    enum { COUNT = 50 };
    channel_body_t bodies[COUNT];
    for (size_t i = 0; i < COUNT; i++) bodies[i] = (channel_body_t){body, i * 3};
    GIVES(COUNT, channel_send_many(core, name, bodies, COUNT));
    for (size_t i = 0; i < COUNT; i++) comes_back(name, joined, i * 3);
    GIVES(COUNT, channel_send_many_to(core, open, bodies, COUNT));
    for (size_t i = 0; i < COUNT; i++) comes_back(name, joined, i * 3);
}

/* The other end of channel_send_many; structs of a later version have a longer stride. */
static void many_at_once(const char *name, channel_id_t joined) {
    enum { COUNT = 50, ROOM = 20 };
    channel_body_t bodies[COUNT];
    for (size_t i = 0; i < COUNT; i++) bodies[i] = (channel_body_t){body, i * 3};
    GIVES(COUNT, channel_send_many(core, name, bodies, COUNT));
    struct {
        channel_message_t known;
        char later[16];
    } messages[ROOM];
    memset(messages, 0x55, sizeof messages);
    messages[0].known.size = sizeof *messages;
    GIVES(0, channel_recv_many(core, &messages[0].known, 0));
    for (size_t next = 0; next < COUNT;) {
        int got = channel_recv_many(core, &messages[0].known, ROOM);
        CHECK(got >= 0 && got <= ROOM);
        for (int i = 0; i < got; i++, next++) {
            channel_message_t *message = &messages[i].known;
            CHECK(message->size == sizeof *messages && message->lost == 0);
            CHECK(message->name_len == strlen(name) && message->channel == joined);
            CHECK(memcmp(message->name, name, message->name_len) == 0);
            CHECK(message->body_len == next * 3 && memcmp(message->body, body, next * 3) == 0);
            CHECK(messages[i].later[0] == 0x55 && messages[i].later[15] == 0x55);
        }
    }
    GIVES(0, channel_recv_many(core, &messages[0].known, ROOM));
    GIVES(CHANNEL_E_NULL, channel_recv_many(core, NULL, ROOM));
    messages[0].known.size = 8;
    GIVES_TEXT(CHANNEL_E_SIZE, "channel_message_t",
               channel_recv_many(core, &messages[0].known, ROOM));
}

/* More than a lane holds: some are taken, from the first, and the number says how many. */
static void more_than_fits(const char *name) {
    enum { COUNT = 40 };
    channel_body_t bodies[COUNT];
    for (size_t i = 0; i < COUNT; i++) bodies[i] = (channel_body_t){body, LARGEST - i};
    for (int done = 0; done < COUNT;) {
        int taken = channel_send_many(core, name, bodies + done, (size_t)(COUNT - done));
        if (taken == CHANNEL_E_FULL) taken = 0;
        CHECK(taken >= 0 && taken <= COUNT - done);
        for (int i = 0; i < taken; i++) {
            channel_message_t message = received(core);
            CHECK(message.body_len == (size_t)(LARGEST - done - i) && message.lost == 0);
        }
        done += taken;
    }
}

int main(void) {
    watchdog(150);
    for (size_t i = 0; i < LARGEST; i++) body[i] = (unsigned char)(i * 7 + i / 256);
    channel_config_t config = defaults();
    config.max_message = LARGEST;
    config.queue_bytes = 16 << 20;
    config.timestamps = CHANNEL_TIMESTAMPS_MESSAGE;
    channel_hub_t *hub = started(&config);
    core = attached(hub, 0, 0);

    channel_id_t joined, open;
    const char *name = "bodies";
    GIVES(0, channel_join(core, name, &joined));
    GIVES(0, channel_open(core, name, &open));
    CHECK(joined == open);
    each_size(name, joined, open);
    lent(name, joined, open);
    many(name, joined, open);
    lent_and_left(hub, name);
    many_at_once(name, joined);
    more_than_fits(name);

    /* Left, but still open: nothing is received, and the number still stands for the name. */
    GIVES(0, channel_leave(core, name));
    GIVES(0, channel_send_to(core, open, "x", 1));
    channel_message_t message = {.size = sizeof message};
    GIVES(0, channel_recv_timeout(core, 20, &message));
    GIVES(0, channel_join(core, name, &joined));
    CHECK(joined == open);
    GIVES(0, channel_close(core, open));
    GIVES(0, channel_detach(core));
    GIVES(0, channel_hub_destroy(hub));
    return 0;
}
