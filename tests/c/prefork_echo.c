/* A prefork chat server in plain C: a line from any client goes to the clients of all
 * workers. One process per worker, each an epoll loop with channel_fd in it; the
 * parent runs the master's thread and starts workers again that die.
 *
 *     prefork_echo [PORT [WORKERS]]        tests/c/prefork_echo.py drives it
 */
#define _GNU_SOURCE
#include <corecast.h>

#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_WORKERS = 64, MAX_CLIENTS = 1024, LINE = 4096 };

static int clients[MAX_CLIENTS]; /* open connections of this worker */
static int client_count;

static int must(int result, const char *what) {
    if (result < 0) errx(1, "%s: %s", what, channel_last_error());
    return result;
}

static void watch(int epoll, int fd, uint32_t events) {
    struct epoll_event event = {.events = events, .data.fd = fd};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0) err(1, "epoll_ctl");
}

/* Everything that has come for this worker, to its clients. Ends with the core armed. */
static void deliver(channel_core_t *core) {
    channel_message_t message = {.size = sizeof message};
    while (must(channel_recv(core, &message), "recv") == 1) {
        for (int i = 0; i < client_count; i++)
            send(clients[i], message.body, message.body_len, MSG_NOSIGNAL | MSG_DONTWAIT);
    }
}

static void welcome(int epoll, int listener, uint32_t worker) {
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0) return; /* another worker was faster */
    if (client_count == MAX_CLIENTS) {
        close(fd);
        return;
    }
    clients[client_count++] = fd;
    dprintf(fd, "worker %u pid %d\n", worker, (int)getpid());
    watch(epoll, fd, EPOLLIN);
}

static void farewell(int fd) {
    for (int i = 0; i < client_count; i++)
        if (clients[i] == fd) clients[i] = clients[--client_count];
    close(fd);
}

/* What a client said, to the clients of all workers. */
static void relay(channel_core_t *core, int fd) {
    char line[LINE];
    ssize_t len = recv(fd, line, sizeof line, 0);
    if (len <= 0)
        farewell(fd);
    else
        must(channel_send_timeout(core, "lines", line, (size_t)len, 1000), "send");
}

static void serve(channel_hub_t *hub, int listener, uint32_t worker) {
    channel_core_t *core;
    must(channel_attach(hub, worker, 0, &core), "attach");
    must(channel_join(core, "lines", NULL), "join");

    int epoll = epoll_create1(EPOLL_CLOEXEC);
    watch(epoll, listener, EPOLLIN);
    watch(epoll, channel_fd(core), EPOLLIN | EPOLLET);
    for (;;) {
        deliver(core);
        struct epoll_event events[64];
        int count = epoll_wait(epoll, events, 64, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == listener)
                welcome(epoll, listener, worker);
            else if (fd != channel_fd(core))
                relay(core, fd);
        }
    }
}

static pid_t start_worker(channel_hub_t *hub, int listener, uint32_t worker) {
    pid_t pid = fork();
    if (pid != 0) return pid;
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    serve(hub, listener, worker);
    _exit(1);
}

static int listen_on(uint16_t port) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t len = sizeof at;
    int yes = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(fd, (struct sockaddr *)&at, len) < 0 || listen(fd, 128) < 0) err(1, "port %u", port);
    getsockname(fd, (struct sockaddr *)&at, &len);
    printf("listening on port %u\n", ntohs(at.sin_port));
    fflush(stdout);
    return fd;
}

int main(int argc, char **argv) {
    uint16_t port = (uint16_t)(argc > 1 ? atoi(argv[1]) : 0);
    uint32_t workers = argc > 2 ? (uint32_t)atoi(argv[2]) : 4;
    pid_t pids[MAX_WORKERS];
    if (workers > MAX_WORKERS) errx(1, "at most %d workers", MAX_WORKERS);

    sigset_t signals; /* blocked in all threads, taken by sigwait below */
    sigemptyset(&signals);
    sigaddset(&signals, SIGCHLD);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigprocmask(SIG_BLOCK, &signals, NULL);

    channel_config_t config = {.size = sizeof config};
    channel_hub_t *hub;
    channel_config_default(&config);
    config.workers = workers;
    must(channel_hub_create(&config, &hub), "create");
    must(channel_hub_start(hub), "start");

    int listener = listen_on(port), got = SIGCHLD;
    for (uint32_t i = 0; i < workers; i++) pids[i] = start_worker(hub, listener, i);
    while (got == SIGCHLD) {
        sigwait(&signals, &got);
        for (uint32_t i = 0; i < workers; i++) {
            if (got != SIGCHLD || waitpid(pids[i], NULL, WNOHANG) != pids[i]) continue;
            channel_worker_died(hub, i);
            pids[i] = start_worker(hub, listener, i);
        }
    }
    for (uint32_t i = 0; i < workers; i++) kill(pids[i], SIGTERM);
    while (wait(NULL) > 0) continue;
    return channel_hub_destroy(hub) < 0;
}
