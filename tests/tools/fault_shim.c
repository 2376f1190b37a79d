/* fault_shim.c - LD_PRELOAD: makes the n-th read, write, fsync, rename, mmap or malloc of a process
 * fail or come short. QTTT_FAULT names a file of `struct control`, mapped shared: the test arms it,
 * disarms it and reads how many calls there were while the process runs. File calls count when
 * their file lies under `prefix`, memory calls when the program or a library of `is_counted` makes
 * them: what libc, OpenMP and C++ allocate for themselves ends the process by their own design.
 * Thread: any. Needs glibc (__libc_malloc). Test only. */
#undef _FILE_OFFSET_BITS /* it would make one name of pread and pread64 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { OFF, READ, WRITE, FSYNC, RENAME, MMAP, MALLOC };

/* The layout that tests/api/faults.py writes. */
struct control {
    _Atomic uint32_t kind;    /* 0 = nothing fails */
    _Atomic uint32_t nth;     /* the call that fails, from 1; 0 = calls are counted only */
    _Atomic uint32_t error;   /* errno; 0 = a read or write comes short by half */
    _Atomic uint32_t forever; /* all from the n-th on */
    _Atomic uint32_t count;   /* calls since it was armed */
    _Atomic uint32_t fired;
    char prefix[512];
};

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t n);

static struct control *control; /* NULL until mapped */

struct range {
    uintptr_t from, to;
};
static struct range counted[32]; /* text of the objects whose allocations count */
static int n_counted;

static bool is_counted(const char *name, bool first)
{
    static const char *const libraries[] = {"libjansson", "libsqlite3", "libmicrohttpd"};
    for (size_t i = 0; !first && i < sizeof libraries / sizeof *libraries; i++) {
        if (strstr(name, libraries[i]) != NULL) {
            return true;
        }
    }
    return first; /* the program itself comes first */
}

static int add_object(struct dl_phdr_info *info, size_t size, void *arg)
{
    int *i = arg;
    bool take = is_counted(info->dlpi_name, (*i)++ == 0);
    for (int k = 0; take && k < info->dlpi_phnum; k++) {
        const ElfW(Phdr) *h = &info->dlpi_phdr[k];
        if (h->p_type == PT_LOAD && (h->p_flags & PF_X) != 0 && n_counted < 32) {
            uintptr_t from = info->dlpi_addr + h->p_vaddr;
            counted[n_counted++] = (struct range){from, from + h->p_memsz};
        }
    }
    return 0;
}

static void *real(const char *name)
{
    return dlsym(RTLD_NEXT, name);
}

__attribute__((constructor)) static void set_up(void)
{
    const char *path = getenv("QTTT_FAULT");
    int i = 0;
    dl_iterate_phdr(add_object, &i);
    int fd = path != NULL ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0) {
        return;
    }
    void *(*map)(void *, size_t, int, int, int, off_t) = real("mmap");
    void *p = map(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    control = p != MAP_FAILED ? p : NULL;
    close(fd);
}

/* The verdict on a call that counts: 0 = it is done; else errno; -1 = short. */
static int judge(void)
{
    uint32_t n = atomic_fetch_add(&control->count, 1) + 1, nth = atomic_load(&control->nth);
    bool hit = nth != 0 && (n == nth || (n > nth && atomic_load(&control->forever) != 0));
    if (!hit) {
        return 0;
    }
    atomic_fetch_add(&control->fired, 1);
    int error = (int)atomic_load(&control->error);
    return error != 0 ? error : -1;
}

static bool armed(uint32_t kind)
{
    return control != NULL && atomic_load(&control->kind) == kind;
}

static int judge_path(uint32_t kind, const char *path)
{
    return armed(kind) && strncmp(path, control->prefix, strlen(control->prefix)) == 0 ? judge()
                                                                                       : 0;
}

static int judge_fd(uint32_t kind, int fd)
{
    char link[64], path[PATH_MAX];
    if (!armed(kind) || fd < 0) {
        return 0;
    }
    int saved = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    errno = saved;
    path[n > 0 ? n : 0] = '\0';
    return judge_path(kind, path);
}

static size_t cut(int verdict, size_t n)
{
    return verdict < 0 && n > 1 ? n / 2 : n;
}

