-- What a program holds while it waits in a call that nobody sees: drops what it
-- has of the kind in arg[1] and waits as arg[2] says, until it holds no more than
-- arg[3] MB. Prints what it held before, and after how many seconds it was so.
local ffi = require "ffi"

ffi.cdef [[
struct timespec { long seconds; long nanoseconds; };
int nanosleep(const struct timespec *, struct timespec *);
int pipe(int ends[2]);
int ppoll(void *files, unsigned long count, const struct timespec *, void *);
]]

local C = ffi.C
local kind, way, most = arg[1], arg[2], tonumber(arg[3])

local function anonymous_mb()
  local file = assert(io.open "/proc/self/smaps_rollup")
  local text = file:read "*a"
  file:close()
  return tonumber(text:match "Anonymous:%s+(%d+)") / 1024
end

local function fill()
  local rows = {}
  if kind == "strings" then
    for i = 1, 120000 do
      rows[i] = ("x"):rep(1000) .. i
    end
  elseif kind == "tables" then
    for i = 1, 400000 do
      rows[i] = { i }
    end
  else
    for i = 1, 100000 do
      rows[i] = { id = i, text = ("b"):rep(i * 7919 % 1500) .. i }
    end
    local kept = {}
    for i = 50, 100000, 50 do
      kept[i] = rows[i]
    end
    return kept
  end
end

local tenth = ffi.new("struct timespec", 0, 100000000)
local ways = {
  nanosleep = function()
    C.nanosleep(tenth, nil)
  end,
  ppoll = function()
    C.ppoll(nil, 0, tenth, nil)
  end,
  read = function()
    assert(io.popen "sleep 0.1"):read "*a"
  end,
  work = function()
    local ends = os.clock() + 0.1
    while os.clock() < ends do
    end
  end,
}

local kept = fill()
local before = anonymous_mb()
collectgarbage()
collectgarbage()
local waits, now = 0, before
repeat
  ways[way]()
  waits, now = waits + 1, anonymous_mb()
until now <= most or waits == 300
print(("%.1f MB, then %.1f MB after %d waits"):format(before, now, waits))
assert(now <= most, "the memory does not go back")
assert(kind ~= "scattered" or #kept[100].text == 100 * 7919 % 1500 + 3)
