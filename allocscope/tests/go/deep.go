// deep makes slices of 1 MiB at the bottom of so many calls.
//
// Usage: deep CALLS BLOCKS: it begins when it reads a line, prints when it is done, and then waits for its end.
package main

import (
	"os"
	"strconv"
	"time"
)

var kept []byte

//go:noinline
func call(calls, blocks int) int {
	if calls > 1 {
		return call(calls-1, blocks) + 1
	}
	for block := 0; block < blocks; block++ {
		kept = make([]byte, 1<<20)
	}
	return 1
}

func main() {
	var line [8]byte
	os.Stdin.Read(line[:])
	calls, _ := strconv.Atoi(os.Args[1])
	blocks, _ := strconv.Atoi(os.Args[2])
	os.Stdout.WriteString("calls " + strconv.Itoa(call(calls, blocks)) + "\n")
	time.Sleep(time.Hour)
}
