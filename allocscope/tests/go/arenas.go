// arenas allocates from arenas, which take their memory in chunks, and prints how many chunks that needed at least.
//
// Usage: arenas COUNT. Built with GOEXPERIMENT=arenas.
package main

import (
	"arena"
	"os"
	"strconv"
)

const (
	chunk   = 8 << 20
	object  = 1 << 20
	objects = 20
)

func fill(a *arena.Arena) {
	for i := 0; i < objects; i++ {
		arena.New[[object]byte](a)[i] = 1
	}
}

func main() {
	count, _ := strconv.Atoi(os.Args[1])
	// All live at once, so that no chunk serves twice.
	arenas := make([]*arena.Arena, count)
	for i := range arenas {
		arenas[i] = arena.NewArena()
		fill(arenas[i])
	}
	// An object lies in one chunk whole, and what a chunk has left goes to waste.
	perChunk := chunk / object
	chunks := count * ((objects + perChunk - 1) / perChunk)
	for _, a := range arenas {
		a.Free()
	}
	os.Stdout.WriteString(`{"pid":` + strconv.Itoa(os.Getpid()) + `,"chunks":` + strconv.Itoa(chunks) + "}\n")
}
