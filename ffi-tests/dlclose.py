"""A host that closes the library while the background thread has memory to return."""

import _ctypes, ctypes, os, sys, time

library = ctypes.CDLL(sys.argv[1])
library.ebb_heap_new.restype = library.ebb_alloc.restype = ctypes.c_void_p
library.ebb_alloc.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
heap = library.ebb_heap_new(None)
blocks = [library.ebb_alloc(heap, None, 0, 2000) for _ in range(8000)]
for block in blocks:
    ctypes.memset(block, 1, 2000)
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGESIZE")
threads = lambda: len(os.listdir("/proc/self/task"))
full, start = resident(), time.monotonic()
for block in blocks:
    library.ebb_alloc(heap, block, 2000, 0)
_ctypes.dlclose(library._handle)
while threads() > 1 or resident() > full - 12e6:
    assert time.monotonic() - start < 60, (threads(), full, resident())
    time.sleep(0.05)
