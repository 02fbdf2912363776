// native allocates large blocks with the C library, touches each of their pages, resizes and frees them, and
// prints what it asked for, what was resized, and which mappings were released: by what a block was last asked
// or resized for.
//
// Usage: native ROUNDS

#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { ASKED, RESIZED, RELEASED, KINDS };

static const char *const names[KINDS] = {"malloc", "mremap", "munmap"};
static const size_t page = 4096;

// By size class: the integral part of the logarithm of base 2.
static unsigned long counts[KINDS][64], bytes[KINDS][64], pages_touched;

// A mapped block begins and ends with its mapping, but for a header of two words.
static size_t mapping_bytes(void *block) { return malloc_usable_size(block) + 2 * sizeof(size_t); }

// A block and what its class is by.
struct block {
    void *start;
    size_t size;
};

static void count(int kind, size_t size, size_t counted_bytes) {
    int class = 63 - __builtin_clzl(size);
    counts[kind][class]++;
    bytes[kind][class] += counted_bytes;
}

static void touch(void *block, size_t from, size_t to) {
    volatile char *start = (char *)block - 2 * sizeof(size_t);
    for (size_t at = from; at < to; at += page, pages_touched++)
        start[at + page - 1] = 1;
}

static void *checked(void *block) {
    if (block == NULL || ((uintptr_t)block - 2 * sizeof(size_t)) % page != 0)
        exit(2);
    return block;
}

static struct block allocate(size_t size, int zeroed) {
    void *start = checked(zeroed ? calloc(1, size) : malloc(size));
    count(ASKED, size, size);
    touch(start, 0, mapping_bytes(start));
    return (struct block){start, size};
}

static struct block resize(struct block block, size_t size) {
    size_t before = mapping_bytes(block.start);
    void *start = checked(realloc(block.start, size));
    count(RESIZED, mapping_bytes(start), mapping_bytes(start));
    touch(start, before, mapping_bytes(start));
    return (struct block){start, mapping_bytes(start)};
}

static void release(struct block block) {
    count(RELEASED, block.size, mapping_bytes(block.start));
    free(block.start);
}

// Blocks of all sizes are held at once and freed in another order.
static void work(size_t extra) {
    struct block blocks[] = {
        allocate((200 << 10) + extra, 0),
        allocate(300 * 1000 + extra, 1),
        allocate((1 << 20) + extra, 0),
        resize(allocate((3 << 20) + extra, 1), (9 << 20) + extra),
        allocate((17 << 20) + extra, 0),
    };
    static const int order[] = {2, 0, 4, 1, 3};
    for (int i = 0; i < 5; i++)
        release(blocks[order[i]]);
}

static void print(int kind) {
    const char *separator = "";
    printf("\"%s\":{", names[kind]);
    for (int class = 0; class < 64; class++) {
        if (counts[kind][class] == 0)
            continue;
        printf("%s\"%lu\":[%lu,%lu]", separator, 1ul << class, counts[kind][class], bytes[kind][class]);
        separator = ",";
    }
    printf("},");
}

int main(int argc, char **argv) {
    int rounds = argc > 1 ? atoi(argv[1]) : 1;
    // Smaller blocks may come from the heap. A threshold that was set does not grow with each mapping freed.
    mallopt(M_MMAP_THRESHOLD, 128 * 1024);
    for (int round = 0; round < rounds; round++)
        work(round * 100);
    printf("{\"pid\":%d,", getpid());
    for (int kind = 0; kind < KINDS; kind++)
        print(kind);
    printf("\"pages_touched\":%lu}\n", pages_touched);
    return 0;
}
