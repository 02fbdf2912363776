// site allocates blocks of 4 MiB in one function and of 1 MiB in another, touches and frees them, and prints how
// many of each. Built without frame pointers: only unwind tables lead from a block to who asked for it.
//
// Usage: site BLOCKS [wait]: with wait, it begins when it reads a line.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LARGE (4ul << 20)
#define SMALL (1ul << 20)

static void *volatile kept;

__attribute__((noinline)) static void touch(char *block, size_t size)
{
	for (size_t at = 0; at < size; at += 4096)
		block[at] = 1;
}

__attribute__((noinline)) static int load_pages(size_t size)
{
	char *block = malloc(size);
	kept = block;
	touch(block, size);
	free(block);
	return size > 1;
}

__attribute__((noinline)) static int read_catalogue(int blocks)
{
	int done = 0;
	for (int block = 0; block < blocks; block++)
		done += load_pages(LARGE);
	return done;
}

__attribute__((noinline)) static int keep_small(int blocks)
{
	int done = 0;
	for (int block = 0; block < blocks; block++) {
		kept = malloc(SMALL);
		done += kept != NULL;
	}
	return done;
}

int main(int count, char **words)
{
	int blocks = atoi(words[1]);
	char line[8];
	if (count > 2 && read(0, line, sizeof line) < 0)
		return 1;
	int large = read_catalogue(blocks);
	int small = keep_small(blocks);
	printf("{\"pid\":%d,\"large\":%d,\"small\":%d,\"bytes\":%lu}\n", getpid(), large, small,
	       large * LARGE + small * SMALL);
	return 0;
}
