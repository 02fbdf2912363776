// Frees blocks of several sizes, by the thread that has them or by another one, and says how many of which size, and
// how many were freed because realloc moved them.
//
// Usage: frees THREADS ROUNDS [wait]. Some blocks of each size are never freed.

#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SIZES 9
#define KINDS 4096
#define PASSED 16

static const size_t sizes[SIZES] = {
    40960, 65536, 100000, 200000, 262145, 300000, 1 << 20, 3 << 20, 5000001,
};

// A block and what could be used of it when its place was given to it.
struct block {
    char *start;
    size_t usable;
};

struct kind {
    size_t usable;
    unsigned long count;
};

static struct kind freed[KINDS], moved[KINDS];
static struct block passing[PASSED];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned long rounds;
static volatile size_t too_large = (size_t)-1 / 4;

// Both with the lock held.
static void count(struct kind *kinds, size_t usable) {
    int kind = 0;
    while (kinds[kind].count && kinds[kind].usable != usable) {
        if (++kind == KINDS) {
            abort();
        }
    }
    kinds[kind].usable = usable;
    kinds[kind].count++;
}

static void release(struct block block) {
    if (block.start) {
        count(freed, block.usable);
        free(block.start);
    }
}

static struct block allocate(size_t size) {
    struct block block = {malloc(size), 0};
    if (!block.start) {
        abort();
    }
    block.usable = malloc_usable_size(block.start);
    memset(block.start, 1, size);
    return block;
}

// A block that moves is freed by that.
static struct block grow(struct block block, size_t size) {
    char *grown = realloc(block.start, size);
    if (!grown) {
        abort();
    }
    if (grown != block.start) {
        pthread_mutex_lock(&lock);
        count(moved, block.usable);
        pthread_mutex_unlock(&lock);
        block = (struct block){grown, malloc_usable_size(grown)};
    }
    return block;
}

static void *run(void *number) {
    for (unsigned long round = 0; round < rounds; round++) {
        for (int n = 0; n < SIZES; n++) {
            struct block own = allocate(sizes[n]), handed = allocate(sizes[n]);
            free(allocate(100 + 900 * n).start);
            // What fails leaves the block where it is.
            if (n % 4 == 0 && realloc(own.start, too_large)) {
                abort();
            }
            if (n % 3 == 0) {
                own = grow(own, 2 * sizes[n]);
            }
            int place = (int)((round * SIZES + n + (unsigned long)number) % PASSED);
            pthread_mutex_lock(&lock);
            release(passing[place]);
            passing[place] = handed;
            if (round % 8 != 7) {
                release(own);
            }
            pthread_mutex_unlock(&lock);
        }
    }
    return NULL;
}

static void print(const char *name, const struct kind *kinds) {
    printf(",\"%s\":[", name);
    for (int kind = 0; kind < KINDS && kinds[kind].count; kind++) {
        printf("%s[%zu,%lu]", kind ? "," : "", kinds[kind].usable, kinds[kind].count);
    }
    printf("]");
}

int main(int argc, char **argv) {
    pthread_t threads[64];
    unsigned long many = strtoul(argv[1], NULL, 10);
    rounds = strtoul(argv[2], NULL, 10);
    if (argc > 3) {
        getchar();
    }
    for (unsigned long n = 0; n < many && n < 64; n++) {
        pthread_create(&threads[n], NULL, run, (void *)n);
    }
    for (unsigned long n = 0; n < many && n < 64; n++) {
        pthread_join(threads[n], NULL);
    }
    printf("{\"pid\":%d", (int)getpid());
    print("freed", freed);
    print("moved", moved);
    printf("}\n");
    return 0;
}
