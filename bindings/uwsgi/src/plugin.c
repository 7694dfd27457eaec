/* What uWSGI sees of the plugin.
 *
 * uWSGI gives its hooks for processes and threads only to plugins that serve requests, so this
 * one claims a modifier that nobody uses and refuses what comes there.
 */
#include "plugin.h"

#include <string.h>

#define MODIFIER 199

/* --------------------------------------------------- is this the right uWSGI? */

/* FNV-1a, as in uwsgiplugin.py. */
static uint64_t hash(uint64_t sum, const char *text) {
    for (; *text; text++) sum = (sum ^ (unsigned char)*text) * 0x100000001b3u;
    return sum;
}

/* What decides about the layout of uWSGI's structures: its header and its build flags. */
static uint64_t layout_of_this_uwsgi(void) {
    return hash(hash(0xcbf29ce484222325u, uwsgi_get_cflags()), uwsgi_get_dot_h());
}

/* The version that is running, out of its build flags. */
static const char *running_version(char *out, size_t size) {
    static const char key[] = "-DUWSGI_VERSION=\"\\\"";
    const char *at = strstr(uwsgi_get_cflags(), key);
    at = at ? at + sizeof key - 1 : "of an unknown version";
    snprintf(out, size, "%.*s", (int)strcspn(at, "\\\""), at);
    return out;
}

static void refuse(const char *why) {
    uwsgi_log("corecast: %s\n", why);
    exit(1);
}

/* uWSGI loads plugins unchecked; one that was built for another version reads garbage. */
static void check_uwsgi(void) {
    char why[512], version[64];
    if (layout_of_this_uwsgi() == CORECAST_UWSGI_LAYOUT) return;
    snprintf(why, sizeof why,
             "this plugin was built for uWSGI %s and this is uWSGI %s%s: build it with this "
             "very binary (make -C bindings/uwsgi UWSGI=...)",
             UWSGI_VERSION, running_version(version, sizeof version),
             strcmp(UWSGI_VERSION, version) ? "" : " with other build options");
    refuse(why);
}

static void on_load(void) {
    check_uwsgi();
    if (cc_module_announce() < 0)
        refuse("load the python plugin before this one (plugins = python3,corecast)");
    if (cc_module_mismatch()) refuse(cc_module_mismatch());
    uwsgi_string_new_list(&uwsgi.after_request_hooks, "corecast_after_request");
}

/* ------------------------------------------------------------------- the hooks */

/* Python imports modules that have an alias into each interpreter that it makes, after the
 * module `uwsgi` and before the application: that is when ours adds its functions there. */
static int init(void) {
    struct uwsgi_plugin *python = uwsgi_plugin_get("python");
    struct uwsgi_option *option = python ? python->options : NULL;
    while (option && option->name && strcmp(option->name, "pymodule-alias")) option++;
    if (!option || !option->name) refuse("the python plugin has no option pymodule-alias");
    option->func(option->name, uwsgi_str(CC_MODULE "=" CC_MODULE), option->data);
    cc_caller_init();
    return 0;
}

/* 0: in the master, or in worker 1 if there is none, before the first fork. */
static void master_fixup(int step) {
    if (step == 0 && (uwsgi.numproc > 0 || uwsgi.mules_cnt > 0)) cc_hub_open();
}

static void post_fork(void) {
    if (uwsgi.mywid > 0) cc_caller_worker();
}

static int request(struct wsgi_request *wsgi_req) {
    uwsgi_403(wsgi_req);
    return UWSGI_OK;
}

/* By name in uwsgi.after_request_hooks: in the thread of the request, its socket is closed. */
void corecast_after_request(struct wsgi_request *wsgi_req) { cc_request_ended(wsgi_req); }

struct uwsgi_plugin corecast_plugin = {
    .name = "corecast",
    .modifier1 = MODIFIER,
    .on_load = on_load,
    .options = cc_option_table,
    .init = init,
    .master_fixup = master_fixup,
    .post_fork = post_fork,
    .request = request,
    .master_cleanup = cc_hub_close,
};
