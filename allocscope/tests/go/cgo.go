// cgo makes a program link the C library and allocate with it before main begins.
package main

// #include <stdlib.h>
// #include <string.h>
// static void *filled(size_t size) {
//     void *memory = malloc(size);
//     if (memory) memset(memory, 1, size);
//     return memory;
// }
import "C"

func init() {
	for i := 0; i < 10; i++ {
		C.free(C.filled(1 << 20))
	}
}
