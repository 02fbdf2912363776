// Tells where a Go program calls a function: the file offset of each call instruction, a line each. Functions are found
// by the standard library, which reads the line tables of all versions. Only programs that are not linked by a C
// compiler are understood: their code begins with .text.
package main

import (
	"debug/elf"
	"debug/gosym"
	"encoding/binary"
	"fmt"
	"os"
)

func main() {
	path, caller, callee := os.Args[1], os.Args[2], os.Args[3]
	file, err := elf.Open(path)
	check(err)
	text := file.Section(".text")
	lines, err := file.Section(".gopclntab").Data()
	check(err)
	table, err := gosym.NewTable(nil, gosym.NewLineTable(lines, text.Addr))
	check(err)
	code, err := text.Data()
	check(err)
	from, to := table.LookupFunc(caller), table.LookupFunc(callee)
	if from == nil || to == nil {
		check(fmt.Errorf("%s has no %s or no %s", path, caller, callee))
	}
	// No other instruction holds the distance to the callee behind this byte.
	const call = 0xe8
	for at := from.Entry; at+5 <= from.End; at++ {
		bytes := code[at-text.Addr:]
		distance := int64(int32(binary.LittleEndian.Uint32(bytes[1:])))
		if bytes[0] == call && at+5+uint64(distance) == to.Entry {
			fmt.Println(text.Offset + at - text.Addr)
		}
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
