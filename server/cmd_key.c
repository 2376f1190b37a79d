/* cmd_key.c - `qttt key`: makes, lists and removes API keys in their file (key_file.h). The file is
 * replaced whole, so that a server which reads it at any moment sees the old or the new one.
 * Thread: main. */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/cmd.h"
#include "server/key_file.h"
#include "server/settings.h"

typedef struct key_args {
    const char *action, *name, *file; /* file NULL = of the settings */
    bool replace, have_role;
    tt_key_role role;
    tt_key_limits limits;
    bool have_limit; /* any */
} key_args;

/* The file, while no other `qttt key` changes it. */
typedef struct key_edit {
    const char *path;
    char folder[PATH_MAX];
    int folder_fd; /* locked */
    bool exists;
    struct stat st;
    tt_buf text, next; /* what it holds; what it will */
    tt_key_list keys;
} key_edit;

static void print_usage(FILE *f)
{
    fprintf(
        f,
        "Usage: qttt key new NAME [--role user|admin] [--replace] [limits] [--file FILE]\n"
        "       qttt key list [--file FILE]\n"
        "       qttt key remove NAME [--file FILE]\n"
        "\n"
        "API keys of `qttt serve` (server.api_keys_file). `new` prints the secret once; the file\n"
        "holds its salted hash. A running server reads the file again on SIGHUP.\n"
        "\n"
        "  --file FILE                      the file; else server.api_keys_file of --config FILE\n"
        "  --role ROLE                      user, or admin, who also sees /v1/admin/state [user]\n"
        "  --replace                        a new secret for a key that there is; its role and\n"
        "                                   limits stay unless given\n");
    for (int i = 0; i < tt_n_key_limits; i++) {
        char flag[40];
        snprintf(flag, sizeof flag, "--%s %s", tt_key_limit_table[i].name,
                 tt_key_limit_table[i].is_size ? "SIZE" : "N");
        for (char *c = flag; *c != '\0'; c++) {
            *c = *c == '_' ? '-' : *c;
        }
        fprintf(f, "  %-32s at most so many: %s\n", flag, tt_key_limit_table[i].help);
    }
}

/* ---- arguments ---- */

static const tt_key_limit *find_limit(const char *flag, size_t n)
{
    for (int i = 0; i < tt_n_key_limits; i++) {
        const char *name = tt_key_limit_table[i].name;
        size_t k = 0;
        while (k < n && (name[k] == flag[k] || (name[k] == '_' && flag[k] == '-'))) {
            k++;
        }
        if (k == n && name[n] == '\0') {
            return &tt_key_limit_table[i];
        }
    }
    return NULL;
}

static tt_code take_flag(key_args *a, int argc, char **argv, int *i, tt_err *err)
{
    const char *arg = argv[*i] + 2, *eq = strchr(arg, '=');
    size_t n = eq != NULL ? (size_t)(eq - arg) : strlen(arg);
    const tt_key_limit *limit = find_limit(arg, n);
    bool file = n == 4 && memcmp(arg, "file", 4) == 0, role = n == 4 && memcmp(arg, "role", 4) == 0;
    if (strcmp(arg, "replace") == 0) {
        a->replace = true;
        return TT_OK;
    }
    if (limit == NULL && !file && !role) {
        return tt_fail(err, TT_E_INVALID, "unknown flag '%.60s'; see qttt key --help", argv[*i]);
    }
    const char *value = eq != NULL ? eq + 1 : *i + 1 < argc ? argv[++*i] : "";
    if (file) {
        a->file = value;
    } else if (role) {
        a->have_role = true;
        if (!tt_key_role_parse(value, &a->role)) {
            return tt_fail(err, TT_E_INVALID, "--role is '%.40s'; expected user or admin", value);
        }
    } else {
        a->have_limit = true;
        if (!tt_key_limit_set(&a->limits, limit, value)) {
            return tt_fail(err, TT_E_INVALID, "--%.*s is '%.40s'; expected a number above 0",
                           (int)n, arg, value);
        }
    }
    return TT_OK;
}

static tt_code parse_args(key_args *a, int argc, char **argv, tt_err *err)
{
    const char *words[3] = {NULL, NULL, NULL};
    int n = 0;
    for (int i = 1; i < argc; i++) {
        tt_code rc = TT_OK;
        if (strncmp(argv[i], "--", 2) == 0) {
            rc = take_flag(a, argc, argv, &i, err);
        } else if (n < 3) {
            words[n++] = argv[i];
        }
        if (rc < 0) {
            return rc;
        }
    }
    a->action = words[0] != NULL ? words[0] : "";
    a->name = words[1];
    bool list = strcmp(a->action, "list") == 0, new = strcmp(a->action, "new") == 0;
    if (!list && !new &&strcmp(a->action, "remove") != 0) {
        return tt_fail(err, TT_E_INVALID, "expected new, list or remove, not '%.40s'", a->action);
    }
    if (n != (list ? 1 : 2)) {
        return tt_fail(err, TT_E_INVALID, "key %s takes %s", a->action,
                       list ? "no name" : "one name");
    }
    if (!new && (a->replace || a->have_role || a->have_limit)) {
        return tt_fail(err, TT_E_INVALID, "--role, --replace and limits belong to key new");
    }
    if (!list && !tt_key_name_legal(a->name)) {
        return tt_fail(err, TT_E_INVALID, "the name is '%.40s'; expected 1-32 of A-Z a-z 0-9 . _ -",
                       a->name);
    }
    return TT_OK;
}

