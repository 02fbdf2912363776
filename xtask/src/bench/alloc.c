// Allocates and frees in one of five ways, and says how long an operation takes and what it has allocated.
//
//     alloc MODE MILLISECONDS LARGE
//
// Writes `ready` to standard error, begins at a line of standard input, prints its truth as one line of
// JSON, and ends when standard input does. MODE is
//
//     small   64 B, the oldest of 64 blocks freed for each new one
//     random  64 B, any of 4096 blocks freed for each new one
//     burst   1000 times malloc, then 1000 times free; an operation is one call
//     mixed   as small, but one block in 100 is of 64 KiB to 4 MiB
//     large   64 KiB to 4 MiB, one byte of each page written, the oldest of 8 blocks freed
//
// In all others an operation is one free and one malloc. Chunks of operations are timed for so many
// milliseconds, after a tenth of that untimed. Their time is this thread's CPU time: on a busy machine a
// chunk that tracing makes long is interrupted more often than one that is not traced, and by the wall's
// clock that would be the tracer's cost. LARGE blocks of 1 MiB follow, untimed: they show that who counts
// large blocks does.

#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CHUNKS = 1 << 16, MAX_LIVE = 4096, BURST = 1000, PAGE = 4096, SMALL = 64 };
enum { LARGE_MIN = 64 << 10, LARGE_CLASSES = 6 };

static char *live[MAX_LIVE];
static double times[MAX_CHUNKS];
static uint64_t mallocs, larges, position, seed = 88172645463325252;

static uint64_t next_random(void) {
	seed ^= seed << 13;
	seed ^= seed >> 7;
	return seed ^= seed << 17;
}

// As often between 64 and 128 KiB as between 2 and 4 MiB.
static size_t large_size(void) {
	uint64_t random = next_random();
	size_t least = (size_t)LARGE_MIN << random % LARGE_CLASSES;
	return least + (random >> 8) % least;
}

static char *allocate(size_t size) {
	char *block = malloc(size);
	if (!block) {
		perror("malloc");
		exit(1);
	}
	*block = 1;
	return block;
}

static void replace(uint64_t index, size_t size) {
	free(live[index]);
	live[index] = allocate(size);
}

static void run_small(uint64_t ops) {
	for (uint64_t i = 0; i < ops; i++)
		replace(position++ % 64, SMALL);
	mallocs += ops;
}

static void run_random(uint64_t ops) {
	for (uint64_t i = 0; i < ops; i++)
		replace(next_random() % MAX_LIVE, SMALL);
	mallocs += ops;
}

static void run_burst(uint64_t ops) {
	for (uint64_t done = 0; done < ops; done += 2 * BURST) {
		for (int i = 0; i < BURST; i++)
			live[i] = allocate(SMALL);
		for (int i = 0; i < BURST; i++) {
			free(live[i]);
			live[i] = NULL;
		}
	}
	mallocs += ops / 2;
}

static void run_mixed(uint64_t ops) {
	for (uint64_t i = 0; i < ops; i++)
		replace(position++ % 64, i % 100 ? SMALL : large_size());
	mallocs += ops;
	larges += (ops + 99) / 100;
}

static void run_large(uint64_t ops) {
	for (uint64_t i = 0; i < ops; i++) {
		size_t size = large_size();
		replace(position % 8, size);
		for (size_t at = 0; at < size; at += PAGE)
			((volatile char *)live[position % 8])[at] = 1;
		position++;
	}
	mallocs += ops;
	larges += ops;
}

// OPS is the length of a chunk: some 50 us untraced, 100 ms where each operation takes 10 us more.
static const struct mode {
	const char *name;
	void (*run)(uint64_t ops);
	uint64_t ops;
} MODES[] = {
	{ "small", run_small, 10000 }, { "random", run_random, 10000 }, { "burst", run_burst, 10000 },
	{ "mixed", run_mixed, 10000 }, { "large", run_large, 100 },
};

static const struct mode *mode_of(const char *name) {
	for (size_t i = 0; i < sizeof MODES / sizeof *MODES; i++)
		if (!strcmp(MODES[i].name, name))
			return &MODES[i];
	fprintf(stderr, "there is no mode %s\n", name);
	exit(2);
}

static double now_ns(clockid_t clock) {
	struct timespec now;
	clock_gettime(clock, &now);
	return now.tv_sec * 1e9 + now.tv_nsec;
}

static size_t time_chunks(const struct mode *mode, double limit_ns) {
	size_t chunks = 0;
	double start = now_ns(CLOCK_MONOTONIC);
	while (chunks < MAX_CHUNKS && (chunks < 3 || now_ns(CLOCK_MONOTONIC) - start < limit_ns)) {
		double before = now_ns(CLOCK_THREAD_CPUTIME_ID);
		mode->run(mode->ops);
		times[chunks++] = (now_ns(CLOCK_THREAD_CPUTIME_ID) - before) / mode->ops;
	}
	return chunks;
}

static int ascending(const void *left, const void *right) {
	double difference = *(const double *)left - *(const double *)right;
	return (difference > 0) - (difference < 0);
}

static void wait_for_line(void) {
	char c = 0;
	while (c != '\n')
		if (read(STDIN_FILENO, &c, 1) != 1)
			exit(1);
}

static void wait_for_end(void) {
	char c;
	while (read(STDIN_FILENO, &c, 1) == 1)
		;
}

int main(int argc, char **argv) {
	if (argc != 4)
		return 2;
	// Large blocks come from the heap and stay in it; another allocator does not look at this.
	mallopt(M_MMAP_THRESHOLD, 32 << 20);
	mallopt(M_TRIM_THRESHOLD, INT32_MAX);
	const struct mode *mode = mode_of(argv[1]);
	double limit_ns = atof(argv[2]) * 1e6;
	if (write(STDERR_FILENO, "ready\n", 6) != 6)
		return 1;
	wait_for_line();
	size_t warming = time_chunks(mode, limit_ns / 10);
	size_t chunks = time_chunks(mode, limit_ns);
	for (int i = atoi(argv[3]); i > 0; i--, mallocs++, larges++)
		free(allocate(1 << 20));
	qsort(times, chunks, sizeof *times, ascending);
	printf("{\"ns_per_op_median\":%.3f,\"ops\":%llu,\"mallocs\":%llu,\"large\":%llu}\n", times[chunks / 2],
	       (unsigned long long)((warming + chunks) * mode->ops), (unsigned long long)mallocs,
	       (unsigned long long)larges);
	fflush(stdout);
	wait_for_end();
	return 0;
}
