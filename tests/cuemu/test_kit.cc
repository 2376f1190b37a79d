/* test_kit.cc - see test_kit.h. */
#include "test_kit.h"

#include <csignal>
#include <cstdlib>
#include <string>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static bool test_failed;

void kit_check(bool ok, const char *what, cuemu::place at)
{
    if (!ok) {
        printf("%s:%d: %s\n", at.file, at.line, what);
        if (getenv("KIT_FIRST_FAILURE") != nullptr) { /* mutants.py asks for no more */
            fflush(stdout);
            _exit(1);
        }
        test_failed = true;
    }
}

kit_share kit_share_asked(const char *variable)
{
    kit_share s = {0, 1};
    const char *text = getenv(variable);
    if (text != nullptr &&
        (sscanf(text, "%ld/%ld", &s.first, &s.step) != 2 || s.first < 0 || s.first >= s.step)) {
        printf("FAIL %s=%s: not a share\n", variable, text);
        exit(1);
    }
    return s;
}

int kit_main(int argc, char **argv, const kit_test *tests, size_t n_tests)
{
    int n_passed = 0, n_failed = 0, n_devices = 0;
    if (cudaGetDeviceCount(&n_devices) != cudaSuccess || n_devices == 0) {
        printf("skip: no CUDA device\n");
        return 77;
    }
    const kit_share share = kit_share_asked("KIT_SHARE_TESTS");
    for (size_t i = 0; i < n_tests; i++) {
        bool wanted =
            argc > 1 ? strcmp(argv[1], tests[i].name) == 0 : (long)i % share.step == share.first;
        if (!wanted) {
            continue;
        }
        test_failed = false;
        long live = cuemu_live();
        tests[i].run();
        kit_check(cuemu_live() == live, "device objects were left over", cuemu::here());
        printf("%s %s\n", test_failed ? "FAIL" : "ok  ", tests[i].name);
        fflush(stdout);
        test_failed ? n_failed++ : n_passed++;
    }
    printf("%d passed, %d failed\n", n_passed, n_failed);
    return n_failed != 0 || n_passed == 0;
}

struct child_end {
    int status;
    std::string said;
};

static child_end run_child(const std::function<void()> &what)
{
    int fds[2];
    fflush(stdout);
    if (pipe(fds) != 0) {
        return {};
    }
    pid_t pid = fork();
    if (pid == 0) {
        rlimit no_core = {0, 0};
        setrlimit(RLIMIT_CORE, &no_core);
        dup2(fds[1], STDERR_FILENO);
        close(fds[0]);
        close(fds[1]);
        what();
        _exit(0);
    }
    close(fds[1]);
    child_end end = {};
    char buf[4096];
    for (ssize_t n; (n = read(fds[0], buf, sizeof buf)) > 0;) {
        end.said.append(buf, (size_t)n);
    }
    close(fds[0]);
    waitpid(pid, &end.status, 0);
    return end;
}

void kit_expect_abort(const char *text, const std::function<void()> &what, cuemu::place at)
{
    child_end end = run_child(what);
    bool aborted = WIFSIGNALED(end.status) && WTERMSIG(end.status) == SIGABRT;
    if (!aborted || end.said.find(text) == std::string::npos) {
        printf("child: status %#x, said: %s\n", (unsigned)end.status, end.said.c_str());
        kit_check(false, text, at);
    }
}

void kit_expect_fault(const std::function<void()> &what, cuemu::place at)
{
    child_end end = run_child(what);
    bool faulted = WIFSIGNALED(end.status) && WTERMSIG(end.status) == SIGSEGV;
    if (!faulted && end.said.find("SEGV") == std::string::npos &&
        end.said.find("Sanitizer") == std::string::npos) {
        printf("child: status %#x, said: %s\n", (unsigned)end.status, end.said.c_str());
        kit_check(false, "a fault of memory", at);
    }
}

uint32_t kit_random::next()
{
    s = s * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(s >> 32);
}

float kit_random::uniform()
{
    return (float)(next() >> 8) * 0x1p-23f - 1.0f;
}

int kit_random::below(int n)
{
    return (int)(next() % (uint32_t)n);
}

kit_stream::kit_stream()
{
    CHECK_OK(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
}

kit_stream::~kit_stream()
{
    CHECK_OK(cudaStreamDestroy(s));
}

void kit_stream::sync()
{
    CHECK_OK(cudaStreamSynchronize(s));
}
