/* init_ref.c - fills the table with the reference ops, one line each. */
#include "kernels/ref/ref.h"

void tt_ops_init_ref(tt_ops *ops)
{
    ops->isa = "ref";
}
