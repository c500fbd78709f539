-- Free pages of the allocator that a VM ran on before attach() go back by themselves: at attach(),
-- while the VM works, and in tick(). One block in a hundred stays, so that LuaJIT frees no segment.
local allocator = require "ebbtide"
local check = require "lua_module_check"

local MB = 2 ^ 20

local function collect()
  collectgarbage()
  collectgarbage()
end

-- Rows with some 25 MB of strings; every hundredth is kept.
local function rows()
  local all, kept = {}, {}
  for i = 1, 60000 do
    all[i] = { ("row "):rep(100) .. i }
    kept[#kept + 1] = i % 100 == 0 and all[i] or nil
  end
  return all, kept
end

-- What the previous allocator could still give back.
local function returnable()
  return assert(allocator.previous()).returnable
end

local function still(kept)
  check.equal(#kept, 600, "rows")
  for i = 1, #kept do
    check.equal(kept[i][1], ("row "):rep(100) .. i * 100, "a row")
  end
end

local all, first = rows()
all = nil
collect()
local before, promised = check.anonymous(), assert(allocator.stats()).returnable
check.within(15 * MB, promised, 60 * MB, "returnable")
local old, second = rows()
local auto = arg[1] ~= "off"
collect()
promised = assert(allocator.stats()).returnable
before = check.anonymous()
assert(allocator.attach { auto = auto })
local fallen = before - check.anonymous()
check.within(auto and promised - MB or -MB, fallen, (auto and promised or 0) + MB, "at attach()")

old = nil
collect()
if arg[1] == "work" then
  -- A bound on the work, not on the time: the pace has a share of the time. Ten seconds of it are
  -- a hundred times what it takes.
  local since = os.clock()
  while returnable() > MB and os.clock() - since < 10 do
    for i = 1, 10000 do
      first[0] = { i }
    end
  end
else
  local since = os.time()
  while allocator.next_tick() ~= math.huge do
    check.within(0, os.time() - since, 100, "seconds until it rests")
    allocator.tick(500)
  end
end
check.within(0, returnable(), MB, "returnable in the end")
check.within(promised - 4 * MB, before - check.anonymous(), 2 ^ 40, "fallen in the end")
first[0] = nil
still(first)
still(second)
