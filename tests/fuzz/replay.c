/* replay.c - runs a fuzz target over every file of its corpus folder, as an ordinary test without
 * libFuzzer. Each file is also tried in a fixed number of damaged forms (cut short, bytes changed),
 * chosen by its name, so that a build without clang still walks the error paths. Usage: replay
 * FOLDER [damaged forms per file]. Thread: main. */
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_FILE_BYTES = 1 << 24, MAX_FILES = 10000, DAMAGED_FORMS = 24 };

static char current[4096]; /* what runs now, for the signal handler */

static void die(int sig)
{
    static const char text[] = "replay: died on ";
    ssize_t n = write(STDERR_FILENO, text, sizeof text - 1);
    n = write(STDERR_FILENO, current, strlen(current));
    n = write(STDERR_FILENO, "\n", 1);
    (void)n;
    signal(sig, SIG_DFL);
    raise(sig);
}

/* The target gets an allocation of exactly `n` bytes, so that a sanitizer sees an overrun of one
 * byte. */
static int run_one(const uint8_t *data, size_t n)
{
    uint8_t *copy = malloc(n > 0 ? n : 1);
    if (copy == NULL) {
        return -1;
    }
    if (n > 0) {
        memcpy(copy, data, n);
    }
    LLVMFuzzerTestOneInput(copy, n);
    free(copy);
    return 0;
}

static uint64_t next_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static int run_damaged(uint8_t *data, size_t n, const char *path, int forms)
{
    uint64_t state = 0;
    const char *slash = strrchr(path, '/');
    for (const char *c = slash != NULL ? slash : path; *c != '\0'; c++) {
        state = state * 31 + (unsigned char)*c;
    }
    for (int i = 0; n > 0 && i < forms; i++) {
        size_t pos = next_random(&state) % n;
        if (i % 2 == 0) {
            snprintf(current, sizeof current, "%s cut to %zu bytes", path, pos);
            if (run_one(data, pos) != 0) {
                return -1;
            }
            continue;
        }
        uint8_t keep = data[pos];
        data[pos] = (uint8_t)next_random(&state);
        snprintf(current, sizeof current, "%s with byte %zu = 0x%02x", path, pos, data[pos]);
        if (run_one(data, n) != 0) {
            return -1;
        }
        data[pos] = keep;
    }
    return 0;
}

static int run_file(const char *path, int forms)
{
    FILE *f = fopen(path, "rb");
    uint8_t *data = malloc(MAX_FILE_BYTES);
    int rc = -1;
    if (f == NULL || data == NULL) {
        fprintf(stderr, "replay: %s: %s\n", path, strerror(errno));
        goto out;
    }
    size_t n = fread(data, 1, MAX_FILE_BYTES, f);
    if (ferror(f) || fgetc(f) != EOF) {
        fprintf(stderr, "replay: %s: unreadable or over %d bytes\n", path, MAX_FILE_BYTES);
        goto out;
    }
    snprintf(current, sizeof current, "%s", path);
    rc = run_one(data, n);
    if (rc == 0) {
        rc = run_damaged(data, n, path, forms);
    }
out:
    free(data);
    if (f != NULL) {
        fclose(f);
    }
    return rc;
}

static int is_visible(const struct dirent *e)
{
    return e->d_name[0] != '.';
}

int main(int argc, char **argv)
{
    if (argc < 2 || argc > 3) {
        fprintf(stderr, "usage: %s FOLDER [damaged forms per file]\n", argv[0]);
        return 2;
    }
    int forms = argc == 3 ? atoi(argv[2]) : DAMAGED_FORMS;
    struct dirent **list = NULL;
    int n = scandir(argv[1], &list, is_visible, alphasort);
    if (n <= 0 || n > MAX_FILES) { /* an empty corpus is a mistake, not a pass */
        fprintf(stderr, "replay: %s: %s\n", argv[1],
                n < 0 ? strerror(errno) : "no seeds, or too many");
        return 1;
    }
    signal(SIGSEGV, die);
    signal(SIGABRT, die);
    signal(SIGFPE, die);
    int rc = 0;
    for (int i = 0; i < n; i++) {
        char path[2048];
        snprintf(path, sizeof path, "%s/%s", argv[1], list[i]->d_name);
        if (rc == 0) {
            rc = run_file(path, forms);
        }
        free(list[i]);
    }
    free(list);
    if (rc == 0) {
        printf("%d seeds, %d damaged forms of each\n", n, forms);
    }
    return rc == 0 ? 0 : 1;
}
