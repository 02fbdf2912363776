// alloc allocates in every way of the C library, from several threads, at sizes around each allocator's
// thresholds, and prints what it was given: one line of JSON.
//
// Usage: alloc THREADS ROUNDS FROM [wait]: sizes between the small ones and FROM are left out; with wait, it
// begins when it reads a line.
#define _GNU_SOURCE
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)
#define AROUND(size) (size) - 1, (size), (size) + 1

// 32 KiB: jemalloc's thread cache. 32,760: the smallest size traced by default. 128 KiB: glibc's mappings, until
// a larger one is freed. 131,052: musl's mappings. 256 KiB: tcmalloc's page heap.
static const size_t sizes[] = {
    AROUND(32760),   AROUND(32 * KIB),  40 * KIB, 60 * KIB,  AROUND(131052), AROUND(128 * KIB), 196 * KIB,
    AROUND(256 * KIB), 260 * KIB,       520 * KIB, AROUND(MIB), 3 * MIB,     AROUND(4 * MIB),
};
enum { SIZES = sizeof sizes / sizeof *sizes };

static const size_t small_sizes[] = {16, 200, 1000, 4000, 9000};
enum { SMALL_SIZES = sizeof small_sizes / sizeof *small_sizes };

// A size that no allocator maps, so that the program's own mappings are told from theirs.
#define MAPPING (200 * MIB)
// What grows by realloc: no other block has this size and no other thread frees it, so that none comes from
// another thread's heap.
#define SEED ((size_t)600)

enum { MAX_THREADS = 16, MAX_ROWS = 1024, SLOTS = 64, KEPT = 512 };

// Calls of a kind. All but `count` and `usable_bytes` is what they have in common.
struct row {
    const char *function;
    size_t size, align, old_size;
    bool moved, from_mapping;
    size_t count, usable_bytes;
};

struct table {
    size_t len;
    struct row rows[MAX_ROWS];
};

// A thread, and its blocks of a round.
struct worker {
    pthread_t thread;
    struct table table;
    size_t kept;
    void *blocks[KEPT];
};

static struct worker workers[MAX_THREADS];
static struct table total;
static size_t rounds, from;
// Blocks on their way from one thread to another.
static _Atomic(void *) slots[SLOTS];

static void fail(const char *what) {
    fprintf(stderr, "alloc: %s\n", what);
    exit(1);
}

static bool same_kind(const struct row *a, const struct row *b) {
    return strcmp(a->function, b->function) == 0 && a->size == b->size && a->align == b->align &&
           a->old_size == b->old_size && a->moved == b->moved && a->from_mapping == b->from_mapping;
}

static void add(struct table *table, struct row row) {
    size_t at = 0;
    while (at < table->len && !same_kind(&table->rows[at], &row)) at++;
    if (at == MAX_ROWS) fail("too many rows");
    if (at == table->len) {
        table->rows[at] = row;
        table->len++;
        return;
    }
    table->rows[at].count += row.count;
    table->rows[at].usable_bytes += row.usable_bytes;
}

// The first byte of each page, up to 256 KiB: enough to have it cost something.
static void touch(char *block, size_t size) {
    for (size_t at = 0; at < size && at < 256 * KIB; at += 4096) ((volatile char *)block)[at] = 1;
}

static void keep(struct worker *worker, void *block) {
    if (worker->kept == KEPT) fail("too many blocks");
    worker->blocks[worker->kept++] = block;
}

static void *counted(struct worker *worker, struct row row, void *block) {
    if (block == NULL) fail("no memory");
    row.count = 1;
    row.usable_bytes = malloc_usable_size(block);
    add(&worker->table, row);
    return block;
}

static void *plain(struct worker *worker, size_t size) {
    return counted(worker, (struct row){.function = "malloc", .size = size}, malloc(size));
}

static void *zeroed(struct worker *worker, size_t size) {
    char *block = counted(worker, (struct row){.function = "calloc", .size = size}, calloc(1, size));
    if (block[0] != 0 || block[size - 1] != 0) fail("calloc gives what is not zero");
    return block;
}

// C11 wants multiples of the alignment.
static void *aligned(struct worker *worker, size_t size) {
    size = (size + 63) & ~(size_t)63;
    void *block = aligned_alloc(64, size);
    return counted(worker, (struct row){.function = "aligned_alloc", .size = size, .align = 64}, block);
}

static void *posix_aligned(struct worker *worker, size_t size) {
    void *block = NULL;
    if (posix_memalign(&block, 4096, size) != 0) fail("no memory");
    return counted(worker, (struct row){.function = "posix_memalign", .size = size, .align = 4096}, block);
}

static void *old_aligned(struct worker *worker, size_t size) {
    void *block = memalign(256, size);
    return counted(worker, (struct row){.function = "memalign", .size = size, .align = 256}, block);
}

// Both end in a jump to another function of the family in most allocators.
static void *fresh(struct worker *worker, size_t size) {
    return counted(worker, (struct row){.function = "realloc of nothing", .size = size}, realloc(NULL, size));
}

static void *fresh_array(struct worker *worker, size_t size) {
    struct row row = {.function = "reallocarray of nothing", .size = size};
    return counted(worker, row, reallocarray(NULL, 1, size));
}

