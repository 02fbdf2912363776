/* A function under the name of glibc's, in the shapes that compilers give the start of one. */
#include <stddef.h>

static char heap[1 << 20];
static size_t used;

__attribute__((noinline)) void *refill(void *arena, size_t bytes) {
    __asm__ volatile("" : : "r"(bytes) : "memory");
    return arena;
}

__attribute__((noinline)) void *_int_malloc(void *arena, size_t bytes) {
#ifdef LIMIT
    if (bytes > LIMIT)
        return 0;
#endif
#ifdef OTHERS
    return (char *)refill(arena, bytes) + bytes;
#else
    if (bytes > sizeof heap - used)
        return 0;
    used += bytes;
    return heap + used - bytes;
#endif
}

void _start(void) {
    _int_malloc(0, 65536);
    for (;;) {
    }
}
