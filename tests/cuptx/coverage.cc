/* coverage.cc - see coverage.h. Thread: at exit. */
#include "coverage.h"

#include <cstdio>

namespace cuptx
{

static void write_kernel(const kernel *k, FILE *out)
{
    size_t n = 0;
    for (size_t i = 0; i < k->code.size(); i++) {
        bool executed = (k->marks[i] & EXECUTED) != 0;
        n += executed;
        if (!executed) {
            fprintf(out, "missed %s %d %s\n", k->name.c_str(), k->code[i].line, k->text[i].c_str());
        }
        if (k->code[i].inline_asm) {
            fprintf(out, "asm %s %d %s\n", k->name.c_str(), executed, k->text[i].c_str());
        }
    }
    fprintf(out, "kernel %s %zu %zu\n", k->name.c_str(), n, k->code.size());
}

void coverage_write(const module *m, const char *path)
{
    FILE *out = fopen(path, "a");
    if (out == nullptr) {
        fprintf(stderr, "cuptx: cannot write %s\n", path);
        return;
    }
    for (const auto &k : m->kernels) {
        write_kernel(k.get(), out);
    }
    fclose(out);
}

} // namespace cuptx
