/* adapter_rig.h - adapters of random bits over a model of dimensions alone, and a folder for their
 * files. Everything here asserts. Thread: main. */
#ifndef TT_TEST_ADAPTER_RIG_H
#define TT_TEST_ADAPTER_RIG_H

#include "core/adapter.h"

enum { RIG_HIDDEN = 6, RIG_NQ = 8, RIG_LAYERS = 5, RIG_RANK = 3 };

extern tt_model rig_model; /* fingerprint 7 */
extern tt_device rig_device;
extern char rig_folder[256]; /* of the files; does not exist at first */

int rig_set_up(void **state);
int rig_tear_down(void **state);

/* A published adapter of noise out of a seed. layers: bit set, 0 = all. */
tt_adapter *rig_adapter(tt_adapter_kind kind, uint8_t layers, uint64_t seed);
/* Same shape, same bits. */
bool rig_same(const tt_adapter *a, const tt_adapter *b);
/* The whole file; free() it. */
uint8_t *rig_read(const char *path, size_t *ret_n);
void rig_write(const char *path, const void *p, size_t n);
/* Files in the folder. */
int rig_count(void);

#endif