// In glibc, a chunk that is a mapping of its own has two words before it, one in a heap has one.
static bool is_mapping(void *block) {
    return malloc_usable_size(block) % 16 == 0;
}

static void *resized(struct worker *worker, void *block, size_t old_size, size_t size) {
    struct row row = {.function = "realloc", .size = size, .old_size = old_size};
    uintptr_t before = (uintptr_t)block;
    row.from_mapping = is_mapping(block);
    block = realloc(block, size);
    row.moved = (uintptr_t)block != before;
    return counted(worker, row, block);
}

// glibc's heaps of threads begin at multiples of 64 MiB.
static bool same_heap(void *a, void *b) {
    return is_mapping(a) == is_mapping(b) && (uintptr_t)a / (64 * MIB) == (uintptr_t)b / (64 * MIB);
}

// The lower of two blocks grows. It is not the last one of its heap, so that it grows into a free neighbour or
// moves: glibc's other way, to enlarge the heap behind it, looks like staying and is an allocation.
static void grow(struct worker *worker, size_t old_size, size_t size) {
    void *low = plain(worker, old_size), *high = plain(worker, old_size);
    if ((uintptr_t)low > (uintptr_t)high) {
        void *swapped = low;
        low = high;
        high = swapped;
    }
    if (same_heap(low, high)) low = resized(worker, low, old_size, size);
    keep(worker, low);
    free(high);
}

static void shrink(struct worker *worker, size_t size) {
    keep(worker, resized(worker, plain(worker, size), size, size - 16));
}

static void map(struct worker *worker) {
    void *start = mmap(NULL, MAPPING, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) fail("no mapping");
    add(&worker->table, (struct row){.function = "mmap", .size = MAPPING, .count = 1});
    munmap(start, MAPPING);
}

static void of_size(struct worker *worker, size_t size) {
    keep(worker, plain(worker, size));
    touch(worker->blocks[worker->kept - 1], size);
    keep(worker, zeroed(worker, size));
    keep(worker, aligned(worker, size));
    keep(worker, posix_aligned(worker, size));
    touch(worker->blocks[worker->kept - 1], size);
    keep(worker, old_aligned(worker, size));
    keep(worker, fresh(worker, size));
    keep(worker, fresh_array(worker, size));
    grow(worker, SEED, size);
    if (size - 16 >= from) shrink(worker, size);
}

// Every other block goes to another thread, all in an order that has nothing to do with their making.
static void release(struct worker *worker) {
    for (size_t n = 0; n < worker->kept; n++) {
        size_t at = n * 101 % worker->kept;
        void *block = worker->blocks[at];
        if (n % 2 == 0) block = atomic_exchange(&slots[at % SLOTS], block);
        free(block);
    }
    worker->kept = 0;
}

// 101 is a prime: with another number of blocks, each is visited once.
static void release_all(struct worker *worker) {
    if (worker->kept % 101 == 0) keep(worker, NULL);
    release(worker);
}

static void *work(void *argument) {
    struct worker *worker = argument;
    for (size_t round = 0; round < rounds; round++) {
        for (size_t n = 0; n < SIZES; n++) {
            if (sizes[n] >= from) of_size(worker, sizes[n]);
            keep(worker, plain(worker, small_sizes[n % SMALL_SIZES]));
        }
        grow(worker, 520 * KIB, MIB + 20 * KIB);
        grow(worker, 3 * MIB, 6 * MIB);
        map(worker);
        release_all(worker);
    }
    return NULL;
}

static void print(const struct row *row, const char *separator) {
    printf("%s{\"function\":\"%s\",\"size\":%zu,\"align\":%zu,\"old_size\":%zu,\"moved\":%s,"
           "\"from_mapping\":%s,\"count\":%zu,\"usable_bytes\":%zu}",
           separator, row->function, row->size, row->align, row->old_size, row->moved ? "true" : "false",
           row->from_mapping ? "true" : "false", row->count, row->usable_bytes);
}

int main(int argc, char **argv) {
    if (argc < 4) fail("usage: alloc THREADS ROUNDS FROM [wait]");
    size_t threads = strtoul(argv[1], NULL, 10);
    rounds = strtoul(argv[2], NULL, 10);
    from = strtoul(argv[3], NULL, 10);
    if (threads == 0 || threads > MAX_THREADS) fail("so many threads are not possible");
    char line[16];
    if (argc > 4 && read(STDIN_FILENO, line, sizeof line) <= 0) fail("no line");
    for (size_t n = 0; n < threads; n++) {
        if (pthread_create(&workers[n].thread, NULL, work, &workers[n]) != 0) fail("no thread");
    }
    for (size_t n = 0; n < threads; n++) {
        pthread_join(workers[n].thread, NULL);
        for (size_t at = 0; at < workers[n].table.len; at++) add(&total, workers[n].table.rows[at]);
    }
    printf("{\"pid\":%d,\"calls\":[", (int)getpid());
    for (size_t at = 0; at < total.len; at++) print(&total.rows[at], at == 0 ? "" : ",");
    printf("]}\n");
    return 0;
}
