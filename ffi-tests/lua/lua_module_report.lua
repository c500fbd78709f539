-- What report() promises, held against what happens: how much lies in large
-- blocks, what reclaim() and attach() give back, and what a heap at rest does.
local ffi = require "ffi"
local allocator = require "ebbtide"
local check = require "lua_module_check"

ffi.cdef [[
int usleep(unsigned);
int open(const char *, int, ...);
int dup2(int, int);
int fork(void);
int waitpid(int, int *, int);
]]

local MB = 2 ^ 20
local mode, attaches = arg[1], arg[2]

-- The bytes that a report names: one number, or the ends of a range.
local function told(pattern)
  local report = assert(allocator.report())
  local low, high = report:match(pattern)
  assert(low, pattern .. " is not in: " .. report)
  low, high = tonumber(low) * MB, tonumber(high or low) * MB
  assert(low <= high, "a range from its lower to its upper end: " .. report)
  return low, high, report
end

local LARGE = "large +([%d.]+) to ([%d.]+) MB in blocks of 128 KiB and more"
local IN_PLACE = "reclaim%(%) would give back ([%d.]+) MB in place"
local ATTACHED = "in place, attach%(%) ([%d.]+) to ([%d.]+) MB"
local AT_REST = "at rest the heap gives back ([%d.]+) to ([%d.]+) MB"

local function collect()
  collectgarbage()
  collectgarbage()
end

-- Large strings, a large table and large C data, on top of many small blocks.
local function large_blocks()
  local rows = {}
  for i = 1, 2e5 do
    rows[i] = { i, tostring(i) }
  end
  local large = {}
  for i = 1, 30 do
    large[i] = ("x"):rep(4 * MB) .. i
  end
  large.data = ffi.new("char[?]", 40 * MB)
  collect()
  if attaches then
    assert(allocator.attach())
  end
  local before = check.anonymous()
  local low, high = told(LARGE)
  check.within(160 * MB, high, 200 * MB, "large blocks at most")
  large = nil
  collect()
  local fallen = before - check.anonymous()
  -- The buffer in which strings are joined, and the rows' own table, stay.
  check.within(low - 16 * MB, fallen, high + MB, "fallen by freed large blocks")
  check.equal(#rows, 2e5, "rows")
end

-- A peak of traffic of which every 40th row stays, and whole pages beside them.
local function peak()
  local rows, kept = {}, {}
  for i = 1, 2e5 do
    rows[i] = { id = i, name = "request " .. i }
    if i % 40 == 0 then
      kept[#kept + 1] = rows[i]
    end
  end
  for i = 1, 200 do
    rows[i] = ("x"):rep(5e4) .. i
  end
  rows = nil
  collect()
  return kept
end

local function in_place()
  local kept = peak()
  local before = check.anonymous()
  local promised = told(IN_PLACE)
  -- LuaJIT may unmap a segment that has become free before reclaim() comes to it.
  local returned = assert(allocator.reclaim { collect = false }).returned
  check.within(1, returned, promised + MB / 2, "returned")
  check.within(promised - MB, before - check.anonymous(), promised + MB, "fallen")
  check.equal(#kept, 5000, "kept")
end

-- What stays keeps the segments; once it is replaced they go.
local function by_attach()
  local kept = peak()
  local before = check.anonymous()
  local low, high = told(ATTACHED)
  check.within(10 * MB, high - low, 2 ^ 40, "what depends on what is live")
  assert(allocator.attach())
  check.within(low - MB, before - check.anonymous(), high + MB, "fallen while all stays")
  for i = 1, #kept do
    kept[i] = { id = i, name = "session " .. i }
  end
  collect()
  assert(allocator.reclaim())
  local fallen = before - check.anonymous()
  check.within(low - MB, fallen, high + MB, "fallen once all was replaced")
  check.within(high - 5 * MB, fallen, high + MB, "fallen of what was possible")
end

local function at_rest()
  assert(allocator.attach { decay_ms = 200 })
  local kept
  for _ = 1, 4 do
    kept = peak()
  end
  local before, since = check.anonymous(), os.time()
  local low, high, report = told(AT_REST)
  check.within(5 * MB, high, 2 ^ 40, "free memory")
  assert(report:find("due now", 1, true), report)
  while allocator.next_tick() ~= math.huge do
    check.within(0, os.time() - since, 100, "seconds until it rests")
    ffi.C.usleep(20000)
    allocator.tick()
  end
  check.within(low - MB, before - check.anonymous(), high + MB, "fallen")
  check.equal(#kept, 5000, "kept")
end

-- The environment is the caller's: EBBTIDE_CHECKED=1, EBBTIDE_DECAY=500.
local function environment()
  if attaches == "other" then
    -- Another file takes the place of standard error.
    ffi.C.dup2(ffi.C.open("/dev/null", 1), 2)
  elseif attaches == "attach" then
    assert(allocator.attach())
  elseif attaches == "refused" then
    assert(not allocator.attach())
  end
  io.write(assert(allocator.report()))
  io.flush()
  if attaches == "fork" then
    local child = ffi.C.fork()
    if child ~= 0 then
      assert(ffi.C.waitpid(child, nil, 0) == child)
    end
  end
  if attaches == "exit" or attaches == "fork" then
    os.exit(0)
  end
end

local modes = { large = large_blocks, reclaim = in_place, attach = by_attach, rest = at_rest,
                environment = environment }
modes[mode]()
