// zeroing allocates slices of pointers of 64 MiB, one after the other, in memory that was used before.
//
// Usage: zeroing COUNT
package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
)

var live []*int

func main() {
	count, _ := strconv.Atoi(os.Args[1])
	// Otherwise memory that is free goes back to the system, and comes anew by page faults.
	debug.SetGCPercent(-1)
	for i := 0; i < count; i++ {
		live = nil
		runtime.GC()
		live = make([]*int, 64<<20/8)
		live[i] = &i
	}
	runtime.KeepAlive(live)
	fmt.Printf(`{"pid":%d}`+"\n", os.Getpid())
}
