// new allocates by C++'s operators, catches what they throw where there is no memory, and prints what it was
// given: one line of JSON.
//
// Usage: new ROUNDS [wait]: with wait, it begins when it reads a line.
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <malloc.h>
#include <new>
#include <unistd.h>
#include <vector>

namespace {

constexpr std::size_t sizes[] = {200'000, 262'144, 270'400, 1'048'576, 3'000'000};
constexpr std::size_t alignment = 4096;
constexpr int throws = 5;
// More than half of the address space, so that no allocator has it, and below the limit at which the C library
// does not try.
constexpr std::size_t huge = std::size_t{1} << 48;

struct Row {
    const char *function;
    std::size_t size, align, count, usable_bytes;
};

std::vector<Row> rows;

void count(const char *function, std::size_t size, std::size_t align, void *block) {
    const std::size_t usable_bytes = malloc_usable_size(block);
    *static_cast<volatile char *>(block) = 1;
    for (Row &row : rows) {
        if (row.function == function && row.size == size) {
            row.count++;
            row.usable_bytes += usable_bytes;
            return;
        }
    }
    rows.push_back({function, size, align, 1, usable_bytes});
}

void allocate(std::size_t size) {
    static const char *const names[] = {"new", "new[]", "new(nothrow)", "new(align)"};
    void *const one = ::operator new(size);
    void *const many = ::operator new[](size);
    void *const quiet = ::operator new(size, std::nothrow);
    const std::size_t whole = (size + alignment - 1) / alignment * alignment;
    void *const aligned = ::operator new(whole, std::align_val_t{alignment});
    count(names[0], size, 0, one);
    count(names[1], size, 0, many);
    count(names[2], size, 0, quiet);
    count(names[3], whole, alignment, aligned);
    ::operator delete[](many);
    ::operator delete(aligned, std::align_val_t{alignment});
    ::operator delete(one);
    ::operator delete(quiet);
}

// Through a frame that has something to destroy.
bool throws_on(std::size_t size) {
    try {
        std::vector<char> destroyed(sizes[0]);
        count("new", sizes[0], 0, destroyed.data());
        void *const block = ::operator new(size);
        ::operator delete(block);
    } catch (const std::bad_alloc &) {
        return true;
    }
    return false;
}

} // namespace

int main(int argc, char **argv) {
    if (argc < 2) return 2;
    char line[16];
    if (argc > 2 && read(STDIN_FILENO, line, sizeof line) <= 0) return 2;
    rows.reserve(64);
    int caught = 0;
    for (int round = 0; round < std::atoi(argv[1]); round++) {
        for (const std::size_t size : sizes) allocate(size);
    }
    for (int n = 0; n < throws; n++) caught += throws_on(huge);
    for (const std::size_t size : sizes) allocate(size);
    std::printf("{\"pid\":%d,\"caught\":%d,\"calls\":[", static_cast<int>(getpid()), caught);
    const char *separator = "";
    for (const Row &row : rows) {
        std::printf("%s{\"function\":\"%s\",\"size\":%zu,\"align\":%zu,\"count\":%zu,\"usable_bytes\":%zu}",
                    separator, row.function, row.size, row.align, row.count, row.usable_bytes);
        separator = ",";
    }
    std::puts("]}");
}
