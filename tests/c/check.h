/* What the C programs share: checks that say what was wrong, a watchdog, children. */
#ifndef CHECK_H
#define CHECK_H

#define _GNU_SOURCE

#include <corecast.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

/* Fails the program, with what the library says about its last error. */
#define CHECK(condition)                                                            \
    do {                                                                            \
        if (!(condition)) fail(__FILE__, __LINE__, #condition);                     \
    } while (0)

/* The call gives exactly this code. */
#define GIVES(code, call) gives(__FILE__, __LINE__, #call, (code), (call))

/* The call gives this code, and the text of the error contains all of `text`. */
#define GIVES_TEXT(code, text, call)                                                \
    do {                                                                            \
        GIVES(code, call);                                                          \
        says(__FILE__, __LINE__, (text));                                           \
    } while (0)

/* Children that are left over are the runner's to kill: it has the process group. */
static inline void fail(const char *file, int line, const char *what) {
    fprintf(stderr, "%s:%d: [%d] not so: %s; errno %s; last error: %s\n", file, line,
            (int)getpid(), what, strerror(errno), channel_last_error());
    _exit(1);
}

static inline void gives(const char *file, int line, const char *call, long long code,
                         long long got) {
    if (code == got) return;
    fprintf(stderr, "%s:%d: [%d] %s gives %lld (%s: %s), not %lld (%s)\n", file, line,
            (int)getpid(), call, got, channel_strerror((int)got), channel_last_error(), code,
            channel_strerror((int)code));
    _exit(1);
}

static inline void says(const char *file, int line, const char *text) {
    const char *said = channel_last_error();
    if (strstr(said, text)) return;
    fprintf(stderr, "%s:%d: the error says \"%s\", without \"%s\"\n", file, line, said, text);
    _exit(1);
}

/* Ends a program that hangs; a forked child needs a watchdog of its own. */
static inline void watchdog(unsigned seconds) { alarm(seconds); }

/* How much work to do: less under valgrind. */
static inline int effort(int plain, int slow) {
    const char *env = getenv("CORECAST_TEST_SLOW");
    return env && *env == '1' ? slow : plain;
}

/* A configuration to change before it is used. */
static inline channel_config_t defaults(void) {
    channel_config_t config = {.size = sizeof config};
    GIVES(0, channel_config_default(&config));
    return config;
}

/* A hub whose master runs in a thread. */
static inline channel_hub_t *started(const channel_config_t *config) {
    channel_hub_t *hub = NULL;
    GIVES(0, channel_hub_create(config, &hub));
    GIVES(0, channel_hub_start(hub));
    return hub;
}

static inline channel_core_t *attached(channel_hub_t *hub, uint32_t worker, uint32_t core) {
    channel_core_t *out = NULL;
    GIVES(0, channel_attach(hub, worker, core, &out));
    CHECK(out != NULL);
    return out;
}

static inline channel_stats_t stats_of(channel_hub_t *hub) {
    channel_stats_t stats = {.size = sizeof stats};
    GIVES(0, channel_hub_stats(hub, &stats));
    return stats;
}

/* The next message, which has to come. */
static inline channel_message_t received(channel_core_t *core) {
    channel_message_t message = {.size = sizeof message};
    GIVES(1, channel_recv_timeout(core, 20000, &message));
    return message;
}

static inline int body_is(const channel_message_t *message, const char *text) {
    return message->body_len == strlen(text) &&
           memcmp(message->body, text, message->body_len) == 0;
}

/* Forks; the child has a watchdog too, and dies with its parent's failure at the latest then. */
static inline pid_t forked(void) {
    fflush(NULL);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) watchdog(60);
    return pid;
}

/* The child has ended well. */
static inline void ended_well(pid_t pid) {
    int status = 0;
    CHECK(waitpid(pid, &status, 0) == pid);
    if (WIFSIGNALED(status)) fprintf(stderr, "child got signal %d\n", WTERMSIG(status));
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* Waits, a little at a time, until the condition holds; fails after 20 seconds. */
#define EVENTUALLY(condition)                                                       \
    do {                                                                            \
        for (int tries = 0; !(condition); tries++) {                                \
            CHECK(tries < 4000 && #condition);                                      \
            usleep(5000);                                                           \
        }                                                                           \
    } while (0)

/* How many descriptors this process has open. */
static inline int open_fds(void) {
    int count = 0;
    for (int fd = 0; fd < 4096; fd++) count += lseek(fd, 0, SEEK_CUR) >= 0 || errno != EBADF;
    return count;
}

#endif
