// sampled tells of samples by the probes of the provider otel_memory, the weight of each in another place, and prints how
// many it has told and what they weigh in all; for as long as nobody listens it tells nothing. Built as a library, its
// function `told` does the same.
//
// Usage: sampled THREADS ROUNDS [odd]: begins when it reads a line; with odd, the weights cannot be read.
#define _DEFAULT_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096ul
#define MOST_THREADS 16

#define SEMAPHORE __attribute__((section(".probes"), visibility("hidden")))
volatile unsigned short alloc_semaphore SEMAPHORE;
volatile unsigned short free_semaphore SEMAPHORE;

#ifdef LIBRARY
// As much code as an allocator's library has: what is mapped and not large is not looked at.
__asm__(".text\n.skip 131072, 0xcc\n");
#endif

// As sys/sdt.h of systemtap has it.
#define PROBE(name, arguments)                                                                                        \
	"990: nop\n"                                                                                                  \
	".pushsection .note.stapsdt, \"\", \"note\"\n"                                                                \
	".balign 4\n"                                                                                                 \
	".4byte 992f - 991f, 994f - 993f, 3\n"                                                                        \
	"991: .asciz \"stapsdt\"\n"                                                                                   \
	"992: .balign 4\n"                                                                                            \
	"993: .8byte 990b, _.stapsdt.base, " name "_semaphore\n"                                                      \
	".asciz \"otel_memory\", \"" name "\", \"" arguments "\"\n"                                                   \
	"994: .balign 4\n"                                                                                            \
	".popsection\n"                                                                                               \
	".ifndef _.stapsdt.base\n"                                                                                    \
	".pushsection .stapsdt.base, \"aG\", \"progbits\", .stapsdt.base, comdat\n"                                   \
	".weak _.stapsdt.base\n"                                                                                      \
	".hidden _.stapsdt.base\n"                                                                                    \
	"_.stapsdt.base: .space 1\n"                                                                                  \
	".size _.stapsdt.base, 1\n"                                                                                   \
	".popsection\n"                                                                                               \
	".endif\n"

#define ALLOC(text, constraint, told)                                                                                 \
	__asm__ volatile(PROBE("alloc", "8@%[block] 8@%[size] " text)                                                 \
			 :                                                                                            \
			 : [block] "r"(block), [size] "n"(64), [weight] constraint(told)                              \
			 : "memory")

// Each tells of one sample and returns what it weighs.
typedef uint64_t site(void *block, uint64_t weight);

