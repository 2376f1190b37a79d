/* cmd_serve.c - `qttt serve`: the HTTP server. Thread: main, which becomes the loop thread. */
#include <stdio.h>
#include <string.h>

#include "server/cmd.h"
#include "server/log.h"
#include "server/loop.h"

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

int tt_cmd_serve(int argc, char **argv)
{
    tt_settings settings;
    tt_err err = {0};
    int status = 2;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0) {
            print_usage();
            return 0;
        }
    }
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
        tt_log_configure((tt_log_level)settings.log_level, settings.log_format == 1);
        status = tt_serve(&settings);
    }
    tt_settings_finish(&settings);
    return status;
}
