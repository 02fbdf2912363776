// seccomp allows itself a dozen system calls, is killed by any other, and allocates: a probe that makes its
// target do a system call ends it. It prints what it was given: one line of JSON.
//
// Usage: seccomp ROUNDS [wait]: with wait, it begins when it reads a line, already confined.
#define _GNU_SOURCE
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <malloc.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ALLOW(call) \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##call, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
#define KILL BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS)

static struct sock_filter filter[] = {
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
    KILL,
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
    ALLOW(read),
    ALLOW(write),
    ALLOW(exit),
    ALLOW(exit_group),
    ALLOW(brk),
    ALLOW(mmap),
    ALLOW(munmap),
    ALLOW(futex),
    ALLOW(madvise),
    ALLOW(mprotect),
    ALLOW(rt_sigreturn),
    KILL,
};

static const size_t sizes[] = {40000, 100000, 200000, 300000, 1000000};
enum { SIZES = sizeof sizes / sizeof *sizes };

static void fail(const char *what) {
    fprintf(stderr, "seccomp: %s\n", what);
    exit(1);
}

static void confine(void) {
    struct sock_fprog program = {.len = sizeof filter / sizeof *filter, .filter = filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) fail("privileges can be gained");
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) != 0) fail("there is no filter");
}

// Each block is held until the next one is made, so that the heap serves some and the kernel others.
static size_t allocate(size_t size) {
    static void *held;
    void *block = malloc(size);
    if (block == NULL) fail("no memory");
    *(volatile char *)block = 1;
    size_t usable = malloc_usable_size(block);
    free(held);
    held = block;
    return usable;
}

int main(int argc, char **argv) {
    if (argc < 2) fail("usage: seccomp ROUNDS [wait]");
    static char text[4096];
    size_t rounds = strtoul(argv[1], NULL, 10), usable_bytes[SIZES] = {0};
    int pid = (int)getpid();
    // The first block asks the kernel for a random number.
    free(malloc(1));
    confine();
    char line[16];
    if (argc > 2 && read(STDIN_FILENO, line, sizeof line) <= 0) fail("no line");
    for (size_t round = 0; round < rounds; round++) {
        for (size_t n = 0; n < SIZES; n++) usable_bytes[n] += allocate(sizes[n]);
    }
    int len = snprintf(text, sizeof text, "{\"pid\":%d,\"calls\":[", pid);
    for (size_t n = 0; n < SIZES; n++) {
        len += snprintf(text + len, sizeof text - (size_t)len,
                        "%s{\"function\":\"malloc\",\"size\":%zu,\"count\":%zu,\"usable_bytes\":%zu}",
                        n == 0 ? "" : ",", sizes[n], rounds, usable_bytes[n]);
    }
    len += snprintf(text + len, sizeof text - (size_t)len, "]}\n");
    if (write(STDOUT_FILENO, text, (size_t)len) != len) return 1;
    _exit(0);
}
