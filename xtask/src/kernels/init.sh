#!/bin/busybox sh
# The first process of a virtual machine: lets allocscope trace programs that know their own counts.
# What they print goes to the second serial port. A check is its programs' lines of JSON, and then
# {"check":NAME,"code":EXIT_CODE,"seconds":SINCE_BOOT}. What they say goes to the console.

/bin/busybox mount -t proc none /proc
/bin/busybox mount -t sysfs none /sys
/bin/busybox mount -t devtmpfs none /dev
export PATH=/bin
/bin/busybox --install -s /bin
stty -F /dev/ttyS1 raw
# One fault for each page.
echo never >/sys/kernel/mm/transparent_hugepage/enabled

check() {
    name=$1
    shift
    "$@" </dev/null >/tmp/out
    code=$?
    cat /tmp/out >/dev/ttyS1
    echo "{\"check\":\"$name\",\"code\":$code,\"seconds\":$(cut -d' ' -f1 /proc/uptime)}" >/dev/ttyS1
}

trace() {
    name=$1
    shift
    check "$name" allocscope run --format json -- "$@"
}

workload() {
    trace "$1" /bin/allocscope workload "$@"
}

# The Go program waits for a line while allocscope attaches to it. Once it traces, all its programs are
# loaded: the kernel tells how many instructions the verifier had to look at for each.
attach_go() {
    mkfifo /tmp/go
    /bin/large 1 wait </tmp/go &
    target=$!
    exec 3>/tmp/go
    allocscope attach --format json --pid "$target" 2>/tmp/said &
    tracer=$!
    until grep -q "tracing " /tmp/said; do
        kill -0 $tracer || return 1
        usleep 100000
    done
    cat /tmp/said >&2
    sed -n 's/^verified_insns:[[:space:]]*\([0-9]*\)/{"verified_instructions":\1}/p' /proc/$tracer/fdinfo/*
    echo >&3
    wait "$target" && wait "$tracer"
}

# A program in a cgroup that may have 28 MiB; who takes more is made to wait, and the kernel tells of it.
throttled() {
    mkdir /tmp/cgroup
    mount -t cgroup2 none /tmp/cgroup || return 1
    echo +memory >/tmp/cgroup/cgroup.subtree_control
    mkdir /tmp/cgroup/throttled
    echo 28M >/tmp/cgroup/throttled/memory.high
    sh -c 'echo 0 >/tmp/cgroup/throttled/cgroup.procs && exec "$@"' sh "$@"
}

check doctor allocscope doctor --format json
workload map --sizes 64KiB,1MiB,16MiB --count 7
workload threads --threads 3 --count 10 --size 1MiB
workload remap --rounds 2
workload brk --step 4MiB --steps 5 --rounds 2
trace native /bin/native 5
trace sampled /bin/sampled 3 7
trace go /bin/large 2
check attach attach_go
trace numa /bin/allocscope workload numa --size 4MiB --seconds 1 --rate 5
check pressure throttled allocscope workload pressure --idle 32MiB --seconds 6 --rate 10
# The kernel finds nothing to give back, and ends the other one.
trace reclaim /bin/scarce 48 all --sizes 128MiB --count 3
# Half of all pages are free, and no two that lie together; nobody moves them but who needs a huge page.
echo 0 >/proc/sys/vm/compaction_proactiveness
echo madvise >/sys/kernel/mm/transparent_hugepage/enabled
trace compaction /bin/scarce 80 alternate --sizes 128MiB --count 1 --huge-pages always
poweroff -f
