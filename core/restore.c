/* restore.c - see restore.h: a task's pages from disk. */
#include "core/restore.h"

#include "core/page_run.h"
#include "core/sysinfo.h"

/* Keys of the whole pages that the sequence wants next. Only pages under the base are saved. */
static int32_t next_keys(const tt_task *t, tt_page_key keys[TT_RUN_PAGES])
{
    int32_t n = 0, first = t->seq.n_published, full = t->until / TT_PAGE_TOKENS;
    uint64_t parent = t->seq.key;
    while (n < TT_RUN_PAGES && first + n < full) {
        tt_page_key key = tt_seq_page_key(parent, t->seq.adapter_id, t->seq.n_base, t->ids,
                                          t->decoded, first + n);
        if (key.adapter_id != 0) {
            break;
        }
        keys[n++] = key;
        parent = tt_page_key_hash(&key);
    }
    return n;
}

/* What has been asked for in vain is not asked for again, so a task never waits twice. */
tt_code tt_restore_ask(tt_worker *w, tt_task *t)
{
    tt_page_key keys[TT_RUN_PAGES];
    const tt_seq *s = &t->seq;
    if (w->store == NULL || s->n != s->n_published * TT_PAGE_TOKENS ||
        s->n_pages != s->n_published || s->n_published < t->asked) {
        return TT_OK;
    }
    int32_t n = next_keys(t, keys);
    t->fetch = n > 0 ? tt_page_store_fetch(w->store, keys, n) : NULL;
    if (t->fetch == NULL) {
        return TT_OK;
    }
    t->asked = s->n_published + 1;
    t->asked_at = tt_sys_now();
    return (tt_code)TT_TASK_WAITING;
}

tt_code tt_restore_take(tt_worker *w, tt_task *t, tt_err *reterr)
{
    int32_t had = t->seq.n, full = t->until / TT_PAGE_TOKENS, n;
    if (!tt_page_fetch_done(t->fetch)) {
        return (tt_code)TT_TASK_WAITING;
    }
    tt_code rc = TT_OK;
    while (rc == TT_OK) {
        /* another task may have brought some of them meanwhile */
        rc = tt_seq_match(&t->seq, t->ids, t->decoded, t->until, &n, reterr);
        int32_t at = t->seq.n_published;
        if (rc != TT_OK || at >= full || t->seq.n != at * TT_PAGE_TOKENS || t->seq.n_pages != at) {
            break;
        }
        tt_page_key key =
            tt_seq_page_key(t->seq.key, t->seq.adapter_id, t->seq.n_base, t->ids, t->decoded, at);
        const void *bytes = tt_page_fetch_bytes(t->fetch, &key);
        if (bytes == NULL) {
            break;
        }
        rc = tt_seq_restore(&t->seq, t->ids + t->seq.n, t->decoded + t->seq.n, bytes, reterr);
        w->totals.restored_tokens += rc == TT_OK ? TT_PAGE_TOKENS : 0;
    }
    tt_code told = tt_prefill_found(w, t, had, reterr);
    if (rc == TT_OK) {
        tt_page_fetch_free(&t->fetch);
        t->fresh = true;
    }
    return rc == TT_OK ? told : rc;
}

int32_t tt_restore_stored(const tt_worker *w, const tt_job_params *p)
{
    uint64_t parent = tt_kv_root(p->adapter_scope);
    int32_t i = 0, full = p->n_prompt / TT_PAGE_TOKENS;
    for (; i < full; i++) {
        tt_page_key key = tt_seq_page_key(parent, p->adapter_id, p->qttt.context_tokens, p->prompt,
                                          p->decoded, i);
        if (!tt_kv_has(w->kv, &key) &&
            (w->store == NULL || key.adapter_id != 0 || !tt_page_store_has(w->store, &key))) {
            break;
        }
        parent = tt_page_key_hash(&key);
    }
    return i * TT_PAGE_TOKENS;
}

void tt_restore_forget(tt_task *t)
{
    tt_page_fetch_free(&t->fetch);
}
