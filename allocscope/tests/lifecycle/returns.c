/* Counts the calls of uretprobe(2), which the kernel has a process make where its return from a function is probed, that
 * a process makes which calls for memory: 1000 blocks of 64 bytes and back, again and again for some seconds. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* arch/x86/entry/syscalls/syscall_64.tbl */
enum { URETPROBE = 335 };

static int allocate(void)
{
    void *blocks[1000];
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    for (time_t end = now.tv_sec + 2; now.tv_sec < end; clock_gettime(CLOCK_MONOTONIC, &now)) {
        for (int i = 0; i < 1000; i++)
            blocks[i] = malloc(64);
        for (int i = 0; i < 1000; i++)
            free(blocks[i]);
    }
    return blocks[0] == NULL;
}

int main(int argc, char **argv)
{
    if (argc > 1)
        return allocate();
    pid_t child = fork();
    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        execl("/proc/self/exe", argv[0], "allocate", (char *)NULL);
        return 2;
    }
    long returns = 0;
    int status;
    while (waitpid(child, &status, 0) == child && WIFSTOPPED(status)) {
        struct user_regs_struct registers;
        ptrace(PTRACE_GETREGS, child, 0, &registers);
        returns += registers.orig_rax == URETPROBE;
        ptrace(PTRACE_SYSCALL, child, 0, 0);
    }
    /* Each call stops it twice, before and behind. */
    printf("%d %ld\n", (int)child, returns / 2);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 3;
}
