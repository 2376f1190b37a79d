/* main.c - the program: chooses the command by its first argument. Thread: main. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/cmd.h"

/* In the order of --help. */
static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *help;
} commands[] = {
    {"serve", tt_cmd_serve, "serve a model over the OpenAI API"},
    {"run", tt_cmd_run, "answer one prompt without a server"},
    {"bench", tt_cmd_bench, "measure this machine with a model"},
    {"state", tt_cmd_state, "verify what a server keeps on disk"},
    {"inspect", tt_cmd_inspect, "say what a model file is and what memory it needs"},
    {"key", tt_cmd_key, "make, list and remove API keys"},
};

enum { N_COMMANDS = sizeof commands / sizeof *commands };

static void print_usage(FILE *f)
{
    fprintf(f, "Usage: qttt COMMAND [flags]\n\nCommands:\n");
    for (int i = 0; i < N_COMMANDS; i++) {
        fprintf(f, "  %-9s %s\n", commands[i].name, commands[i].help);
    }
    fprintf(f, "\nqttt COMMAND --help tells the flags of a command, qttt --version the version.\n");
}

/* libgomp's threads spin for milliseconds after every parallel region, which starves whoever shares
 * the machine and burns power in an idle server. It reads its environment before main() runs, so
 * the only way to bound the spin to some 50 us is to start again with the variable set. A user's
 * own choice is kept; when the second start fails, the first goes on. */
static void bound_spinning(char **argv)
{
    if (getenv("GOMP_SPINCOUNT") == NULL && getenv("OMP_WAIT_POLICY") == NULL &&
        setenv("GOMP_SPINCOUNT", "1000", 0) == 0) {
        execv("/proc/self/exe", argv);
    }
}

int main(int argc, char **argv)
{
    bound_spinning(argv);
    const char *name = argc > 1 ? argv[1] : "";
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
        print_usage(stdout);
        return 0;
    }
    if (strcmp(name, "--version") == 0) {
        printf("qttt %s\n", TT_VERSION);
        return 0;
    }
    for (int i = 0; i < N_COMMANDS; i++) {
        if (strcmp(commands[i].name, name) == 0) {
            return commands[i].run(argc - 1, argv + 1);
        }
    }
    if (argc > 1) {
        fprintf(stderr, "qttt: unknown command '%s'\n", name);
    }
    print_usage(stderr);
    return 2;
}
