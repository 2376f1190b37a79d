/* test_engine_adapters.c - adapters that sessions have pinned, in files: they leave memory and come
 * back with the same bits, also in another life of the engine; what is lost is said; a disk that
 * fails fails nobody's training. argv[1]: folder of tiny models. */
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

#include "core/state_file.h"
#include "core/sysinfo.h"
#include "engine_client.h"

enum { CONTEXT = 200, PROMPT = 300, ANSWER = 8 };

static char state_dir[200], adapters_dir[240];
static atomic_int warnings;

static void count_warning(void *arg, const char *text)
{
    assert_true(text[0] != '\0');
    atomic_fetch_add((atomic_int *)arg, 1);
}

static int each_file(int (*f)(const char *path))
{
    char path[600];
    int n = 0;
    DIR *dir = opendir(adapters_dir);
    const struct dirent *entry;
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        if (entry->d_name[0] != '.') {
            snprintf(path, sizeof path, "%s/%s", adapters_dir, entry->d_name);
            n += f == NULL ? !tt_state_is_temporary(path) : f(path) == 0;
        }
    }
    if (dir != NULL) {
        closedir(dir);
    }
    return n;
}

static int files(void)
{
    return each_file(NULL);
}

static int set_up(void **state)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(state_dir, sizeof state_dir, "%s/qttt-state-XXXXXX", tmp != NULL ? tmp : "/tmp");
    if (mkdtemp(state_dir) == NULL) {
        return -1;
    }
    snprintf(adapters_dir, sizeof adapters_dir, "%s/adapters", state_dir);
    atomic_store(&warnings, 0);
    return 0;
}

static int tear_down(void **state)
{
    each_file(unlink);
    rmdir(adapters_dir);
    unlink(adapters_dir); /* where it is a file */
    rmdir(state_dir);
    return 0;
}

static tt_engine *start_model(size_t adapter_bytes, const char *model)
{
    tt_engine_options o = {.isa_mask = TT_ISA_ALL,
                           .adapter_cache_bytes = adapter_bytes,
                           .adapter_folder = adapters_dir,
                           .on_warning = count_warning,
                           .on_warning_arg = &warnings};
    return client_start(&o, model, TT_ENGINE_READY);
}

static tt_engine *start(size_t adapter_bytes)
{
    return start_model(adapter_bytes, "llama.gguf");
}

static client_outcome train(tt_engine *e, uint64_t seed, bool lora)
{
    tt_job_params p = client_params(CONTEXT, 0);
    client_turn_on(&p, CONTEXT, 2, false);
    p.kind = TT_JOB_TRAIN;
    p.qttt.seed = seed;
    p.qttt.lora = lora;
    p.pin_adapter = true;
    client_outcome o = client_collect(client_submit(e, &p));
    assert_int_equal(o.last, TT_EV_DONE);
    assert_true(o.qttt.kept);
    return o;
}

static tt_job_params question(uint64_t id)
{
    tt_job_params p = client_params(PROMPT, ANSWER);
    p.adapter_id = id;
    p.qttt.context_tokens = CONTEXT;
    return p;
}

static client_outcome ask(tt_engine *e, uint64_t id)
{
    static int tenant; /* of its own: nobody's cached pages answer for the adapter */
    tt_job_params p = question(id);
    snprintf(p.adapter_scope, sizeof p.adapter_scope, "t%d", tenant++);
    return client_collect(client_submit(e, &p));
}

static tt_engine_stats stats(tt_engine *e)
{
    tt_engine_stats st;
    tt_engine_get_stats(e, &st);
    return st;
}

static void await_files(int n)
{
    for (double t0 = tt_sys_now(); files() != n && tt_sys_now() - t0 < 10;) {
        client_nap();
    }
    assert_int_equal(files(), n);
}

/* Ten adapters in a budget of two; every answer is the one that it gave when it was in memory. */
static void check_memory(bool lora)
{
    enum { N = 10 };
    tt_engine *big = start((size_t)64 << 20);
    int64_t one = train(big, 1, lora).qttt.adapter_bytes;
    tt_engine_destroy(&big);
    each_file(unlink);
    tt_engine *e = start((size_t)one * 5 / 2);
    uint64_t ids[N];
    client_outcome first[N], base = ask(e, 0);
    for (int i = 0; i < N; i++) {
        client_outcome o = train(e, (uint64_t)i + 1, lora);
        assert_true(o.qttt.durable && o.qttt.not_durable[0] == '\0');
        assert_int_equal(files(), i + 1); /* before the job has ended */
        ids[i] = o.qttt.adapter_id;
        first[i] = ask(e, ids[i]);
        assert_int_equal(first[i].last, TT_EV_DONE);
        assert_memory_not_equal(first[i].logprob, base.logprob, ANSWER * sizeof(float));
        assert_true(stats(e).adapter_bytes <= one * 5 / 2);
    }
    for (int i = 0; i < 2 * N; i++) {
        int k = i * 7 % N;
        client_outcome again = ask(e, ids[k]);
        client_same_answer(&again, &first[k]);
    }
    tt_job *jobs[N]; /* all at once: more than there is room for */
    for (int i = 0; i < N; i++) {
        tt_job_params p = question(ids[i]);
        snprintf(p.adapter_scope, sizeof p.adapter_scope, "once %d", i);
        jobs[i] = client_submit(e, &p);
    }
    for (int i = 0; i < N; i++) {
        client_outcome again = client_collect(jobs[i]);
        client_same_answer(&again, &first[i]);
    }
    for (int i = 0; i < N; i++) {
        tt_engine_unpin(e, ids[i]);
    }
    await_files(0);
    int n_lost = 0;
    for (int i = 0; i < N; i++) { /* what happens to be in memory still answers */
        client_outcome again = ask(e, ids[i]);
        if (again.error.code == TT_E_ADAPTER_LOST) {
            n_lost++;
        } else {
            client_same_answer(&again, &first[i]);
        }
    }
    assert_true(n_lost >= N - 2);
    assert_int_equal(atomic_load(&warnings), 0);
    tt_engine_destroy(&e);
}

