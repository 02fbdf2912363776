// site allocates blocks of 4 MiB in one goroutine and of 1 MiB in its first one, writes to each page, and prints how many.
//
// Usage: site BLOCKS
package main

import (
	"os"
	"runtime"
	"strconv"
	"strings"
)

const (
	large = 4 << 20
	small = 1 << 20
)

var kept []byte

//go:noinline
func loadCatalogue(size int) {
	kept = make([]byte, size)
	for at := 0; at < size; at += 4096 {
		kept[at] = 1
	}
}

//go:noinline
func readStore(blocks int) {
	for block := 0; block < blocks; block++ {
		loadCatalogue(large)
	}
}

//go:noinline
func keepIndex(blocks int) {
	for block := 0; block < blocks; block++ {
		kept = make([]byte, small)
	}
}

// goroutine is the number of the one that calls it.
func goroutine() string {
	text := make([]byte, 64)
	return strings.Fields(string(text[:runtime.Stack(text, false)]))[1]
}

func main() {
	blocks, _ := strconv.Atoi(os.Args[1])
	reader := make(chan string)
	go func() {
		readStore(blocks)
		reader <- goroutine()
	}()
	goid := <-reader
	keepIndex(blocks)
	bytes := blocks * (large + small)
	os.Stdout.WriteString(`{"pid":` + strconv.Itoa(os.Getpid()) + `,"large":` + strconv.Itoa(blocks) +
		`,"small":` + strconv.Itoa(blocks) + `,"bytes":` + strconv.Itoa(bytes) + `,"reader":` + goid + "}\n")
}
