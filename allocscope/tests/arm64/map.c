/* Maps a file as a loader maps a library, and waits. Runs on the machine of the tests. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

int main(int count, char **words) {
    int file = count == 2 ? open(words[1], O_RDONLY) : -1;
    void *code = mmap(0, 1 << 20, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, 0);
    if (code == MAP_FAILED)
        return 1;
    printf("%p\n", code);
    fflush(stdout);
    int line = getchar();
    void *volatile object = malloc(1 << 20);
    free(object);
    return line == EOF;
}
