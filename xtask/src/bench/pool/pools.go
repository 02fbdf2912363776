// Go's ways to have memory again, measured as pool-bench measures the others and by the same words:
//
//	pools list
//	pools CASE SUBJECT THREADS MILLISECONDS
//
// Each thread is locked to a CPU of its own; an operation's time is the median of its chunks.
package main

import (
	"fmt"
	"os"
	"runtime"
	"sort"
	"strconv"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

const (
	chunk     = 4096
	maxChunks = 1 << 16
	minChunks = 3
	warming   = 5
)

type subject struct {
	caseName, name string
	work           func() func(ops int)
}

var subjects = []subject{
	{"object-4096", "Go sync.Pool", pool[[4096]byte]()},
	{"object-65536", "Go sync.Pool", pool[[65536]byte]()},
	{"object-65536", "Go new", fresh[[65536]byte]()},
	{"buffer-65536", "Go sync.Pool of *[]byte", buffers},
	{"buffer-65536", "Go make([]byte, 65536)", makes},
	{"arena-64", "Go new", small},
}

func pool[T any]() func() func(int) {
	shared := &sync.Pool{New: func() any { return new(T) }}
	return func() func(int) {
		return func(ops int) {
			for i := 0; i < ops; i++ {
				item := shared.Get().(*T)
				*(*byte)(unsafe.Pointer(item)) = 1
				shared.Put(item)
			}
		}
	}
}

func fresh[T any]() func() func(int) {
	return func() func(int) {
		mine := new(*T)
		return func(ops int) {
			for i := 0; i < ops; i++ {
				item := new(T)
				*(*byte)(unsafe.Pointer(item)) = 1
				*mine = item
			}
		}
	}
}

func buffers() func(int) {
	return func(ops int) {
		for i := 0; i < ops; i++ {
			buffer := shared.Get().(*[]byte)
			*buffer = append((*buffer)[:0], 1)
			shared.Put(buffer)
		}
	}
}

var shared = &sync.Pool{New: func() any {
	buffer := make([]byte, 0, 65536)
	return &buffer
}}

func makes() func(int) {
	mine := new([]byte)
	return func(ops int) {
		for i := 0; i < ops; i++ {
			*mine = append(make([]byte, 0, 65536), 1)
		}
	}
}

func small() func(int) {
	mine := new(*[8]uint64)
	return func(ops int) {
		for i := uint64(0); i < uint64(ops); i++ {
			*mine = &[8]uint64{i, i, i, i, i, i, i, i}
		}
	}
}

func main() {
	if len(os.Args) == 2 && os.Args[1] == "list" {
		for _, one := range subjects {
			fmt.Printf("{\"case\":%q,\"subject\":%q,\"threads\":[1,2]}\n", one.caseName, one.name)
		}
		return
	}
	threads, milliseconds := number(3), number(4)
	for _, one := range subjects {
		if one.caseName == os.Args[1] && one.name == os.Args[2] {
			measure(threads, time.Duration(milliseconds)*time.Millisecond, one.work)
			return
		}
	}
	panic("there is no such case or subject")
}

func number(index int) int {
	value, err := strconv.Atoi(os.Args[index])
	if err != nil {
		panic(err)
	}
	return value
}

func measure(threads int, limit time.Duration, work func() func(int)) {
	cpus := allowedCPUs()
	var ready, done sync.WaitGroup
	ready.Add(threads)
	done.Add(threads)
	times := make([][]float64, threads)
	for index := range times {
		go func() {
			defer done.Done()
			runtime.LockOSThread()
			pin(cpus[index])
			mine := work()
			ready.Done()
			ready.Wait()
			times[index] = chunks(limit, mine)
		}()
	}
	done.Wait()
	sum, ops := 0.0, 0
	for _, mine := range times {
		sort.Float64s(mine)
		sum += mine[len(mine)/2]
		ops += len(mine) * chunk
	}
	fmt.Printf("{\"ns\":%f,\"ops\":%d}\n", sum/float64(threads)/chunk, ops)
}

func chunks(limit time.Duration, work func(int)) []float64 {
	for begin := time.Now(); time.Since(begin) < limit/warming; {
		work(chunk)
	}
	times := make([]float64, 0, maxChunks)
	for begin := time.Now(); len(times) < minChunks || len(times) < maxChunks && time.Since(begin) < limit; {
		start := time.Now()
		work(chunk)
		times = append(times, float64(time.Since(start)))
	}
	return times
}

type cpuSet [16]uint64

func allowedCPUs() []int {
	var set cpuSet
	_, _, failure := syscall.RawSyscall(syscall.SYS_SCHED_GETAFFINITY, 0, unsafe.Sizeof(set), uintptr(unsafe.Pointer(&set)))
	if failure != 0 {
		panic(failure)
	}
	var cpus []int
	for cpu := 0; cpu < 64*len(set); cpu++ {
		if set[cpu/64]>>(cpu%64)&1 == 1 {
			cpus = append(cpus, cpu)
		}
	}
	return cpus
}

func pin(cpu int) {
	var set cpuSet
	set[cpu/64] = 1 << (cpu % 64)
	_, _, failure := syscall.RawSyscall(syscall.SYS_SCHED_SETAFFINITY, 0, unsafe.Sizeof(set), uintptr(unsafe.Pointer(&set)))
	if failure != 0 {
		panic(failure)
	}
}