/* ---- the file ---- */

static tt_code failed(const char *path, tt_err *err)
{
    return tt_fail(err, TT_E_IO, "%.150s: %s", path, strerror(errno));
}

static tt_code read_text(key_edit *k, tt_err *err)
{
    char part[4096];
    ssize_t n;
    int fd = open(k->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return errno == ENOENT ? TT_OK : failed(k->path, err);
    }
    k->exists = fstat(fd, &k->st) == 0;
    while ((n = read(fd, part, sizeof part)) > 0) {
        tt_buf_put(&k->text, part, (size_t)n);
    }
    close(fd);
    if (n < 0 || !k->exists) {
        return failed(k->path, err);
    }
    return k->text.failed ? tt_fail(err, TT_E_NOMEM, "out of memory")
                          : tt_key_list_load(&k->keys, k->path, err);
}

static tt_code open_edit(key_edit *k, const char *path, tt_err *err)
{
    char copy[PATH_MAX];
    *k = (key_edit){.path = path, .folder_fd = -1};
    if (strlen(path) >= sizeof copy - 8) {
        return tt_fail(err, TT_E_INVALID, "the file's name is too long");
    }
    strcpy(copy, path);
    strcpy(k->folder, dirname(copy));
    k->folder_fd = open(k->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (k->folder_fd < 0 || flock(k->folder_fd, LOCK_EX) != 0) {
        return failed(k->folder, err);
    }
    return read_text(k, err);
}

static void close_edit(key_edit *k)
{
    if (k->folder_fd >= 0) {
        close(k->folder_fd);
    }
    tt_buf_finish(&k->text);
    tt_buf_finish(&k->next);
    tt_key_list_finish(&k->keys);
}

static bool write_all(int fd, const char *p, size_t n)
{
    while (n > 0) {
        ssize_t w = write(fd, p, n);
        if (w < 0 && errno == EINTR) {
            continue;
        }
        if (w <= 0) {
            return false;
        }
        p += w;
        n -= (size_t)w;
    }
    return true;
}

/* The server reads the file by its owner, group and mode: they stay, or the old file does. */
static tt_code keep_owner(const key_edit *k, int fd, tt_err *err)
{
    if (fchown(fd, k->st.st_uid, k->st.st_gid) != 0) {
        return tt_fail(err, TT_E_IO, "%.80s: its owner cannot be kept (%s); be root or user %lu",
                       k->path, strerror(errno), (unsigned long)k->st.st_uid);
    }
    return fchmod(fd, k->st.st_mode & 0640) == 0 ? TT_OK : failed(k->path, err);
}

/* A new file is for its owner alone. */
static tt_code replace_file(key_edit *k, tt_err *err)
{
    char temporary[PATH_MAX];
    if (k->next.failed) {
        return tt_fail(err, TT_E_NOMEM, "out of memory");
    }
    snprintf(temporary, sizeof temporary, "%s.XXXXXX", k->path);
    int fd = mkstemp(temporary); /* mode 0600 */
    if (fd < 0) {
        return failed(k->folder, err);
    }
    tt_code rc = write_all(fd, k->next.p, k->next.n) ? TT_OK : failed(k->path, err);
    rc = rc == TT_OK && k->exists ? keep_owner(k, fd, err) : rc;
    rc = rc == TT_OK && fsync(fd) != 0 ? failed(k->path, err) : rc;
    close(fd);
    if (rc == TT_OK && (rename(temporary, k->path) != 0 || fsync(k->folder_fd) != 0)) {
        rc = failed(k->path, err);
    }
    if (rc != TT_OK) {
        remove(temporary);
    }
    return rc;
}

/* The next text is the present one without the line of this key; the rest stays as people wrote it,
 * comments too. */
static void copy_without(key_edit *k, const char *name)
{
    if (k->text.n == 0) {
        return;
    }
    for (const char *p = k->text.p, *end = p + k->text.n; p < end;) {
        const char *stop = memchr(p, '\n', (size_t)(end - p));
        size_t n = (size_t)((stop != NULL ? stop : end) - p);
        tt_key_list one = {0};
        tt_err ignored;
        bool drop = tt_key_list_parse(&one, "", p, n, &ignored) == TT_OK && one.n == 1 &&
                    strcmp(one.v[0].name, name) == 0;
        if (!drop) {
            tt_buf_put(&k->next, p, n);
            tt_buf_putc(&k->next, '\n');
        }
        tt_key_list_finish(&one);
        p += n + 1;
    }
}

/* ---- the actions ---- */

static const tt_key *find_name(const key_edit *k, const char *name)
{
    for (int32_t i = 0; i < k->keys.n; i++) {
        if (strcmp(k->keys.v[i].name, name) == 0) {
            return &k->keys.v[i];
        }
    }
    return NULL;
}

static tt_code key_new(key_edit *k, const key_args *a, tt_err *err)
{
    char secret[TT_KEY_SECRET_BYTES];
    const tt_key *old = find_name(k, a->name);
    tt_key key = {0};
    if (old != NULL && !a->replace) {
        return tt_fail(err, TT_E_INVALID,
                       "there is a key '%s' already; --replace gives it a new "
                       "secret",
                       a->name);
    }
    if (old == NULL && a->replace) {
        return tt_fail(err, TT_E_INVALID, "there is no key '%s' to replace", a->name);
    }
    if (old != NULL) {
        key = *old;
    }
    strcpy(key.name, a->name);
    key.role = a->have_role ? a->role : key.role;
    for (int i = 0; i < tt_n_key_limits; i++) {
        const tt_key_limit *row = &tt_key_limit_table[i];
        int64_t v = tt_key_limit_get(&a->limits, row);
        if (v > 0) {
            *(int64_t *)(void *)((char *)&key.limits + row->offset) = v;
        }
    }
    tt_code rc = tt_key_secret_make(secret, key.id, err);
    rc = rc == TT_OK ? tt_key_hash_make(secret, &key.hash, err) : rc;
    if (rc == TT_OK) {
        copy_without(k, a->name);
        tt_key_write(&k->next, &key);
        tt_buf_putc(&k->next, '\n');
        rc = replace_file(k, err);
    }
    if (rc == TT_OK && (printf("%s\n", secret) < 0 || fflush(stdout) != 0)) {
        rc = tt_fail(err, TT_E_IO,
                     "the secret of '%s' could not be printed (%s), and nothing else has it: make "
                     "another with --replace",
                     a->name, strerror(errno));
    }
    return rc;
}

static tt_code key_remove(key_edit *k, const key_args *a, tt_err *err)
{
    if (find_name(k, a->name) == NULL) {
        return tt_fail(err, TT_E_INVALID, "%.100s: there is no key '%s'", k->path, a->name);
    }
    copy_without(k, a->name);
    if (k->next.n == 0) {
        tt_buf_puts(&k->next, "# no keys: every request is refused\n");
    }
    return replace_file(k, err);
}

static tt_code key_list(const key_edit *k, tt_err *err)
{
    if (!k->exists) {
        errno = ENOENT;
        return failed(k->path, err);
    }
    for (int32_t i = 0; i < k->keys.n; i++) {
        const tt_key *key = &k->keys.v[i];
        printf("%-32s %-5s sk-%s-...", key->name, tt_key_role_text(key->role), key->id);
        for (int j = 0; j < tt_n_key_limits; j++) {
            int64_t v = tt_key_limit_get(&key->limits, &tt_key_limit_table[j]);
            if (v > 0) {
                printf(" %s=%lld", tt_key_limit_table[j].name, (long long)v);
            }
        }
        printf("\n");
    }
    return TT_OK;
}

static tt_code run(const key_args *a, const char *path, tt_err *err)
{
    key_edit k;
    tt_code rc = open_edit(&k, path, err);
    if (rc == TT_OK) {
        rc = strcmp(a->action, "new") == 0      ? key_new(&k, a, err)
             : strcmp(a->action, "remove") == 0 ? key_remove(&k, a, err)
                                                : key_list(&k, err);
    }
    close_edit(&k);
    return rc;
}

int tt_cmd_key(int argc, char **argv)
{
    tt_settings settings;
    key_args a = {0};
    tt_err err = {0};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0) {
            print_usage(stdout);
            return 0;
        }
    }
    tt_code rc = tt_settings_init(&settings, &err);
    if (rc == TT_OK) { /* --config, and --api-keys-file as the server has it */
        rc = tt_settings_parse_flags(&settings, &argc, argv, &err);
    }
    rc = rc == TT_OK ? parse_args(&a, argc, argv, &err) : rc;
    const char *path = rc == TT_OK ? a.file != NULL ? a.file : settings.api_keys_file : "";
    if (rc == TT_OK && path[0] == '\0') {
        rc = tt_fail(&err, TT_E_INVALID,
                     "which file? --file FILE, or --config FILE with server.api_keys_file");
    }
    rc = rc == TT_OK ? run(&a, path, &err) : rc;
    if (rc < 0) {
        fprintf(stderr, "qttt: %s\n", err.msg);
    }
    tt_settings_finish(&settings);
    return rc == TT_OK ? 0 : rc == TT_E_INVALID ? 2 : 1;
}
