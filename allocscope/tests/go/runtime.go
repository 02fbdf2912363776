// runtime collects, stops the world and uses a sync.Pool so that it knows what its runtime did: the number of its
// collections, pauses and pool misses. It runs on one processor and collects only when told, so that each get of a
// pool is known to be served from its own processor or not.
//
// It prints with println's kin only: the fmt package has pools of its own.
//
// Usage: runtime ROUNDS [HOLD-MILLISECONDS [first|last]], where it waits for a line before all else, or before it
// gives memory back
package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"time"
)

const items = 100

type item struct{ bytes [64]byte }

var (
	made  int
	slow  int
	pools [3]sync.Pool
	held  [items]*item
	keep  [][]byte
)

// get takes all items of a pool; where is how many of them its own processor does not have.
func get(pool *sync.Pool, where int) {
	for i := range held {
		held[i] = pool.Get().(*item)
	}
	slow += where
}

func put(pool *sync.Pool) {
	for i := range held {
		pool.Put(held[i])
		held[i] = nil
	}
}

func round() {
	for i := range pools {
		pool := &pools[i]
		get(pool, items) // nothing is left: each calls New
		put(pool)
		get(pool, 0)
		put(pool)
	}
	runtime.GC() // what they hold is the last round's victim now
	for i := range pools {
		get(&pools[i], items) // from the victims: slow, without New
	}
	put(&pools[0])
	runtime.GC()
	runtime.GC()
}

func main() {
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(-1)
	rounds, _ := strconv.Atoi(os.Args[1])
	for i := range pools {
		pools[i].New = func() any { made++; return new(item) }
	}
	wait("first")
	for i := 0; i < rounds; i++ {
		round()
	}
	hold()
	for i := 0; i < 64; i++ {
		keep = append(keep, make([]byte, 1<<20))
		for at := 0; at < 1<<20; at += 4096 {
			keep[i][at] = 1
		}
	}
	keep = nil
	wait("last")
	var before, after, end runtime.MemStats
	runtime.ReadMemStats(&before)
	debug.FreeOSMemory()
	runtime.ReadMemStats(&after)
	runtime.ReadMemStats(&end)
	line := `{"pid":` + strconv.Itoa(os.Getpid()) +
		`,"cycles":` + strconv.Itoa(int(end.NumGC)) +
		`,"pause_ns":` + strconv.Itoa(int(end.PauseTotalNs)) +
		`,"scavenged":` + strconv.Itoa(int(after.HeapReleased-before.HeapReleased)) +
		`,"made":` + strconv.Itoa(made) +
		`,"slow":` + strconv.Itoa(slow) +
		`,"gets":` + strconv.Itoa(gets) +
		`,"pools":` + strconv.Itoa(rounds*2*len(pools)) + "}\n"
	os.Stdout.WriteString(line)
}

var gets int

// wait returns when a line comes, if it is then that the program is to wait.
func wait(when string) {
	if len(os.Args) < 4 || os.Args[3] != when {
		return
	}
	os.Stdout.WriteString("ready\n")
	var line [1]byte
	os.Stdin.Read(line[:])
}

// hold gets and puts for a while, so that a window of time sees some of it: one get of ten finds nothing.
func hold() {
	if len(os.Args) < 3 {
		return
	}
	millis, _ := strconv.Atoi(os.Args[2])
	var pool sync.Pool
	pool.New = func() any { made++; return new(item) }
	for end := time.Now().Add(time.Duration(millis) * time.Millisecond); time.Now().Before(end); {
		for i := 0; i < 1000; i++ {
			got := pool.Get()
			gets++
			if i%10 != 0 {
				pool.Put(got)
			}
		}
	}
}
