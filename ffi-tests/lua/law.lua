-- A program in phases, for the law of memory:
--
--   law.lua KIND WAIT DOOR [ARGUMENT...]
--
-- Says on standard output when each phase begins. KIND is what the program makes
-- and drops, with another count than usual as in "tables:1200000", or the path
-- of a script that is its work, with these arguments; WAIT is what it waits in
-- afterwards. DOOR is "stock", or "heap" where the VM must have one, or "attach"
-- where it is to get one; the last phase of these is a full reclaim. Under
-- pool_run.c threads hand the VM on: the KIND "pool" and the WAIT "queue" are
-- for that. Under nginx the program runs in a request handler or in a timer, as
-- WAIT says, and waits in nginx's event loop.
local ffi = require "ffi"

ffi.cdef [[
struct timespec { long seconds; long nanoseconds; };
struct pollfd { int fd; short events; short returned; };
int nanosleep(const struct timespec *, struct timespec *);
int poll(struct pollfd *, unsigned long, int);
int epoll_create1(int);
int epoll_wait(int, void *, int, int);
int pthread_mutex_lock(void *);
int pthread_mutex_unlock(void *);
int pthread_cond_timedwait(void *, void *, const struct timespec *);
int clock_gettime(int, struct timespec *);
]]

local C = ffi.C
local kind, wait, door = arg[1], arg[2], arg[3]
local name, count = kind:match "^([%l_]+):?(%d*)$"
count = tonumber(count)
local REST_S = 4

io.stdout:setvbuf "no"

-- Scripts may write, too, and nobody wants to read that.
local write = io.write

local function phase(title)
  write("phase " .. title .. "\n")
end

phase "start"
local ebbtide = door ~= "stock" and require "ebbtide"
if door == "attach" then
  assert(ebbtide.attach())
end
if ebbtide then
  assert(ebbtide.stats().allocator == "ebbtide", "the VM has no heap")
end

local function now()
  local time = ffi.new "struct timespec"
  C.clock_gettime(1, time)
  return tonumber(time.seconds) + tonumber(time.nanoseconds) / 1e9
end

-- Waits as an event loop does.
local function pause(seconds)
  if ngx then
    -- nginx takes the time from its last look at the clock.
    ngx.update_time()
    ngx.sleep(seconds)
  else
    C.poll(nil, 0, seconds * 1000)
  end
end

local function collect()
  -- Each of them halves LuaJIT's own buffer for strings, too.
  for number = 1, 6 do
    phase("collect " .. number)
    collectgarbage()
  end
end

-- Says how far a loop is, for two runs to be compared at the same turn.
local function turn(i, number)
  if i % math.ceil(number / 20) == 0 then
    phase("turn " .. i)
  end
end

