/* test_restore.c - contexts that leave the engine and come back from disk: the same bits, or the
 * same bits recomputed. argv[1]: folder of tiny models. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/kv.h"
#include "core/sysinfo.h"
#include "engine_client.h"

enum { CONTEXT = 1500, WHOLE = CONTEXT / TT_PAGE_TOKENS * TT_PAGE_TOKENS };

static char folder[256];
static atomic_int n_warnings;

static void on_warning(void *arg, const char *text)
{
    atomic_fetch_add(&n_warnings, 1);
}

static tt_engine *start(unsigned isa, bool on_disk, size_t kv_bytes)
{
    return client_start(&(tt_engine_options){.isa_mask = isa,
                                             .adapter_cache_bytes = 64 << 20,
                                             .prefill_chunk = 128,
                                             .kv_bytes = kv_bytes,
                                             .page_folder = on_disk ? folder : NULL,
                                             .page_store_bytes = 1 << 30,
                                             .on_warning = on_warning},
                        "llama.gguf", TT_ENGINE_READY);
}

static tt_job_params question(int32_t n, int32_t max_tokens)
{
    tt_job_params p = client_params(n, max_tokens);
    p.keep_context = CONTEXT;
    p.qttt.context_tokens = CONTEXT;
    return p;
}

static tt_job_params context_alone(void)
{
    tt_job_params p = question(CONTEXT, 0);
    p.kind = TT_JOB_PREFILL;
    return p;
}

static tt_engine_stats stats(tt_engine *e)
{
    tt_engine_stats st;
    tt_engine_kick(e); /* it publishes what it has */
    tt_engine_get_stats(e, &st);
    return st;
}

static void wait_saved(tt_engine *e, uint64_t bytes)
{
    double t0 = tt_sys_now();
    while (stats(e).pages_written_bytes < bytes) {
        assert_true(tt_sys_now() - t0 < 30);
        client_nap();
    }
}

/* Calls f for every file of the store. */
static int each_file(void (*f)(const char *path))
{
    char path[1024];
    int n = 0;
    DIR *d = opendir(folder);
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        DIR *in = e->d_name[0] != '.' ? opendir(path) : NULL;
        for (struct dirent *g; in != NULL && (g = readdir(in)) != NULL;) {
            char file[2048];
            snprintf(file, sizeof file, "%s/%s", path, g->d_name);
            if (g->d_name[0] != '.') {
                n++;
                f(file);
            }
        }
        if (in != NULL) {
            closedir(in);
        }
    }
    if (d != NULL) {
        closedir(d);
    }
    return n;
}

static void look_at(const char *path)
{
    assert_int_equal(access(path, R_OK), 0);
}

static void unlink_file(const char *path)
{
    assert_int_equal(unlink(path), 0);
}

static void flip_in_pages(const char *path)
{
    struct stat st;
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    assert_int_equal(stat(path, &st), 0);
    fseek(f, st.st_size / 3, SEEK_SET);
    int byte = fgetc(f);
    fseek(f, -1, SEEK_CUR);
    fputc(byte ^ 1, f);
    fclose(f);
}

static void cut_in_half(const char *path)
{
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(truncate(path, st.st_size / 2), 0);
}

static int set_up(void **state)
{
    const char *base = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/qttt_restore_XXXXXX", base != NULL ? base : "/tmp");
    assert_non_null(mkdtemp(folder));
    atomic_store(&n_warnings, 0);
    return 0;
}

static int tear_down(void **state)
{
    char path[1024];
    each_file(unlink_file);
    DIR *d = opendir(folder);
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        if (e->d_name[0] != '.') {
            rmdir(path);
        }
    }
    closedir(d);
    return rmdir(folder);
}

/* Prefills the context, has it saved, ends the engine. */
static void leave(unsigned isa)
{
    tt_engine *e = start(isa, true, 0);
    tt_job_params p = context_alone();
    assert_int_equal(client_collect(client_submit(e, &p)).last, TT_EV_DONE);
    wait_saved(e, tt_engine_page_bytes(e) * (WHOLE / TT_PAGE_TOKENS));
    assert_int_equal(stats(e).page_runs, 2);
    tt_engine_destroy(&e);
}

static client_outcome ask(tt_engine *e)
{
    tt_job_params p = question(1560, 12);
    client_outcome o = client_collect(client_submit(e, &p));
    assert_int_equal(o.last, TT_EV_DONE);
    return o;
}

