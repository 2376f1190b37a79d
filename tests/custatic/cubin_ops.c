/* cubin_ops.c - counts the machine instructions of each kernel in cubins, by operation.
 *
 *     cubin_ops FILE...
 *
 * prints a line a kernel, separated by tabs: FILE, the mangled name, the number of instructions and
 * NAME=COUNT for each row of the table below. A cubin is an ELF file; section .text.KERNEL holds
 * instructions of 16 bytes (sm_70 to sm_90), whose lowest nine bits are the operation; the three
 * bits above say where its operands come from. NVIDIA documents none of these numbers:
 * calibrate.ptx is assembled with the toolkit at hand, and its counts have to come out as its
 * comments say.
 *
 * Thread: one. */
#include <elf.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { INSTRUCTION_BYTES = 16, OPERATION_MASK = 0x1ff, MACHINE_CUDA = 190 };

static const struct {
    unsigned code;
    const char *name;
} operations[] = {
    {0x03c, "HMMA"},                                     /* mma of 16-bit operands */
    {0x03b, "LDSM"},                                     /* ldmatrix */
    {0x1ae, "LDGSTS"},                                   /* cp.async */
    {0x181, "LDG"},    {0x186, "STG"},                   /* global memory */
    {0x184, "LDS"},    {0x188, "STS"},                   /* shared memory */
    {0x183, "LDL"},    {0x187, "STL"},                   /* local memory: the stack, spills */
    {0x180, "LD"},     {0x185, "ST"},                    /* generic addresses */
    {0x029, "DADD"},   {0x028, "DMUL"}, {0x02b, "DFMA"}, /* FP64 */
    {0x189, "SHFL"},   {0x11d, "BAR"},
};
enum { N_OPERATIONS = sizeof operations / sizeof *operations };

struct image {
    const char *path;
    const unsigned char *bytes;
    size_t n;
};

static bool inside(const struct image *im, size_t offset, size_t n)
{
    return offset <= im->n && n <= im->n - offset;
}

/* Reads a whole file; false: it cannot be read. The bytes are the caller's. */
static bool read_file(const char *path, unsigned char **ret_bytes, size_t *ret_n)
{
    bool ok = false;
    long n = -1;
    unsigned char *bytes = NULL;
    FILE *f = fopen(path, "rb");
    if (f == NULL) {
        return false;
    }
    if (fseek(f, 0, SEEK_END) == 0) {
        n = ftell(f);
    }
    if (n > 0 && fseek(f, 0, SEEK_SET) == 0 && (bytes = malloc((size_t)n)) != NULL) {
        ok = fread(bytes, 1, (size_t)n, f) == (size_t)n;
    }
    fclose(f);
    if (!ok) {
        free(bytes);
        return false;
    }
    *ret_bytes = bytes;
    *ret_n = (size_t)n;
    return true;
}

static void count(const struct image *im, const char *kernel, size_t offset, size_t n)
{
    unsigned long counts[N_OPERATIONS] = {0};
    for (size_t i = 0; i + INSTRUCTION_BYTES <= n; i += INSTRUCTION_BYTES) {
        const unsigned char *p = im->bytes + offset + i;
        unsigned operation = (p[0] | (unsigned)p[1] << 8) & OPERATION_MASK;
        for (int k = 0; k < N_OPERATIONS; k++) {
            counts[k] += operations[k].code == operation;
        }
    }
    printf("%s\t%s\t%zu", im->path, kernel, n / INSTRUCTION_BYTES);
    for (int k = 0; k < N_OPERATIONS; k++) {
        printf("\t%s=%lu", operations[k].name, counts[k]);
    }
    printf("\n");
}

/* False: this is no cubin, or it ends too early. */
static bool count_all(const struct image *im)
{
    static const char text[] = ".text.";
    Elf64_Ehdr h;
    Elf64_Shdr names, s;
    if (im->n < sizeof h) {
        return false;
    }
    memcpy(&h, im->bytes, sizeof h);
    if (memcmp(h.e_ident, ELFMAG, SELFMAG) != 0 || h.e_ident[EI_CLASS] != ELFCLASS64 ||
        h.e_machine != MACHINE_CUDA || h.e_shentsize != sizeof s || h.e_shstrndx >= h.e_shnum ||
        !inside(im, h.e_shoff, (size_t)h.e_shnum * sizeof s)) {
        return false;
    }
    memcpy(&names, im->bytes + h.e_shoff + h.e_shstrndx * sizeof s, sizeof s);
    if (!inside(im, names.sh_offset, names.sh_size) || names.sh_size == 0 ||
        im->bytes[names.sh_offset + names.sh_size - 1] != '\0') {
        return false;
    }
    for (size_t i = 0; i < h.e_shnum; i++) {
        memcpy(&s, im->bytes + h.e_shoff + i * sizeof s, sizeof s);
        if (s.sh_name >= names.sh_size) {
            return false;
        }
        const char *name = (const char *)im->bytes + names.sh_offset + s.sh_name;
        if (s.sh_type == SHT_PROGBITS && strncmp(name, text, sizeof text - 1) == 0) {
            if (!inside(im, s.sh_offset, s.sh_size)) {
                return false;
            }
            count(im, name + sizeof text - 1, s.sh_offset, s.sh_size);
        }
    }
    return true;
}

int main(int argc, char **argv)
{
    int status = 0;
    for (int i = 1; i < argc; i++) {
        unsigned char *bytes;
        size_t n;
        if (!read_file(argv[i], &bytes, &n)) {
            fprintf(stderr, "%s: cannot be read\n", argv[i]);
            status = 1;
            continue;
        }
        if (!count_all(&(struct image){argv[i], bytes, n})) {
            fprintf(stderr, "%s: not a cubin\n", argv[i]);
            status = 1;
        }
        free(bytes);
    }
    return status;
}
