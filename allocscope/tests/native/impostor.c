// impostor has a function that is called as glibc's allocator calls one of its own, and is none. It calls it until
// its standard input ends.

#include <poll.h>
#include <stdio.h>
#include <stdint.h>
#include <stddef.h>

__attribute__((noinline)) void *_int_malloc(void *arena, size_t size) {
    return (void *)((uintptr_t)arena | (size & 7));
}

int main(void) {
    struct pollfd input = {.fd = 0, .events = POLLIN};
    uintptr_t sum = 0;
    while (poll(&input, 1, 1) == 0)
        sum += (uintptr_t)_int_malloc(&sum, 65537);
    printf("%lu\n", (unsigned long)(sum & 1));
    return 0;
}
