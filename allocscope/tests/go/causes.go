// causes makes large allocations whose time goes to one thing.
//
// Usage: causes assist|grow|zeroing|stop
package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"time"
)

type node struct {
	next *node
	rest [6]uintptr
}

var (
	live  []*node
	sinks [4][]byte
	kept  [][]byte
	words []*node
	done  = make(chan bool)
)

// assist allocates against a heap of small objects that is collected all the time: each large object is paid for by
// marking.
func assist() {
	debug.SetGCPercent(-1)
	for i := 0; i < 1_000_000; i++ {
		live = append(live, &node{})
		if i > 0 {
			live[i].next = live[i*7919%i]
		}
	}
	debug.SetGCPercent(5)
	for g := range sinks {
		go func(g int) {
			for i := 0; i < 100; i++ {
				sinks[g] = make([]byte, 256<<10)
			}
			done <- true
		}(g)
	}
	for range sinks {
		<-done
	}
}

// grow allocates what is never collected.
func grow() {
	debug.SetGCPercent(-1)
	for i := 0; i < 200; i++ {
		kept = append(kept, make([]byte, 64<<20))
	}
}

// zeroing allocates pointerful objects where others were.
func zeroing() {
	debug.SetGCPercent(-1)
	for i := 0; i < 10; i++ {
		words = make([]*node, 8<<20)
		words[0], words[len(words)-1] = &node{}, &node{}
		for at := 0; at < len(words); at += 512 {
			words[at] = words[0]
		}
		words = nil
		runtime.GC()
	}
}

// stop allocates while another goroutine copies memory, in which it cannot be stopped.
func stop() {
	from, to := make([]byte, 256<<20), make([]byte, 256<<20)
	copy(to, from)
	debug.SetGCPercent(5)
	stopped := make(chan bool)
	go func() {
		for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
			copy(to, from)
		}
		close(stopped)
	}()
	for running := true; running; {
		select {
		case <-stopped:
			running = false
		default:
			sinks[0] = make([]byte, 1<<20)
		}
	}
}

func main() {
	map[string]func(){"assist": assist, "grow": grow, "zeroing": zeroing, "stop": stop}[os.Args[1]]()
	debug.SetGCPercent(-1)
	var end runtime.MemStats
	runtime.ReadMemStats(&end)
	os.Stdout.WriteString(`{"pid":` + strconv.Itoa(os.Getpid()) +
		`,"pause_ns":` + strconv.Itoa(int(end.PauseTotalNs)) + "}\n")
}
