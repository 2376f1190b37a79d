/* cmd.h - the commands of the program, one function each. main.c chooses by argv[1] and passes the
 * rest: argv[0] is the command's own name. Each returns the exit status: 0 done, 1 failed on the
 * way, 2 wrong usage, settings or model file, 3 the GPU is not there
 * (after one sentence on stderr). Thread: main. */
#ifndef TT_CMD_H
#define TT_CMD_H

/* qttt serve [--config FILE] [--model PATH] [flags] */
int tt_cmd_serve(int argc, char **argv);
/* qttt run --model PATH --prompt-file FILE|- [--system TEXT] [--question TEXT] [flags] */
int tt_cmd_run(int argc, char **argv);
/* qttt bench --model PATH [flags] */
int tt_cmd_bench(int argc, char **argv);
/* qttt inspect MODEL [--json] [--tensors] [--device DEVICE [--contexts N] [--tokens N] [--memory
 * SIZE]] */
int tt_cmd_inspect(int argc, char **argv);
/* qttt key new NAME | list | remove NAME [--file FILE] [flags] */
int tt_cmd_key(int argc, char **argv);

/* qttt state check DIR */
int tt_cmd_state(int argc, char **argv);

#endif