#define IN_REGISTER(name)                                                                                             \
	static __attribute__((noinline)) uint64_t in_##name(void *block, uint64_t weight)                             \
	{                                                                                                             \
		register uint64_t value __asm__(#name) = weight;                                                      \
		ALLOC("8@%[weight]", "r", value);                                                                     \
		return weight;                                                                                        \
	}

IN_REGISTER(rax)
IN_REGISTER(rcx)
IN_REGISTER(rdx)
IN_REGISTER(rbx)
IN_REGISTER(rbp)
IN_REGISTER(rsi)
IN_REGISTER(rdi)
IN_REGISTER(r8)
IN_REGISTER(r9)
IN_REGISTER(r10)
IN_REGISTER(r11)
IN_REGISTER(r12)
IN_REGISTER(r13)
IN_REGISTER(r14)
IN_REGISTER(r15)

// The bits above are somebody else's.
#define NARROW(name, type, text)                                                                                      \
	static __attribute__((noinline)) uint64_t name(void *block, uint64_t weight)                                  \
	{                                                                                                             \
		uint64_t bits = ~0ul << 8 * sizeof(type);                                                             \
		ALLOC(text, "r", (uint64_t)(type)weight | bits);                                                      \
		return (type)weight;                                                                                  \
	}

NARROW(word, uint32_t, "4@%k[weight]")
NARROW(signed_word, int32_t, "-4@%k[weight]")
NARROW(half, uint16_t, "2@%w[weight]")
NARROW(byte, uint8_t, "1@%b[weight]")
NARROW(bare_word, uint32_t, "%k[weight]")

static __attribute__((noinline)) uint64_t bare(void *block, uint64_t weight)
{
	ALLOC("%[weight]", "r", weight);
	return weight;
}

static __attribute__((noinline)) uint64_t by_rsp(void *block, uint64_t weight)
{
	volatile uint64_t places[3] = {~0ul, weight, ~0ul};
	ALLOC("8@%[weight]", "m", places[1]);
	return weight;
}

// What is allocated on the stack makes the compiler find all else by rbp.
static __attribute__((noinline)) uint64_t by_rbp(void *block, uint64_t weight)
{
	volatile uint64_t places[3] = {~0ul, weight, ~0ul};
	volatile char *room = __builtin_alloca((weight & 255) + 1);
	room[0] = 1;
	ALLOC("8@%[weight]", "m", places[1]);
	return weight;
}

struct sample {
	uint32_t before[3];
	int32_t weight;
	uint32_t behind;
};

static __attribute__((noinline)) uint64_t by_pointer(void *block, uint64_t weight)
{
	struct sample *sample = block;
	memset(sample, 0xff, sizeof *sample);
	sample->weight = (int32_t)weight;
	ALLOC("-4@%[weight]", "m", sample->weight);
	return weight;
}

static char *last_page;

// Behind it is no memory.
static __attribute__((noinline)) uint64_t at_the_end(void *block, uint64_t weight)
{
	uint16_t *last = (uint16_t *)(last_page + PAGE) - 1;
	*last = 4711;
	(void)weight;
	ALLOC("2@%[weight]", "m", *last);
	return 4711;
}

static __attribute__((noinline)) uint64_t constant(void *block, uint64_t weight)
{
	(void)weight;
	ALLOC("8@%[weight]", "n", 2097152);
	return 2097152;
}

static __attribute__((noinline)) uint64_t signed_constant(void *block, uint64_t weight)
{
	(void)weight;
	ALLOC("-4@%[weight]", "n", 524288);
	return 524288;
}

static site *const sites[] = {
	in_rax, in_rcx, in_rdx, in_rbx, in_rbp, in_rsi, in_rdi, in_r8, in_r9, in_r10, in_r11, in_r12, in_r13, in_r14, in_r15,
	word, signed_word, half, byte, bare_word, bare, by_rsp, by_rbp, by_pointer, at_the_end, constant, signed_constant,
};

// No memory is there.
static __attribute__((noinline)) uint64_t unmapped(void *block, uint64_t weight)
{
	ALLOC("8@%[weight]", "m", *(uint64_t *)(weight & 7));
	return 0;
}

static __attribute__((noinline)) uint64_t negative(void *block, uint64_t weight)
{
	ALLOC("-8@%[weight]", "r", -weight);
	return 0;
}

static __attribute__((noinline)) uint64_t immense(void *block, uint64_t weight)
{
	ALLOC("8@%[weight]", "r", weight | 1ul << 50);
	return 0;
}

static site *const odd_sites[] = {unmapped, negative, immense};

static __attribute__((noinline)) void freed(void *block)
{
	__asm__ volatile(PROBE("free", "8@%[block]") : : [block] "r"(block) : "memory");
}

struct work {
	pthread_t thread;
	site *const *sites;
	unsigned count, number, rounds;
	uint64_t allocs, heard_allocs, weight, frees, heard_frees;
	uint64_t block[8];
};

static void *run(void *argument)
{
	struct work *work = argument;
	for (unsigned round = 0; round < work->rounds; round++) {
		for (unsigned index = 0; index < work->count; index++) {
			uint64_t weight = 1000003ul * (index + 1) + 31 * round + work->number;
			work->allocs++;
			if (alloc_semaphore != 0) {
				work->heard_allocs++;
				work->weight += work->sites[index](work->block, weight);
			}
		}
		work->frees++;
		if (free_semaphore != 0) {
			work->heard_frees++;
			freed(work->block);
		}
	}
	return NULL;
}

static void tell(unsigned threads, unsigned rounds, site *const *some, unsigned count)
{
	static struct work works[MOST_THREADS];
	uint64_t allocs = 0, heard_allocs = 0, weight = 0, frees = 0, heard_frees = 0;
	last_page = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (last_page == MAP_FAILED || munmap(last_page + PAGE, PAGE) != 0)
		exit(3);
	for (unsigned number = 0; number < threads; number++) {
		works[number] = (struct work){.sites = some, .count = count, .number = number, .rounds = rounds};
		if (pthread_create(&works[number].thread, NULL, run, &works[number]) != 0)
			exit(4);
	}
	for (unsigned number = 0; number < threads; number++) {
		struct work *work = &works[number];
		pthread_join(work->thread, NULL);
		allocs += work->allocs, heard_allocs += work->heard_allocs, weight += work->weight;
		frees += work->frees, heard_frees += work->heard_frees;
	}
	printf("{\"pid\":%d,\"told\":{"
	       "\"otel_alloc\":{\"count\":%lu,\"heard\":%lu,\"bytes\":%lu},"
	       "\"otel_free\":{\"count\":%lu,\"heard\":%lu,\"bytes\":0}}}\n",
	       getpid(), allocs, heard_allocs, weight, frees, heard_frees);
	fflush(stdout);
}

void told(unsigned threads, unsigned rounds)
{
	tell(threads, rounds, sites, sizeof sites / sizeof *sites);
}

int main(int count, char **words)
{
	char line[8];
	if (count < 3 || atoi(words[1]) > MOST_THREADS || read(0, line, sizeof line) < 0)
		return 1;
	unsigned threads = atoi(words[1]), rounds = atoi(words[2]);
	if (count > 3)
		tell(threads, rounds, odd_sites, sizeof odd_sites / sizeof *odd_sites);
	else
		told(threads, rounds);
	return 0;
}
