/* adapter_rig.c - see adapter_rig.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "adapter_rig.h"

tt_model rig_model = {
    .n_layers = RIG_LAYERS, .hidden = RIG_HIDDEN, .n_heads = 2, .head_dim = 4, .fingerprint = 7};
tt_device rig_device;
char rig_folder[256];
static char root[200];

int rig_set_up(void **state)
{
    tt_err err;
    const char *tmp = getenv("TMPDIR");
    snprintf(root, sizeof root, "%s/qttt-adapters-XXXXXX", tmp != NULL ? tmp : "/tmp");
    if (mkdtemp(root) == NULL) {
        return -1;
    }
    snprintf(rig_folder, sizeof rig_folder, "%s/adapters", root);
    rig_device.model = &rig_model;
    tt_ops_get(&rig_device.ops, 0);
    return rig_device.ops.lane_create(&rig_device.ops, &(tt_lane_options){.n_threads = 1},
                                      &rig_device.lane, &err);
}

static int walk(bool remove_them)
{
    char path[600];
    int n = 0;
    DIR *dir = opendir(rig_folder);
    const struct dirent *entry;
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) {
            continue;
        }
        n++;
        snprintf(path, sizeof path, "%s/%s", rig_folder, entry->d_name);
        if (remove_them) {
            unlink(path);
        }
    }
    if (dir != NULL) {
        closedir(dir);
    }
    return n;
}

int rig_tear_down(void **state)
{
    walk(true);
    rmdir(rig_folder);
    rmdir(root);
    rig_device.ops.lane_destroy(&rig_device.lane);
    return 0;
}

int rig_count(void)
{
    return walk(false);
}

static size_t tensors(const tt_adapter_layer *l, tt_dev part[2], size_t bytes[2])
{
    int64_t n[2];
    tt_adapter_sizes(&rig_model, l->kind, l->rank, n);
    part[0] = l->kind == TT_ADAPTER_FULL ? l->d : l->a;
    part[1] = l->b;
    bytes[0] = (size_t)n[0] * 2;
    bytes[1] = (size_t)n[1] * 2;
    return l->kind == TT_ADAPTER_FULL ? 1 : 2;
}

tt_adapter *rig_adapter(tt_adapter_kind kind, uint8_t layers, uint64_t seed)
{
    uint8_t set[32] = {layers};
    tt_adapter *a = NULL;
    tt_err err;
    tt_adapter_shape shape = {.kind = kind,
                              .type = TT_BF16,
                              .rank = kind == TT_ADAPTER_LORA ? RIG_RANK : 0,
                              .scale = 0.75f,
                              .layers = set};
    assert_int_equal(tt_adapter_create(&rig_device, &shape, &a, &err), TT_OK);
    for (int32_t i = 0; i < RIG_LAYERS; i++) {
        tt_dev part[2];
        size_t bytes[2];
        size_t n = tt_adapter_has(a, i) ? tensors(&a->layers[i], part, bytes) : 0;
        for (size_t k = 0; k < n; k++) {
            uint8_t noise[RIG_NQ * RIG_HIDDEN * 2];
            for (size_t j = 0; j < bytes[k]; j++) { /* every bit pattern, NaN too */
                seed = seed * 6364136223846793005u + 1442695040888963407u;
                noise[j] = (uint8_t)(seed >> 56);
            }
            rig_device.ops.upload(rig_device.lane, part[k], noise, bytes[k]);
        }
    }
    return a;
}

bool rig_same(const tt_adapter *a, const tt_adapter *b)
{
    bool same = a->n_layers == b->n_layers && a->bytes == b->bytes && a->id == b->id;
    for (int32_t i = 0; same && i < RIG_LAYERS; i++) {
        const tt_adapter_layer *x = &a->layers[i], *y = &b->layers[i];
        same = tt_adapter_has(a, i) == tt_adapter_has(b, i);
        if (!same || !tt_adapter_has(a, i)) {
            continue;
        }
        tt_dev p[2], q[2];
        size_t bytes[2];
        size_t n = tensors(x, p, bytes);
        same = x->kind == y->kind && x->type == y->type && x->rank == y->rank &&
               memcmp(&x->scale, &y->scale, sizeof x->scale) == 0;
        (void)tensors(y, q, bytes);
        for (size_t k = 0; same && k < n; k++) {
            uint8_t u[RIG_NQ * RIG_HIDDEN * 2], v[RIG_NQ * RIG_HIDDEN * 2];
            tt_err err;
            rig_device.ops.download(rig_device.lane, u, p[k], bytes[k]);
            rig_device.ops.download(rig_device.lane, v, q[k], bytes[k]);
            assert_int_equal(rig_device.ops.lane_sync(rig_device.lane, &err), TT_OK);
            same = memcmp(u, v, bytes[k]) == 0;
        }
    }
    return same;
}

uint8_t *rig_read(const char *path, size_t *ret_n)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    uint8_t *p = malloc(1 << 20);
    assert_non_null(p);
    *ret_n = fread(p, 1, 1 << 20, f);
    assert_int_equal(fclose(f), 0);
    return p;
}

void rig_write(const char *path, const void *p, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(p, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}
