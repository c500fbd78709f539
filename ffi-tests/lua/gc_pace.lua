-- Under the preload library: a thread that waits leaves the collector as it is,
-- for by then another thread may run the VM. For a limit of 32 MB.
local ffi = require "ffi"
ffi.cdef "int poll(void *, unsigned long, int);"
local poll = ffi.C.poll

local function pace(new)
  return (collectgarbage("setstepmul", new))
end

-- Keeps what it allocates until the heap has changed the step multiplier.
local kept, old = {}, pace(321)
repeat
  kept[#kept + 1] = { #kept }
  old = pace(321)
  pace(old)
until old ~= 321
for _ = 1, 3 do
  poll(nil, 0, 50)
end
local now = pace(old)
assert(now == old, ("it was %d, and is %d"):format(old, now))
assert(#kept > 0)
