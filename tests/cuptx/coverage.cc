/* coverage.cc - see coverage.h. Thread: at exit. */
#include "coverage.h"

#include <cstdio>

namespace cuptx
{

static void write_kernel(const kernel *k, FILE *out)
{
    for (size_t i = 0; i < k->code.size(); i++) {
        /* A jump that is never taken is executed too, when it was reached. */
        bool jump = k->text[i].find(" bra") != std::string::npos;
        uint8_t enough = jump ? EXECUTED | SKIPPED : EXECUTED;
        const char *what = (k->marks[i] & enough) != 0 ? "ran" : "missed";
        fprintf(out, "%s %s %d %s\n", what, k->name.c_str(), k->code[i].line, k->text[i].c_str());
    }
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