static void test_full_adapters_leave_memory_and_come_back(void **state)
{
    check_memory(false);
}

static void test_lora_adapters_leave_memory_and_come_back(void **state)
{
    check_memory(true);
}

static void test_another_life(void **state)
{
    tt_engine *e = start(64 << 20);
    uint64_t full = train(e, 1, false).qttt.adapter_id, lora = train(e, 2, true).qttt.adapter_id;
    uint64_t nobodys = train(e, 3, true).qttt.adapter_id;
    client_outcome a = ask(e, full), b = ask(e, lora);
    tt_engine_destroy(&e);
    assert_int_equal(files(), 3); /* the end of a life unpins nothing */
    e = start(64 << 20);
    uint64_t keep[] = {lora, 77};
    client_pin(e, full);
    tt_engine_keep_adapters(e, keep, 2); /* what is pinned stays too */
    await_files(2);
    client_pin(e, lora);
    client_outcome again = ask(e, full);
    client_same_answer(&a, &again);
    again = ask(e, lora);
    client_same_answer(&b, &again);
    assert_int_equal(ask(e, nobodys).error.code, TT_E_ADAPTER_LOST);
    assert_int_equal(atomic_load(&warnings), 0);
    uint64_t fresh = train(e, 1, false).qttt.adapter_id;
    assert_true(fresh != full && fresh != lora && fresh != nobodys);
    again = ask(e, fresh); /* the same training, under an id of its own */
    client_same_answer(&a, &again);
    client_pin(e, full); /* a fork */
    tt_engine_unpin(e, full);
    again = ask(e, full);
    client_same_answer(&a, &again);
    tt_engine_unpin(e, full);
    await_files(2);
    tt_engine_destroy(&e);
}

static int spoil(const char *path)
{
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    assert_int_equal(fseek(f, -100, SEEK_END), 0);
    int c = fgetc(f);
    assert_int_equal(fseek(f, -1, SEEK_CUR), 0);
    assert_true(fputc(c ^ 1, f) != EOF);
    return fclose(f);
}

static void test_a_file_that_is_no_good(void **state)
{
    tt_engine *e = start(64 << 20);
    uint64_t id = train(e, 1, false).qttt.adapter_id;
    client_outcome base = ask(e, 0), before = ask(e, id);
    tt_engine_destroy(&e);
    assert_int_equal(each_file(spoil), 1);
    e = start(64 << 20);
    client_pin(e, id);
    client_outcome o = ask(e, id);
    assert_int_equal(o.last, TT_EV_ERROR);
    assert_int_equal(o.error.code, TT_E_ADAPTER_LOST);

    assert_non_null(strstr(o.error.msg, "damaged"));
    assert_int_equal(o.n_ids, 0);
    assert_int_equal(atomic_load(&warnings), 1);
    client_outcome other = ask(e, 0); /* others are served */
    client_same_answer(&base, &other);
    assert_int_equal(each_file(spoil), 1); /* flipped back, say from a backup */
    o = ask(e, id);

    client_same_answer(&before, &o);
    tt_job_params p = client_params(CONTEXT, 0); /* a training that would start from it */
    client_turn_on(&p, CONTEXT, 2, false);
    p.kind = TT_JOB_TRAIN;
    p.pin_adapter = true;
    p.qttt.start_adapter = id;
    tt_engine_destroy(&e);
    assert_int_equal(each_file(spoil), 1);
    e = start(64 << 20);
    client_pin(e, id);
    o = client_collect(client_submit(e, &p));
    assert_int_equal(o.error.code, TT_E_INVALID);
    assert_non_null(strstr(o.error.msg, "gone"));
    tt_engine_destroy(&e);
}

static void test_a_file_of_another_model(void **state)
{
    tt_engine *e = start(64 << 20);
    uint64_t id = train(e, 1, false).qttt.adapter_id;
    client_outcome before = ask(e, id);
    tt_engine_destroy(&e);
    e = start_model(64 << 20, "qwen3.gguf");
    client_pin(e, id);
    client_outcome o = ask(e, id);
    assert_int_equal(o.error.code, TT_E_ADAPTER_LOST);
    tt_engine_keep_adapters(e, &id, 1);
    tt_engine_destroy(&e);
    assert_int_equal(files(), 1); /* its own model may come back */
    e = start(64 << 20);
    client_pin(e, id);
    o = ask(e, id);

    client_same_answer(&before, &o);
    tt_engine_destroy(&e);
}

