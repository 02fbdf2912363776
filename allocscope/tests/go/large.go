// large allocates large objects in every way that a Go program does, and prints how many of which sizes.
//
// Usage: large ROUNDS [wait]: with wait, it begins when it reads a line. It imports little, because each
// toolchain compiles all of that twice. GOGC=20 makes it collect often.
package main

import (
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
)

const goroutines = 16

// By size class: the integral part of the logarithm of base 2.
var counts, bytes [64]uint64

// Where objects go, so that they are really allocated.
var kept [goroutines]interface{}

func count(size int) {
	class := 0
	for s := size; s > 1; s >>= 1 {
		class++
	}
	atomic.AddUint64(&counts[class], 1)
	atomic.AddUint64(&bytes[class], uint64(size))
}

//go:noinline
func object(g, size int) {
	kept[g] = make([]byte, size)
	count(size)
}

//go:noinline
func pointers(g, n int) {
	kept[g] = make([]*int, n)
	count(8 * n)
}

// A large object on each level, over a stack that grows.
//
//go:noinline
func deep(g, level, size int) int {
	var frame [300]byte
	frame[level] = byte(g)
	object(g, size)
	if level == 0 {
		return int(frame[0])
	}
	return deep(g, level-1, size+511) + int(frame[level])
}

// A slice that grows: each step's capacity is an object of its own.
func grow(g int) {
	var slice []byte
	for len(slice) < 300000 {
		before := cap(slice)
		slice = append(slice, byte(g))
		slice = slice[:cap(slice)]
		if cap(slice) != before && cap(slice) > 40000 {
			count(cap(slice))
		}
	}
	kept[g] = slice
}

func panics(g int) {
	defer func() {
		if recover() != nil {
			object(g, 70000)
		}
	}()
	object(g, 90000)
	panic("expected")
}

func exits(g int) {
	done := make(chan bool)
	go func() {
		defer close(done)
		defer object(g, 110000)
		runtime.Goexit()
	}()
	<-done
}

// A pool whose New allocates and then fails: a panic that is recovered, or the goroutine's end.
func pools(g int) {
	panicking := sync.Pool{New: func() interface{} { object(g, 120000); panic("expected") }}
	ending := sync.Pool{New: func() interface{} { object(g, 130000); runtime.Goexit(); return nil }}
	done := make(chan bool)
	go func() {
		defer close(done)
		func() {
			defer func() { recover() }()
			panicking.Get()
		}()
		ending.Get()
	}()
	<-done
}

func small(g int) {
	for i := 0; i < 200; i++ {
		kept[g] = make([]byte, 10+i*160%32000)
	}
}

func work(g, rounds, threshold int) {
	for round := 0; round < rounds; round++ {
		deep(g, 25, 40960+round)
		object(g, threshold+1)
		object(g, 1<<20+round)
		kept[g] = make([]byte, threshold)
		kept[g] = make([]*int, (threshold-8)/8)
		pointers(g, 5000+round)
		grow(g)
		panics(g)
		exits(g)
		pools(g)
		small(g)
		if round%8 == g%8 {
			runtime.GC()
		}
	}
}

// The largest size that is not large: 32 KiB, from Go 1.22 on less the header of 8 bytes.
func threshold() int {
	minor := 0
	for _, digit := range runtime.Version()[len("go1."):] {
		if digit < '0' || digit > '9' {
			break
		}
		minor = 10*minor + int(digit-'0')
	}
	if minor < 22 {
		return 32768
	}
	return 32760
}

func text(n uint64) string {
	return strconv.FormatUint(n, 10)
}

func main() {
	rounds, _ := strconv.Atoi(os.Args[1])
	if len(os.Args) > 2 {
		os.Stdin.Read(make([]byte, 1))
	}
	var all sync.WaitGroup
	for g := 0; g < goroutines; g++ {
		all.Add(1)
		go func(g int) {
			defer all.Done()
			work(g, rounds, threshold())
		}(g)
	}
	all.Wait()
	line, separator := `{"pid":`+strconv.Itoa(os.Getpid())+`,"classes":{`, ""
	for class := range counts {
		if counts[class] > 0 {
			line += separator + `"` + text(1<<class) + `":[` + text(counts[class]) + "," + text(bytes[class]) + "]"
			separator = ","
		}
	}
	os.Stdout.WriteString(line + "}}\n")
}
