/* cmd_state.c - `qttt state check DIR`: is what a server has kept what it wrote. Thread: main. */
#include <stdio.h>
#include <string.h>

#include "server/cmd.h"
#include "server/state_check.h"

static void print_usage(FILE *f)
{
    fprintf(f,
            "Usage: qttt state check DIR\n"
            "\n"
            "Reads everything under a state.dir and compares it with its sums: the database, its\n"
            "rows, every run of pages and every adapter. Exit status 1 when something is not what\n"
            "was written; a server that starts with it computes it again or says what is lost.\n"
            "An adapter that its session names and that the disk did not take is told, and is no\n"
            "fault.\n");
}

static void tell(void *arg, const char *fault)
{
    (void)arg;
    printf("%s\n", fault);
}

int tt_cmd_state(int argc, char **argv)
{
    tt_state_report r = {0};
    tt_err err = {0};
    if (argc == 2 && strcmp(argv[1], "--help") == 0) {
        print_usage(stdout);
        return 0;
    }
    if (argc != 3 || strcmp(argv[1], "check") != 0) {
        print_usage(stderr);
        return 2;
    }
    if (tt_state_check(argv[2], tell, NULL, &r, &err) < 0) {
        fprintf(stderr, "qttt: %s\n", err.msg);
        return 2;
    }
    printf("%lld sessions, %lld contexts, %lld jobs, %lld answers under a key\n"
           "%lld files, %lld bytes; %lld unfinished\n"
           "%lld faults, %lld adapters that were not saved\n",
           (long long)r.rows[TT_STATE_SESSION], (long long)r.rows[TT_STATE_CONTEXT],
           (long long)r.rows[TT_STATE_JOB], (long long)r.rows[TT_STATE_IDEMPOTENCY],
           (long long)r.files, (long long)r.file_bytes, (long long)r.unfinished,
           (long long)r.faults, (long long)r.lost);
    return r.faults > 0 ? 1 : 0;
}