-- Rows of one kind, all dropped but every `keep`th.
local function rows(number, keep, make)
  phase "fill"
  local all, kept = {}, {}
  for i = 1, number do
    all[i] = make(i)
    turn(i, number)
  end
  for i = keep or number + 1, number, keep or 1 do
    kept[#kept + 1] = all[i]
  end
  all = nil
  collect()
  return kept
end

-- Hands the VM on, to the thread that goes on with it after some seconds.
local function hand_on(seconds)
  coroutine.yield(seconds)
end

local function small_table(i)
  return { i }
end

local function record(i)
  return { id = i, text = ("b"):rep(i * 7919 % 1500) .. i }
end

local kinds = {
  tables = function()
    return rows(count or 800000, nil, small_table)
  end,
  strings = function()
    return rows(count or 200000, nil, function(i)
      return ("x"):rep(1000) .. i
    end)
  end,
  survivors = function()
    return rows(100000, 50, record)
  end,
  peaks = function()
    local kept
    for _ = 1, 3 do
      kept = rows(60000, 100, record)
      phase "pause"
      pause(0.3)
    end
    return kept
  end,
  block = function()
    phase "fill"
    local size = count or 200e6
    local block = ("x"):rep(size)
    assert(#block == size)
    block = nil
    collect()
  end,
  array = function()
    phase "fill"
    local array = {}
    for i = 1, 12e6 do
      array[i] = i
      turn(i, 12e6)
    end
    array = nil
    collect()
  end,
  -- A heap of 40 MB whose garbage comes and goes.
  steady = function()
    phase "fill"
    local ring = {}
    for i = 1, 4e6 do
      ring[i % 40000] = { i, ("y"):rep(i % 500) }
      turn(i, 4e6)
    end
    return ring
  end,
  -- A heap of 35 MB whose garbage comes and goes, in turns of some milliseconds
  -- each; what is left of it lies apart.
  pool = function()
    phase "fill"
    local ring, kept = {}, {}
    for i = 1, 800000 do
      ring[i % 40000 + 1] = record(i)
      turn(i, 800000)
      if i % 500 == 0 then
        hand_on(0)
      end
    end
    for i = 1, #ring, 50 do
      kept[#kept + 1] = ring[i]
    end
    ring = nil
    collect()
    return kept
  end,
}

-- Small tables and strings that come and go, 3 MB in a second.
local function work(ms)
  for _ = 1, ms / 10 do
    C.poll(nil, 0, 10)
    for i = 1, 300 do
      local _ = { i, tostring(now() + i) }
    end
  end
end

-- A large table that is filled again and again.
function kinds.swings()
  for _ = 1, 12 do
    phase "fill"
    local array = {}
    for i = 1, 2.5e6 do
      array[i] = i
    end
    array = nil
    collectgarbage()
    phase "pause"
    work(300)
  end
  collect()
end

-- The same after small blocks of 360 MB have come and gone. They lie close
-- together, without garbage among them, so stock LuaJIT keeps none of them.
function kinds.strings_then_swings()
  phase "fill"
  collectgarbage "stop"
  local all, text = require "table.new"(360000, 0), ("x"):rep(970)
  for i = 1, 360000 do
    all[i] = text .. i
    turn(i, 360000)
  end
  all = nil
  collectgarbage "restart"
  collect()
  kinds.swings()
end

local tenth = ffi.new("struct timespec", 0, 100000000)
local epoll = C.epoll_create1(0)
local event = ffi.new "char[12]"
local mutex, condition = ffi.new "char[64]", ffi.new "char[64]"

local ways = {
  nanosleep = function()
    C.nanosleep(tenth, nil)
  end,
  poll = function()
    C.poll(nil, 0, 100)
  end,
  epoll = function()
    C.epoll_wait(epoll, event, 1, 100)
  end,
  read = function()
    assert(io.popen "sleep 1"):read "*a"
  end,
  condition = function()
    local time = ffi.new "struct timespec"
    C.clock_gettime(0, time)
    time.seconds = time.seconds + 1
    C.pthread_mutex_lock(mutex)
    C.pthread_cond_timedwait(condition, mutex, time)
    C.pthread_mutex_unlock(mutex)
  end,
  busy = function()
    local ends = now() + 0.1
    while now() < ends do
    end
  end,
  -- One allocation a second, and one in ten milliseconds.
  rarely = function()
    C.nanosleep(ffi.new("struct timespec", 1, 0), nil)
    return { wait }
  end,
  -- No thread has the VM.
  queue = function()
    hand_on(REST_S)
  end,
  work = function()
    work(100)
  end,
  handler = function()
    pause(REST_S)
  end,
  timer = function()
    pause(REST_S)
  end,
  lightly = function()
    local list = {}
    for i = 1, 10 do
      pause(0.01)
      list[i] = { i, tostring(now()) }
    end
  end,
}

-- A script of the benches or of the tests.
local function run_script()
  local here = arg[0]:match "^(.*/)"
  local script = dofile(here .. "law_script.lua")
  script(kind, { select(4, unpack(arg)) }, { phase = phase, now = now, pause = pause })
  collect()
end

local kept = (kinds[name] or run_script)()

phase "rest"
local ends = now() + REST_S
while now() < ends do
  ways[wait]()
end
phase "reclaim"
if ebbtide then
  ebbtide.reclaim { collect = false }
end
pause(0.2)
phase "end"
pause(0.1)
return kept
