#include <corecast.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void) {
    channel_hub_t *hub;
    channel_core_t *master, *worker;
    channel_config_t config = {.size = sizeof config};
    channel_message_t message = {.size = sizeof message};

    channel_config_default(&config);
    if (channel_hub_create(&config, &hub) < 0 || channel_hub_start(hub) < 0 ||
        channel_attach(hub, CHANNEL_ANY, CHANNEL_ANY, &master) < 0 ||
        channel_join(master, "greetings", NULL) < 0)
        return fprintf(stderr, "%s\n", channel_last_error()), 1;

    if (fork() == 0) { /* worker 0 */
        channel_attach(hub, 0, 0, &worker);
        channel_send(worker, "greetings", "hello", 5);
        return channel_detach(worker) < 0;
    }
    if (channel_recv_timeout(master, 5000, &message) == 1)
        printf("worker %u: %.*s\n", message.worker, (int)message.body_len,
               (const char *)message.body);
    wait(NULL);
    channel_detach(master);
    return channel_hub_destroy(hub) < 0;
}
