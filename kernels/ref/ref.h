/* ref.h - the plain table: every op of ops.h, scalar C with sums in double. It is the definition that faster tables are held
 * to, and each function below is documented by its argument struct there.
 *
 * Parallel regions run over independent outputs only and no sum is split among threads or reordered by the number of rows,
 * so a row's bits depend on nothing but its own inputs. */
#ifndef TT_REF_H
#define TT_REF_H

#include "kernels/ops.h"

void tt_ops_init_ref(tt_ops *ops);

#endif
