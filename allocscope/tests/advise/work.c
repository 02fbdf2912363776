/* A program with one habit, and its own clocks: `work churn|thread SIZE COUNT`, `work read FILE SECONDS`. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static size_t size;
static long count;

static int64_t ns(clockid_t clock)
{
	struct timespec time;

	clock_gettime(clock, &time);
	return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

/* A block that is written to, one byte in each page, and freed. */
static void *churn(void *unused)
{
	for (long i = 0; i < count; i++) {
		volatile char *block = malloc(size);

		if (!block)
			exit(3);
		for (size_t at = 0; at < size; at += 4096)
			block[at] = 1;
		free((void *)block);
	}
	return unused;
}

/* A file, again and again, through one buffer. */
static long stream(const char *path, double seconds)
{
	int64_t end = ns(CLOCK_MONOTONIC) + (int64_t)(seconds * 1e9);
	char *buffer = malloc(4 << 20);
	int file = open(path, O_RDONLY);
	long bytes = 0;

	if (!buffer || file < 0)
		exit(3);
	while (ns(CLOCK_MONOTONIC) < end) {
		ssize_t got = read(file, buffer, 4 << 20);

		if (got < 0)
			exit(3);
		bytes += got;
		if (got == 0)
			lseek(file, 0, SEEK_SET);
	}
	free(buffer);
	return bytes;
}

int main(int argc, char **argv)
{
	int64_t wall = ns(CLOCK_MONOTONIC), cpu = ns(CLOCK_PROCESS_CPUTIME_ID);
	pthread_t thread;
	long bytes = 0;

	if (argc != 4)
		return 2;
	size = strtoul(argv[2], NULL, 10);
	count = strtol(argv[3], NULL, 10);
	if (!strcmp(argv[1], "churn"))
		churn(NULL);
	else if (!strcmp(argv[1], "thread"))
		pthread_create(&thread, NULL, churn, NULL), pthread_join(thread, NULL);
	else
		bytes = stream(argv[2], strtod(argv[3], NULL));
	printf("{\"work\":\"%s\",\"bytes\":%ld,\"wall_ns\":%lld,\"cpu_ns\":%lld}\n", argv[1], bytes,
	       (long long)(ns(CLOCK_MONOTONIC) - wall), (long long)(ns(CLOCK_PROCESS_CPUTIME_ID) - cpu));
	return 0;
}