/* Something lies where the folder should be. */
static void test_a_disk_that_fails(void **state)
{
    FILE *f = fopen(adapters_dir, "w");
    assert_non_null(f);
    assert_int_equal(fclose(f), 0);
    tt_engine *e = start(64 << 20);
    client_outcome o = train(e, 1, false);
    assert_false(o.qttt.durable);
    assert_true(o.qttt.not_durable[0] != '\0');
    assert_int_equal(atomic_load(&warnings), 1);
    uint64_t id = o.qttt.adapter_id;
    client_outcome before = ask(e, id);
    assert_int_equal(before.last, TT_EV_DONE);
    assert_int_equal(stats(e).adapters_unsaved, 1);
    assert_int_equal(unlink(adapters_dir), 0);
    for (double t0 = tt_sys_now(); stats(e).adapters_unsaved != 0;) {
        assert_true(tt_sys_now() - t0 < 60); /* it tries every five seconds */
        client_nap();
    }
    await_files(1); /* while it is being written, it is not counted as unsaved */
    tt_engine_destroy(&e);
    e = start(64 << 20);
    client_pin(e, id);
    o = ask(e, id);

    client_same_answer(&before, &o);
    tt_engine_destroy(&e);
}

static void test_without_a_state_folder(void **state)
{
    tt_engine *e = client_start_plain();
    client_outcome o = train(e, 1, false);
    assert_true(!o.qttt.durable && o.qttt.not_durable[0] == '\0');
    assert_int_equal(stats(e).adapters_unsaved, 0);
    tt_engine_destroy(&e);
    assert_int_equal(files(), 0);
}

/* A request that trains hears of its adapter when that is on disk; who finds it known, too; a
 * request of nobody's session leaves no file. */
static void test_requests_that_train(void **state)
{
    tt_engine *e = start(64 << 20);
    tt_job_params p = client_params(PROMPT, ANSWER);
    client_turn_on(&p, CONTEXT, 2, false);
    client_outcome free_one = client_collect(client_submit(e, &p));
    assert_true(free_one.qttt.kept && !free_one.qttt.durable);
    assert_int_equal(files(), 0);
    p.pin_adapter = true;
    client_outcome o = client_collect(client_submit(e, &p));
    assert_true(o.qttt.cached && o.qttt.durable && o.qttt.adapter_id == free_one.qttt.adapter_id);
    client_same_answer(&o, &free_one);
    assert_int_equal(files(), 1);
    o = client_collect(client_submit(e, &p));
    assert_true(o.qttt.cached && o.qttt.durable);
    p.qttt.seed = 9;
    p.pin_adapter = false;
    tt_job_params q = p;
    q.pin_adapter = true;
    tt_job *a = client_submit(e, &p), *b = client_submit(e, &q); /* one training for both */
    client_outcome x = client_collect(a), y = client_collect(b);
    assert_true(x.qttt.adapter_id == y.qttt.adapter_id);
    assert_true(!x.qttt.durable && y.qttt.durable);
    assert_int_equal(files(), 2);
    tt_engine_unpin(e, y.qttt.adapter_id);
    await_files(1);
    tt_engine_unpin(e, o.qttt.adapter_id);
    tt_engine_unpin(e, o.qttt.adapter_id);
    await_files(0);
    assert_int_equal(stats(e).adapter_pinned_bytes, 0);
    tt_engine_destroy(&e);
}

/* A request keeps what it names although its session goes while the file is still to be read. */
static void test_unpinned_while_it_is_read(void **state)
{
    tt_engine *e = start(64 << 20);
    uint64_t id = train(e, 1, false).qttt.adapter_id;
    client_outcome before = ask(e, id);
    tt_engine_destroy(&e);
    for (int i = 0; i < 5; i++) {
        e = start(64 << 20);
        client_pin(e, id);
        tt_job_params p = question(id);
        tt_job *job = client_submit(e, &p);
        tt_engine_unpin(e, id);
        client_outcome o = client_collect(job);

        client_same_answer(&before, &o);
        tt_engine_destroy(&e);
        assert_int_equal(files(), 0); /* it goes once it is read */
        e = start(64 << 20);
        id = train(e, 1, false).qttt.adapter_id;
        tt_engine_destroy(&e);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
#define CASE(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
        CASE(test_full_adapters_leave_memory_and_come_back),
        CASE(test_lora_adapters_leave_memory_and_come_back),
        CASE(test_another_life),
        CASE(test_a_file_that_is_no_good),
        CASE(test_a_file_of_another_model),
        CASE(test_a_disk_that_fails),
        CASE(test_without_a_state_folder),
        CASE(test_requests_that_train),
        CASE(test_unpinned_while_it_is_read),
#undef CASE
    };
    client_folder = argc > 1 ? argv[1] : client_folder;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
