/* fatbin.cc - walks the container that nvcc links into a program: a wrapper that points to a
 * header, entries behind it, each PTX text or machine code for one architecture. The format is not
 * documented; the magic numbers are checked and anything unexpected is an error, not a guess.
 * Thread: any. */
#include "fatbin.h"

#include <cstdint>
#include <cstring>

namespace cuptx
{

struct fatbin_wrapper {
    uint32_t magic, version;
    const char *data;
};

struct fatbin_header {
    uint32_t magic;
    uint16_t version, header_bytes;
    uint64_t n_bytes; /* of all entries */
};

struct fatbin_entry {
    uint16_t kind, version;
    uint32_t header_bytes;
    uint64_t n_bytes; /* to the next entry */
    uint32_t compressed_bytes, options;
    uint16_t minor, major;
    uint32_t arch, name_at, name_bytes;
    uint64_t flags, zero, plain_bytes;
};

enum : uint32_t { WRAPPER_MAGIC = 0x466243b1, HEADER_MAGIC = 0xba55ed50 };
enum { KIND_PTX = 1 };

static const char HOW[] = "build with -gencode arch=compute_80,code=compute_80 and "
                          "--compress-mode=none";

std::string fatbin_ptx(const void *wrapper, std::string *ret_error)
{
    fatbin_wrapper w;
    fatbin_header h;
    memcpy(&w, wrapper, sizeof w);
    if (w.magic != WRAPPER_MAGIC) {
        *ret_error = "not a fat binary";
        return "";
    }
    memcpy(&h, w.data, sizeof h);
    if (h.magic != HEADER_MAGIC || h.header_bytes < sizeof h) {
        *ret_error = "a fat binary of unknown format";
        return "";
    }
    *ret_error = std::string("the program has no PTX: ") + HOW;
    const char *at = w.data + h.header_bytes, *end = at + h.n_bytes;
    while ((size_t)(end - at) >= sizeof(fatbin_entry)) {
        fatbin_entry e;
        memcpy(&e, at, sizeof e);
        if (e.header_bytes < sizeof e || e.n_bytes > (size_t)(end - at) - e.header_bytes) {
            *ret_error = "a fat binary of unknown format";
            return "";
        }
        if (e.kind == KIND_PTX && e.plain_bytes == 0) {
            const char *text = at + e.header_bytes;
            return std::string(text, strnlen(text, e.n_bytes));
        }
        if (e.kind == KIND_PTX) {
            *ret_error = std::string("the program's PTX is compressed: ") + HOW;
        }
        at += e.header_bytes + e.n_bytes;
    }
    return "";
}

} // namespace cuptx
