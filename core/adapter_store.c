/* adapter_store.c - see adapter_store.h. Two lists behind one mutex: orders, and what is done. */
#include "core/adapter_store.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "core/state_file.h"

typedef struct queue {
    tt_adapter_op *head, **tail;
} queue;

struct tt_adapter_store {
    tt_adapter_home home;
    char *folder; /* owned; home.folder */
    void (*wake)(void *arg);
    void *arg;
    pthread_t thread;
    pthread_mutex_t mutex; /* guards all below */
    pthread_cond_t ordered, idle;
    queue orders, done;
    bool stopping, busy;
    uint64_t serial;
};

static void append(queue *q, tt_adapter_op *op)
{
    op->next = NULL;
    *q->tail = op;
    q->tail = &op->next;
}

static tt_adapter_op *take(queue *q)
{
    tt_adapter_op *op = q->head;
    if (op != NULL) {
        q->head = op->next;
        q->tail = q->head == NULL ? &q->head : q->tail;
        op->next = NULL;
    }
    return op;
}

void tt_adapter_op_free(tt_adapter_op *op)
{
    if (op != NULL) {
        tt_adapter_image_free(op->image);
        free(op->ids);
        free(op);
    }
}

/* ---- the thread ---- */

static int by_id(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static bool is_orphan(const tt_adapter_op *op, const char *name)
{
    uint64_t id;
    if (!tt_adapter_file_id(name, &id)) {
        return tt_state_is_temporary(name);
    }
    return op->n_ids == 0 || bsearch(&id, op->ids, op->n_ids, sizeof id, by_id) == NULL;
}

/* Goes on over files that cannot be removed; the first failure is told. */
static tt_code sweep(const tt_adapter_home *home, const tt_adapter_op *op, tt_err *reterr)
{
    DIR *dir = opendir(home->folder);
    if (dir == NULL) {
        return errno == ENOENT ? TT_OK
                               : tt_fail(reterr, TT_E_IO, "cannot list the folder of adapters: %s",
                                         strerror(errno));
    }
    tt_code rc = TT_OK;
    const struct dirent *entry;
    while ((entry = readdir(dir)) != NULL) {
        tt_err err;
        if (is_orphan(op, entry->d_name) &&
            tt_state_remove(home->folder, entry->d_name, &err) != TT_OK && rc == TT_OK) {
            rc = tt_fail(reterr, err.code, "%s", err.msg);
        }
    }
    closedir(dir);
    return rc;
}

static void run(const tt_adapter_home *home, tt_adapter_op *op)
{
    switch (op->kind) {
    case TT_ADAPTER_SAVE:
        op->rc = tt_adapter_file_write(home, op->image, &op->err);
        tt_adapter_image_free(op->image); /* megabytes that nobody needs any more */
        op->image = NULL;
        break;
    case TT_ADAPTER_LOAD:
        op->rc = tt_adapter_file_read(home, op->id, &op->image, &op->err);
        break;
    case TT_ADAPTER_REMOVE:
        op->rc = tt_adapter_file_remove(home, op->id, &op->err);
        break;
    case TT_ADAPTER_KEEP:
        op->rc = sweep(home, op, &op->err);
        break;
    }
}

static void *store_main(void *arg)
{
    tt_adapter_store *s = arg;
    pthread_mutex_lock(&s->mutex);
    for (;;) {
        tt_adapter_op *op = take(&s->orders);
        if (op == NULL && s->stopping) {
            break;
        }
        if (op == NULL) {
            s->busy = false;
            pthread_cond_broadcast(&s->idle);
            pthread_cond_wait(&s->ordered, &s->mutex);
            continue;
        }
        s->busy = true;
        pthread_mutex_unlock(&s->mutex);
        run(&s->home, op);
        pthread_mutex_lock(&s->mutex);
        append(&s->done, op);
        pthread_mutex_unlock(&s->mutex);
        s->wake(s->arg);
        pthread_mutex_lock(&s->mutex);
    }
    s->busy = false;
    pthread_mutex_unlock(&s->mutex);
    return NULL;
}

/* ---- its life ---- */

static void destroy_parts(tt_adapter_store *s)
{
    for (tt_adapter_op *op; (op = take(&s->done)) != NULL;) {
        tt_adapter_op_free(op);
    }
    pthread_cond_destroy(&s->ordered);
    pthread_cond_destroy(&s->idle);
    pthread_mutex_destroy(&s->mutex);
    free(s->folder);
    free(s);
}

tt_code tt_adapter_store_create(const tt_adapter_home *home, void (*wake)(void *arg), void *arg,
                                tt_adapter_store **ret_store, tt_err *reterr)
{
    tt_adapter_store *s = calloc(1, sizeof *s);
    char *folder = strdup(home->folder);
    if (s == NULL || folder == NULL) {
        free(s);
        free(folder);
        return tt_fail(reterr, TT_E_NOMEM, "no memory for the store of adapters");
    }
    s->folder = folder;
    s->home = (tt_adapter_home){.folder = folder, .model = home->model};
    s->wake = wake;
    s->arg = arg;
    s->orders.tail = &s->orders.head;
    s->done.tail = &s->done.head;
    pthread_mutex_init(&s->mutex, NULL);
    pthread_cond_init(&s->ordered, NULL);
    pthread_cond_init(&s->idle, NULL);
    if (pthread_create(&s->thread, NULL, store_main, s) != 0) {
        destroy_parts(s);
        return tt_fail(reterr, TT_E_NOMEM, "cannot start the thread of the adapters' files");
    }
    *ret_store = s;
    return TT_OK;
}

void tt_adapter_store_destroy(tt_adapter_store **store)
{
    tt_adapter_store *s = *store;
    *store = NULL;
    if (s == NULL) {
        return;
    }
    pthread_mutex_lock(&s->mutex);
    s->stopping = true;
    pthread_cond_signal(&s->ordered);
    pthread_mutex_unlock(&s->mutex);
    pthread_join(s->thread, NULL);
    destroy_parts(s);
}

/* ---- orders ---- */

static tt_code order(tt_adapter_store *s, const tt_adapter_op *what, uint64_t *ret_serial,
                     tt_err *reterr)
{
    tt_adapter_op *op = malloc(sizeof *op);
    if (op == NULL) {
        return tt_fail(reterr, TT_E_NOMEM, "no memory for an order to the store of adapters");
    }
    *op = *what;
    pthread_mutex_lock(&s->mutex);
    op->serial = ++s->serial;
    *ret_serial = op->serial;
    s->busy = true;
    append(&s->orders, op);
    pthread_cond_signal(&s->ordered);
    pthread_mutex_unlock(&s->mutex);
    return TT_OK;
}

tt_code tt_adapter_store_save(tt_adapter_store *s, tt_adapter_image *img, uint64_t *ret_serial,
                              tt_err *reterr)
{
    return order(s, &(tt_adapter_op){.kind = TT_ADAPTER_SAVE, .id = img->id, .image = img},
                 ret_serial, reterr);
}

tt_code tt_adapter_store_load(tt_adapter_store *s, uint64_t id, uint64_t *ret_serial,
                              tt_err *reterr)
{
    return order(s, &(tt_adapter_op){.kind = TT_ADAPTER_LOAD, .id = id}, ret_serial, reterr);
}

void tt_adapter_store_remove(tt_adapter_store *s, uint64_t id)
{
    uint64_t serial;
    tt_err err;
    (void)order(s, &(tt_adapter_op){.kind = TT_ADAPTER_REMOVE, .id = id}, &serial, &err);
}

void tt_adapter_store_keep(tt_adapter_store *s, const uint64_t *ids, size_t n)
{
    uint64_t serial, *copy = malloc((n + 1) * sizeof *copy);
    tt_err err;
    if (copy == NULL) {
        return;
    }
    if (n > 0) {
        memcpy(copy, ids, n * sizeof *copy);
        qsort(copy, n, sizeof *copy, by_id);
    }
    tt_adapter_op op = {.kind = TT_ADAPTER_KEEP, .ids = copy, .n_ids = n};
    if (order(s, &op, &serial, &err) != TT_OK) {
        free(copy);
    }
}

tt_adapter_op *tt_adapter_store_next(tt_adapter_store *s)
{
    pthread_mutex_lock(&s->mutex);
    tt_adapter_op *op = take(&s->done);
    pthread_mutex_unlock(&s->mutex);
    return op;
}

void tt_adapter_store_flush(tt_adapter_store *s)
{
    pthread_mutex_lock(&s->mutex);
    while (s->busy) {
        pthread_cond_wait(&s->idle, &s->mutex);
    }
    pthread_mutex_unlock(&s->mutex);
}