static void same_bits(unsigned isa)
{
    leave(isa);
    tt_engine *never_left = start(isa, false, 0), *e = start(isa, true, 0);
    tt_job_params p = context_alone();
    assert_int_equal(tt_engine_cached_tokens(e, &p), 0);
    assert_int_equal(tt_engine_stored_tokens(e, &p), WHOLE);
    (void)client_collect(client_submit(never_left, &p));
    client_outcome want = ask(never_left), got = ask(e);
    client_same_answer(&want, &got);
    assert_int_equal(got.cached, WHOLE);
    assert_int_equal(stats(e).restored_tokens, WHOLE);
    assert_int_equal(stats(e).pages_read_bytes, tt_engine_page_bytes(e) * (WHOLE / TT_PAGE_TOKENS));
    assert_int_equal(tt_engine_cached_tokens(e, &p), WHOLE);
    got = ask(e); /* from the pool now */
    client_same_answer(&want, &got);
    assert_int_equal(stats(e).restored_tokens, WHOLE);
    tt_engine_destroy(&e);
    tt_engine_destroy(&never_left);
    assert_int_equal(atomic_load(&n_warnings), 0);
}

/* A training on a restored context is the same training. */
static void test_training_on_a_restored_context(void **state)
{
    leave(TT_ISA_ALL);
    tt_engine *never_left = start(TT_ISA_ALL, false, 0), *e = start(TT_ISA_ALL, true, 0);
    tt_job_params q = question(1560, 12);
    client_turn_on(&q, CONTEXT, 3, false);
    client_outcome want = client_collect(client_submit(never_left, &q));
    client_outcome got = client_collect(client_submit(e, &q));
    assert_int_equal(stats(e).restored_tokens, WHOLE);
    assert_true(got.qttt.kept && got.qttt.loss_first == want.qttt.loss_first &&
                got.qttt.loss_last == want.qttt.loss_last);
    client_same_answer(&want, &got);
    tt_engine_destroy(&e);
    tt_engine_destroy(&never_left);
}

static void test_bits_of_this_machine(void **state)
{
    same_bits(TT_ISA_ALL);
}

static void test_bits_of_the_reference(void **state)
{
    same_bits(0);
}

/* Kernels that sum in another order make other pages: they are not mixed. */
static void test_another_isa_recomputes(void **state)
{
    leave(0);
    tt_engine *e = start(TT_ISA_ALL, true, 0);
    if (strcmp(tt_engine_isa(e), "ref") != 0) {
        assert_int_equal(atomic_load(&n_warnings), 1);
        assert_int_equal(ask(e).cached, 0);
        assert_int_equal(stats(e).restored_tokens, 0);
    }
    tt_engine_destroy(&e);
}

static void damaged(void (*how)(const char *path), int32_t corrupt)
{
    leave(TT_ISA_ALL);
    assert_int_equal(each_file(look_at), 2);
    tt_engine *never_left = start(TT_ISA_ALL, false, 0), *e = start(TT_ISA_ALL, true, 0);
    client_outcome want = ask(never_left);
    each_file(how); /* behind the back of the engine, which knows the runs */
    client_outcome got = ask(e);
    client_same_answer(&want, &got);
    assert_true(got.cached < WHOLE);
    assert_int_equal(stats(e).page_runs_corrupt, corrupt);
    assert_int_equal(atomic_load(&n_warnings), corrupt);
    tt_engine_destroy(&e);
    for (int i = 0; i < 3; i++) { /* it is written again, and so is the second */
        e = start(TT_ISA_ALL, true, 0);
        got = ask(e);
        client_same_answer(&want, &got);
        tt_engine_destroy(&e);
    }
    assert_int_equal(got.cached, WHOLE);
    tt_engine_destroy(&never_left);
}

/* The first damaged run ends the search: the second is found by the next prompt. */
static void test_flipped_bits_recompute(void **state)
{
    damaged(flip_in_pages, 1);
}

static void test_short_files_recompute(void **state)
{
    damaged(cut_in_half, 1);
}

static void test_missing_files_recompute(void **state)
{
    damaged(unlink_file, 1);
}

/* A pool of 30 pages: the context is evicted, and comes back when it is asked for. */
static void test_an_evicted_context_comes_back(void **state)
{
    tt_engine *e = start(TT_ISA_ALL, true, 0), *never_left = start(TT_ISA_ALL, false, 0);
    size_t page = tt_engine_page_bytes(e);
    tt_engine_destroy(&e);
    e = start(TT_ISA_ALL, true, 30 * page);
    tt_job_params p = context_alone(), other = client_params(1590, 4);
    (void)client_collect(client_submit(e, &p));
    wait_saved(e, page * (WHOLE / TT_PAGE_TOKENS));
    snprintf(other.adapter_scope, sizeof other.adapter_scope, "somebody else");
    for (int i = 0; i < 2; i++) {
        (void)client_collect(client_submit(e, &other));
        assert_true(tt_engine_cached_tokens(e, &p) < WHOLE);
        assert_int_equal(tt_engine_stored_tokens(e, &p), WHOLE);
        client_outcome want = ask(never_left), got = ask(e);
        client_same_answer(&want, &got);
        assert_int_equal(got.cached, WHOLE);
    }
    assert_int_equal(stats(e).page_runs, 2); /* nothing was written twice */
    assert_int_equal(stats(e).pages_written_bytes, page * (WHOLE / TT_PAGE_TOKENS));
    tt_engine_destroy(&e);
    tt_engine_destroy(&never_left);
}

