# A program of bcc, with the argument that its Python side leaves out when it attaches a uprobe: libbcc 0.26 takes
# what lies on the stack for the offset of a reference counter in the traced file, which the kernel refuses (EINVAL)
# wherever the same place has a probe without one.
import ctypes
import runpy
import sys

from bcc.libbcc import lib

attach = lib.bpf_attach_uprobe
attach.argtypes = [*attach.argtypes[:6], ctypes.c_uint32]
lib.bpf_attach_uprobe = lambda *arguments: attach(*arguments[:6], 0)
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
