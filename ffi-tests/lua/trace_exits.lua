-- Compiled loops that are left all the time with tables that only now get memory, while every
-- floating-point register holds a number: the function that leaves compiled code has them on its
-- stack, where an unwinder takes one for the address of the caller.

if not jit then
  return
end
-- A program may handle faults itself, and not as the allocator would like it.
if arg[2] == "alone" then
  local ffi = require "ffi"
  ffi.cdef "void (*signal(int number, void (*handler)(int)))(int);"
  ffi.C.signal(11, nil)
end
require("jit.opt").start("hotexit=1000000")
local kept, sum = {}, 0
for start = 1, tonumber(arg[1]) do
  local a, b, c, d, e, f, g, h = 1.1, 2.2, 3.3, 4.4, 5.5, 6.6, 7.7, 8.8
  local k, l, m, n, o, p = 1.5, 2.5, 3.5, 4.5, 5.5, 6.5
  -- Whichever way a round goes that is compiled, others go another way.
  for i = start, start + 10000 do
    a, b, c, d, e, f, g, h = a + 1.5, b * 1.0001, c - 1.1, d + a, e + b, f - c, g + d, h - e
    k, l, m, n, o, p = k + a, l - b, m + c, n - d, o + e, p - f
    local t = { a, b, i + 0.3 }
    if i % 3 == 0 then
      kept[i % 64] = t
    end
    sum = sum + t[1]
  end
  sum = sum + a + b + c + d + e + f + g + h + k + l + m + n + o + p
  jit.flush()
end
assert(sum < 0)