/* ---- files ---- */

ssize_t read(int fd, void *p, size_t n)
{
    int v = judge_fd(READ, fd);
    ssize_t (*f)(int, void *, size_t) = real("read");
    errno = v > 0 ? v : errno;
    return v > 0 ? -1 : f(fd, p, cut(v, n));
}

static ssize_t any_pread(const char *name, int fd, void *p, size_t n, off_t at)
{
    int v = judge_fd(READ, fd);
    ssize_t (*f)(int, void *, size_t, off_t) = real(name);
    errno = v > 0 ? v : errno;
    return v > 0 ? -1 : f(fd, p, cut(v, n), at);
}

ssize_t pread(int fd, void *p, size_t n, off_t at)
{
    return any_pread("pread", fd, p, n, at);
}

ssize_t pread64(int fd, void *p, size_t n, off_t at)
{
    return any_pread("pread64", fd, p, n, at);
}

ssize_t write(int fd, const void *p, size_t n)
{
    int v = judge_fd(WRITE, fd);
    ssize_t (*f)(int, const void *, size_t) = real("write");
    errno = v > 0 ? v : errno;
    return v > 0 ? -1 : f(fd, p, cut(v, n));
}

static ssize_t any_pwrite(const char *name, int fd, const void *p, size_t n, off_t at)
{
    int v = judge_fd(WRITE, fd);
    ssize_t (*f)(int, const void *, size_t, off_t) = real(name);
    errno = v > 0 ? v : errno;
    return v > 0 ? -1 : f(fd, p, cut(v, n), at);
}

ssize_t pwrite(int fd, const void *p, size_t n, off_t at)
{
    return any_pwrite("pwrite", fd, p, n, at);
}

ssize_t pwrite64(int fd, const void *p, size_t n, off_t at)
{
    return any_pwrite("pwrite64", fd, p, n, at);
}

static int any_sync(const char *name, int fd)
{
    int v = judge_fd(FSYNC, fd);
    int (*f)(int) = real(name);
    errno = v != 0 ? (v > 0 ? v : EIO) : errno;
    return v != 0 ? -1 : f(fd);
}

int fsync(int fd)
{
    return any_sync("fsync", fd);
}

int fdatasync(int fd)
{
    return any_sync("fdatasync", fd);
}

int rename(const char *from, const char *to)
{
    int v = judge_path(RENAME, from);
    int (*f)(const char *, const char *) = real("rename");
    errno = v != 0 ? (v > 0 ? v : EIO) : errno;
    return v != 0 ? -1 : f(from, to);
}

static void *any_mmap(const char *name, void *p, size_t n, int prot, int flags, int fd, off_t at)
{
    int v = judge_fd(MMAP, fd);
    void *(*f)(void *, size_t, int, int, int, off_t) = real(name);
    errno = v != 0 ? (v > 0 ? v : ENOMEM) : errno;
    return v != 0 ? MAP_FAILED : f(p, n, prot, flags, fd, at);
}

void *mmap(void *p, size_t n, int prot, int flags, int fd, off_t at)
{
    return any_mmap("mmap", p, n, prot, flags, fd, at);
}

void *mmap64(void *p, size_t n, int prot, int flags, int fd, off_t at)
{
    return any_mmap("mmap64", p, n, prot, flags, fd, at);
}

/* ---- memory ---- */

static bool refuses(const void *caller)
{
    uintptr_t at = (uintptr_t)caller;
    bool counts = false;
    for (int i = 0; armed(MALLOC) && i < n_counted && !counts; i++) {
        counts = at >= counted[i].from && at < counted[i].to;
    }
    if (!counts || judge() == 0) {
        return false;
    }
    errno = ENOMEM;
    return true;
}

void *malloc(size_t n)
{
    return refuses(__builtin_return_address(0)) ? NULL : __libc_malloc(n);
}

void *calloc(size_t n, size_t size)
{
    return refuses(__builtin_return_address(0)) ? NULL : __libc_calloc(n, size);
}

void *realloc(void *p, size_t n)
{
    return refuses(__builtin_return_address(0)) ? NULL : __libc_realloc(p, n);
}
