/* cmd_serve.c - `qttt serve`: the HTTP server. Thread: main, which becomes the loop thread. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/api_json.h"
#include "server/cmd.h"
#include "server/log.h"
#include "server/log_writer.h"
#include "server/loop.h"

enum { LOG_BUFFER_BYTES = 1 << 20 };
#define LOG_END_SECONDS 2.0 /* for what is still in the buffer at the end */

static void print_usage(void)
{
    printf(
        "Usage: qttt serve [--config FILE] [--model PATH] [flags]\n"
        "\n"
        "Serves one model over the OpenAI API until SIGTERM or Ctrl-C. Every flag is a key of the\n"
        "configuration file too (config/qttt.yaml); a flag wins. Defaults in brackets.\n"
        "\n"
        "  --config FILE                    YAML file to read first\n");
    tt_settings_print_help(NULL);
    printf("  --help                           this text\n");
}

/* The flags of settings are taken out of argv: SIGHUP needs them as they were. */
static char **copy_args(int argc, char **argv)
{
    char **copy = calloc((size_t)argc + 1, sizeof(char *));
    for (int i = 0; copy != NULL && i < argc; i++) {
        copy[i] = argv[i];
    }
    return copy;
}

static int serve(tt_settings *settings)
{
    tt_err err = {0};
    tt_log_configure((tt_log_level)settings->log_level, settings->log_format == 1);
    if (tt_log_writer_start(LOG_BUFFER_BYTES, &err) < 0) {
        fprintf(stderr, "qttt: %s\n", err.msg);
        return 1;
    }
    tt_json_watch_memory();
    int status = tt_serve(settings);
    tt_log_writer_stop(LOG_END_SECONDS);
    return status;
}

int tt_cmd_serve(int argc, char **argv)
{
    tt_settings settings;
    tt_err err = {0};
    int status = 2, given = argc;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0) {
            print_usage();
            return 0;
        }
    }
    char **args = copy_args(argc, argv);
    tt_code rc = tt_settings_init(&settings, &err);
    if (rc == TT_OK) {
        rc = tt_settings_parse_flags(&settings, &argc, argv, &err);
    }
    if (rc == TT_OK && argc > 1) {
        rc =
            tt_fail(&err, TT_E_INVALID, "unknown argument '%.80s'; see qttt serve --help", argv[1]);
    }
    if (rc == TT_OK) {
        rc = tt_settings_check(&settings, &err);
    }
    if (rc < 0) {
        fprintf(stderr, "qttt: %s\n", err.msg);
    } else {
        settings.argc = args != NULL ? given : 0;
        settings.argv = args;
        status = serve(&settings);
    }
    tt_settings_finish(&settings);
    free(args);
    return status;
}
