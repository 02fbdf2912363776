// zeroing allocates slices of pointers of 64 MiB, one after the other, in memory that was used before.
//
// Usage: zeroing COUNT
package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
)

var live []*int

func main() {
	count, _ := strconv.Atoi(os.Args[1])
	for i := 0; i < count; i++ {
		live = nil
		live = make([]*int, 64<<20/8)
		live[i] = &i
	}
	runtime.KeepAlive(live)
	fmt.Printf(`{"pid":%d}`+"\n", os.Getpid())
}
