// provoke spends its time on one cause.
//
// Usage: provoke memcg BYTES ROUNDS FILE  joins the cgroup whose list of processes FILE is, then maps and touches
//        provoke swap BYTES ROUNDS        touches, has the pages written to swap and touches them again
//        provoke lock BYTES ROUNDS        maps, populated, and unmaps, while three threads map and unmap
//        provoke populate BYTES ROUNDS    maps, populated, and unmaps, on CPU 0 and with a low priority
//        provoke busy                     takes CPU 0 until it is killed
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

enum { PAGE = 4096, THREADS = 3 };

static size_t bytes;
static long rounds;

static void must(int is_so, const char *what) {
    if (!is_so) {
        perror(what);
        exit(1);
    }
}

static char *map(int flags) {
    char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
    must(memory != MAP_FAILED, "mmap");
    madvise(memory, bytes, MADV_NOHUGEPAGE);
    return memory;
}

// Pages that do not compress well, and none like another.
static void touch(char *memory, unsigned long seed) {
    for (size_t at = 0; at < bytes; at += PAGE) {
        unsigned long *words = (unsigned long *)(memory + at);
        for (int i = 0; i < PAGE / 8; i += 2) {
            seed = seed * 6364136223846793005UL + 1442695040888963407UL;
            words[i] = seed;
        }
    }
}

static void memcg(const char *file) {
    int procs = open(file, O_WRONLY);
    must(procs >= 0 && write(procs, "0", 1) == 1, file);
    close(procs);
    for (long round = 0; round < rounds; round++) {
        char *memory = map(0);
        touch(memory, round);
        must(munmap(memory, bytes) == 0, "munmap");
    }
}

static void swap(void) {
    char *memory = map(0);
    touch(memory, 1);
    for (long round = 0; round < rounds; round++) {
        must(madvise(memory, bytes, MADV_PAGEOUT) == 0, "madvise");
        for (size_t at = 0; at < bytes; at += PAGE)
            ((volatile char *)memory)[at]++;
    }
    must(munmap(memory, bytes) == 0, "munmap");
}

static void populate(void) {
    for (long round = 0; round < rounds; round++)
        must(munmap(map(MAP_POPULATE), bytes) == 0, "munmap");
}

static volatile int is_over;

static void *map_small(void *unused) {
    const size_t small = 1 << 16;
    while (!is_over) {
        void *memory = mmap(NULL, small, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        must(memory != MAP_FAILED && munmap(memory, small) == 0, "mmap");
    }
    return unused;
}

static void lock(void) {
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        must(pthread_create(&threads[i], NULL, map_small, NULL) == 0, "pthread_create");
    populate();
    is_over = 1;
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
}

static void pin(void) {
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET(0, &cpus);
    must(sched_setaffinity(0, sizeof cpus, &cpus) == 0, "sched_setaffinity");
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";
    if (strcmp(mode, "busy") == 0) {
        pin();
        for (;;) {
        }
    }
    must(argc >= 4, "arguments");
    bytes = strtoul(argv[2], NULL, 10);
    rounds = atol(argv[3]);
    if (strcmp(mode, "memcg") == 0 && argc == 5)
        memcg(argv[4]);
    else if (strcmp(mode, "swap") == 0)
        swap();
    else if (strcmp(mode, "lock") == 0)
        lock();
    else if (strcmp(mode, "populate") == 0) {
        pin();
        setpriority(PRIO_PROCESS, 0, 10);
        populate();
    } else
        must(0, mode);
    printf("{\"pid\":%d}\n", getpid());
    return 0;
}
