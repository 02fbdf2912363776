// Takes the machine's free memory, all of it or each second page, and keeps it until it is killed: which the kernel does
// first of all, where nothing else helps.
//
//     hog LEFT all|alternate
//
// LEFT is how many MiB it leaves free before it gives alternate pages back. It ends when that is done, and a child of
// it keeps the memory.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, MIB = 1 << 20 };

static void fail(const char *what) {
	perror(what);
	exit(1);
}

static void die_first(void) {
	FILE *file = fopen("/proc/self/oom_score_adj", "w");
	if (!file || fputs("1000", file) < 0 || fclose(file))
		fail("oom_score_adj");
}

static size_t free_bytes(void) {
	char line[128];
	size_t kib = 0;
	FILE *file = fopen("/proc/meminfo", "r");
	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "MemFree: %zu kB", &kib) == 1)
			break;
	if (!kib)
		fail("meminfo");
	fclose(file);
	return kib << 10;
}

// Not by touching it: that is traced.
static void take(size_t left, int alternate) {
	size_t bytes = free_bytes();
	bytes = bytes > left ? (bytes - left) / PAGE * PAGE : PAGE;
	char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		fail("mmap");
	// A kernel without huge pages refuses, and needs none.
	madvise(memory, bytes, MADV_NOHUGEPAGE);
	if (madvise(memory, bytes, MADV_POPULATE_WRITE))
		fail("madvise");
	for (size_t at = 0; alternate && at < bytes; at += 2 * PAGE)
		if (madvise(memory + at, PAGE, MADV_DONTNEED))
			fail("madvise");
}

int main(int argc, char **argv) {
	int done[2];
	char byte;
	if (argc != 3) {
		fprintf(stderr, "usage: hog LEFT all|alternate\n");
		return 2;
	}
	if (pipe(done))
		fail("pipe");
	pid_t child = fork();
	if (child < 0)
		fail("fork");
	if (child) {
		close(done[1]);
		return read(done[0], &byte, 1) != 1;
	}
	die_first();
	take(strtoul(argv[1], NULL, 10) * MIB, !strcmp(argv[2], "alternate"));
	if (write(done[1], "", 1) != 1)
		fail("write");
	for (;;)
		pause();
}
