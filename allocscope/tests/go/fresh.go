// fresh allocates objects that are never collected and writes to each of their pages once.
//
// Usage: fresh COUNT SIZE
package main

import (
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
)

func main() {
	count, _ := strconv.Atoi(os.Args[1])
	size, _ := strconv.Atoi(os.Args[2])
	debug.SetGCPercent(-1)
	objects := make([][]byte, count)
	for i := range objects {
		objects[i] = make([]byte, size)
		for at := 0; at < size; at += 4096 {
			objects[i][at] = 1
		}
	}
	fmt.Printf(`{"pid":%d,"pages":%d}`+"\n", os.Getpid(), count*((size+4095)/4096))
}