/* Many at once, more than the pool holds, all of one context and one of another. */
static void test_many_wait_for_the_same_pages(void **state)
{
    enum { N = 6 };
    tt_job *jobs[N];
    leave(TT_ISA_ALL);
    tt_engine *never_left = start(TT_ISA_ALL, false, 0);
    size_t page = tt_engine_page_bytes(never_left);
    client_outcome want = ask(never_left);
    tt_engine *e = start(TT_ISA_ALL, true, 34 * page);
    for (int i = 0; i < N; i++) {
        tt_job_params p = question(1560, 12);
        jobs[i] = client_submit(e, &p);
    }
    for (int i = 0; i < N; i++) {
        client_outcome got = client_collect(jobs[i]);
        assert_int_equal(got.last, TT_EV_DONE);
        client_same_answer(&want, &got);
    }
    assert_int_equal(stats(e).kv_pages_used, 0);
    tt_engine_destroy(&e);
    tt_engine_destroy(&never_left);
}

/* At any moment: before, while and after it waits for the disk. */
static void test_cancel_and_deadline_while_restoring(void **state)
{
    leave(TT_ISA_ALL);
    tt_engine *never_left = start(TT_ISA_ALL, false, 0);
    client_outcome want = ask(never_left);
    tt_engine_destroy(&never_left);
    for (int i = 0; i < 24; i++) {
        tt_engine *e = start(TT_ISA_ALL, true, 0);
        tt_job_params p = question(1560, 12);
        p.timeout_seconds = i % 2 == 1 ? 1e-5 * i : 0;
        tt_job *job = client_submit(e, &p);
        const char *why = "";
        for (int spin = 0; i % 2 == 0 && spin < i * 2000 && strcmp(why, "restoring") != 0; spin++) {
            (void)tt_job_position(job, &why);
        }
        if (i % 2 == 0) {
            tt_job_cancel(job, false);
            tt_engine_kick(e);
        }
        client_outcome o = client_collect(job);
        assert_true(o.last == TT_EV_DONE || o.error.code == TT_E_CANCELLED ||
                    o.error.code == TT_E_TIMEOUT);
        client_outcome got = ask(e);
        client_same_answer(&want, &got);
        assert_int_equal(stats(e).kv_pages_used, 0);
        tt_engine_destroy(&e);
    }
}

/* What is generated beside a restore, and a save, is what is generated alone. */
static void test_others_decode_on(void **state)
{
    leave(TT_ISA_ALL);
    tt_engine *e = start(TT_ISA_ALL, true, 0), *alone = start(TT_ISA_ALL, false, 0);
    tt_job_params p = client_params(100, 60);
    client_outcome want = client_collect(client_submit(alone, &p));
    tt_job *job = client_submit(e, &p);
    (void)ask(e);
    client_outcome got = client_collect(job);
    client_same_answer(&want, &got);
    tt_engine_destroy(&e);
    tt_engine_destroy(&alone);
}

/* A folder that cannot be is told, and done without. */
static void test_no_folder_no_failure(void **state)
{
    char was[256];
    snprintf(was, sizeof was, "%s", folder);
    snprintf(folder, sizeof folder, "/proc/nothing/here");
    tt_engine *e = start(TT_ISA_ALL, true, 0);
    assert_int_equal(ask(e).cached, 0);
    assert_int_equal(ask(e).cached, 1536); /* the pool works */
    double t0 = tt_sys_now();
    while (stats(e).page_write_failures < 1) {
        assert_true(tt_sys_now() - t0 < 30);
        client_nap();
    }
    assert_true(atomic_load(&n_warnings) >= 1);
    tt_engine_destroy(&e);
    snprintf(folder, sizeof folder, "%s", was);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        CASE(test_bits_of_this_machine),
        CASE(test_bits_of_the_reference),
        CASE(test_training_on_a_restored_context),
        CASE(test_another_isa_recomputes),
        CASE(test_flipped_bits_recompute),
        CASE(test_short_files_recompute),
        CASE(test_missing_files_recompute),
        CASE(test_an_evicted_context_comes_back),
        CASE(test_many_wait_for_the_same_pages),
        CASE(test_cancel_and_deadline_while_restoring),
        CASE(test_others_decode_on),
        CASE(test_no_folder_no_failure),
    };
    client_folder = argc > 1 ? argv[1] : client_folder;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
