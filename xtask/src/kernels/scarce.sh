#!/bin/busybox sh
# Something else takes the machine's memory before a workload maps its own.
#
#     scarce MEBIBYTES-LEFT all|alternate OPTIONS-OF-THE-WORKLOAD

/bin/hog "$1" "$2" || exit 1
shift 2
/bin/allocscope workload map "$@"
code=$?
killall -q -9 hog
exit $code
