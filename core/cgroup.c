/* cgroup.c - see cgroup.h. A missing or unreadable file means "no limit here": in a container the
 * path in /proc may name a group that its mount does not show, and the groups above it still count.
 */
#include "core/cgroup.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PATH_CAP = 1024, LINE_CAP = 1024 };

const tt_cgroup_place tt_cgroup_here = {.groups = "/proc/self/cgroup", .mount = "/sys/fs/cgroup"};

/* One hierarchy: the folder that shows it and our group below it ("" = the top). */
typedef struct hierarchy {
    char root[PATH_CAP], path[PATH_CAP];
} hierarchy;

/* The first line of FOLDER/NAME without its end; false when there is none. */
static bool read_line(const char *folder, const char *name, char *buf, size_t cap)
{
    char path[2 * PATH_CAP + 64];
    int n = snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = n > 0 && (size_t)n < sizeof path ? fopen(path, "re") : NULL;
    bool got = f != NULL && fgets(buf, (int)cap, f) != NULL;
    if (f != NULL) {
        fclose(f);
    }
    if (got) {
        buf[strcspn(buf, "\n")] = '\0';
    }
    return got;
}

/* A number of bytes or microseconds; false for "max", "-1" and what is no number. */
static bool read_number(const char *folder, const char *name, uint64_t *ret)
{
    char line[64], *end;
    if (!read_line(folder, name, line, sizeof line) || line[0] < '0' || line[0] > '9') {
        return false;
    }
    *ret = strtoull(line, &end, 10);
    return *end == '\0';
}

/* The value behind KEY in a file of "KEY VALUE" lines; 0 when it is not there. */
static uint64_t read_key(const char *folder, const char *name, const char *key)
{
    char path[2 * PATH_CAP + 64], line[256];
    uint64_t v = 0;
    size_t n_key = strlen(key);
    int n = snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = n > 0 && (size_t)n < sizeof path ? fopen(path, "re") : NULL;
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        if (strncmp(line, key, n_key) == 0 && line[n_key] == ' ') {
            v = strtoull(line + n_key, NULL, 10);
            break;
        }
    }
    if (f != NULL) {
        fclose(f);
    }
    return v;
}

static bool has_controller(const char *list, const char *name)
{
    size_t n = strlen(name);
    for (const char *p = list; p != NULL; p = strchr(p, ',')) {
        p += *p == ',';
        if (strncmp(p, name, n) == 0 && (p[n] == ',' || p[n] == '\0')) {
            return true;
        }
    }
    return false;
}

static bool exists(const char *root)
{
    char path[PATH_CAP + 32];
    snprintf(path, sizeof path, "%s/cgroup.procs", root);
    return access(path, F_OK) == 0;
}

/* Finds the hierarchy that has `controller` (version 1), or the unified one (""). Without a line
 * for it in /proc the mount alone is looked at. */
static void find(const tt_cgroup_place *at, const char *controller, hierarchy *ret)
{
    char line[LINE_CAP], list[LINE_CAP] = "";
    FILE *f = fopen(at->groups, "re");
    ret->path[0] = '\0';
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        char *names = strchr(line, ':');
        char *path = names != NULL ? strchr(names + 1, ':') : NULL;
        if (path == NULL) {
            continue;
        }
        *names++ = *path++ = '\0';
        if (controller[0] == '\0' ? names[0] == '\0' : has_controller(names, controller)) {
            snprintf(list, sizeof list, "%s", names);
            /* "/../x": we are outside of what this mount shows */
            if (strcmp(path, "/") != 0 && strstr(path, "..") == NULL) {
                snprintf(ret->path, sizeof ret->path, "%.*s", PATH_CAP - 1, path);
            }
            break;
        }
    }
    if (f != NULL) {
        fclose(f);
    }
    if (controller[0] == '\0') {
        snprintf(ret->root, sizeof ret->root, "%.900s/unified", at->mount);
        if (!exists(ret->root)) {
            snprintf(ret->root, sizeof ret->root, "%.900s", at->mount);
        }
        return;
    }
    snprintf(ret->root, sizeof ret->root, "%.900s/%s", at->mount, controller);
    if (!exists(ret->root) && list[0] != '\0') { /* "cpu,cpuacct" without a link to it */
        snprintf(ret->root, sizeof ret->root, "%.500s/%.500s", at->mount, list);
    }
}

/* Calls see() for our group and all above it. */
static void walk(const hierarchy *h, void (*see)(const char *folder, void *arg), void *arg)
{
    char path[PATH_CAP], folder[2 * PATH_CAP];
    snprintf(path, sizeof path, "%s", h->path);
    for (;;) {
        snprintf(folder, sizeof folder, "%s%s", h->root, path);
        see(folder, arg);
        char *slash = strrchr(path, '/');
        if (slash == NULL) {
            return;
        }
        *slash = '\0';
    }
}

static void narrow_cpus(double quota, double period, double *least)
{
    if (quota > 0 && period > 0 && quota / period < *least) {
        *least = quota / period;
    }
}

static void see_cpus_v2(const char *folder, void *least)
{
    char line[128];
    double quota = 0, period = 0;
    if (read_line(folder, "cpu.max", line, sizeof line) &&
        sscanf(line, "%lf %lf", &quota, &period) == 2) {
        narrow_cpus(quota, period, least);
    }
}

static void see_cpus_v1(const char *folder, void *least)
{
    uint64_t quota, period;
    if (read_number(folder, "cpu.cfs_quota_us", &quota) &&
        read_number(folder, "cpu.cfs_period_us", &period)) {
        narrow_cpus((double)quota, (double)period, least);
    }
}

int tt_cgroup_cpus(const tt_cgroup_place *at)
{
    double least = INFINITY;
    hierarchy h;
    find(at, "", &h);
    walk(&h, see_cpus_v2, &least);
    find(at, "cpu", &h);
    walk(&h, see_cpus_v1, &least);
    return least < 1 << 20 ? (int)ceil(least - 1e-9) : 0;
}

static void narrow_bytes(uint64_t limit, uint64_t used, uint64_t given_back, size_t *least)
{
    used -= given_back < used ? given_back : used;
    uint64_t left = limit > used ? limit - used : 0;
    if (left < *least) {
        *least = (size_t)left;
    }
}

static void see_bytes_v2(const char *folder, void *least)
{
    uint64_t limit = UINT64_MAX, v, used;
    limit = read_number(folder, "memory.max", &v) ? v : limit;
    limit = read_number(folder, "memory.high", &v) && v < limit ? v : limit;
    if (limit != UINT64_MAX && read_number(folder, "memory.current", &used)) {
        narrow_bytes(limit, used, read_key(folder, "memory.stat", "inactive_file"), least);
    }
}

static void see_bytes_v1(const char *folder, void *least)
{
    uint64_t limit, used; /* not limited: a number near 2^63, which narrows nothing */
    if (read_number(folder, "memory.limit_in_bytes", &limit) &&
        limit < (uint64_t)INT64_MAX / 4096 * 4096 &&
        read_number(folder, "memory.usage_in_bytes", &used)) {
        narrow_bytes(limit, used, read_key(folder, "memory.stat", "total_inactive_file"), least);
    }
}

size_t tt_cgroup_free_bytes(const tt_cgroup_place *at)
{
    size_t least = SIZE_MAX;
    hierarchy h;
    find(at, "", &h);
    walk(&h, see_bytes_v2, &least);
    find(at, "memory", &h);
    walk(&h, see_bytes_v1, &least);
    return least;
}
