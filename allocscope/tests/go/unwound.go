// unwound asks COUNT times for an object of a size for which its runtime panics, within the allocation: the test
// that builds it has changed the runtime so. Then it allocates one object.
//
// Usage: unwound COUNT
package main

import (
	"os"
	"strconv"
)

var kept []byte

//go:noinline
func object(size int) {
	kept = make([]byte, size)
}

//go:noinline
func unwinds() {
	defer func() {
		if recover() == nil {
			panic("the runtime was not changed")
		}
	}()
	object(777777)
}

func main() {
	count, _ := strconv.Atoi(os.Args[1])
	for i := 0; i < count; i++ {
		unwinds()
	}
	object(100000)
	os.Stdout.WriteString(`{"pid":` + strconv.Itoa(os.Getpid()) + "}\n")
}
