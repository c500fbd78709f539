-- The module in a VM on LuaJIT's own allocator that stays as it is: statistics
-- that add up, and memory that goes back in place while live data stays.
local allocator = require "ebbtide"
local check = require "lua_module_check"
local objects = require "live_objects"

local MB = 2 ^ 20

local function statistics()
  local stats = assert(allocator.stats())
  check.adds_up(stats)
  check.equal(stats.allocator, "builtin", "allocator")
  check.equal(stats.attached, false, "attached")
  -- The collector counts what is mapped apart, too; nothing here is.
  check.within(stats.collected, stats.live, stats.collected * 1.5 + MB, "live")
  check.within(2 ^ -20, stats.share, 1, "share")
  check.within(stats.resident, stats.process_resident, 2 ^ 40, "process_resident")
  check.equal(stats.share, stats.resident / stats.process_resident, "share")
  for name, value in pairs(stats) do
    if name ~= "allocator" and name ~= "attached" and name ~= "free_by_size" then
      check.within(0, value, 2 ^ 53, name)
    end
  end
end

-- What is mapped apart is in no figure but the collector's.
local function mapped_apart()
  local before = allocator.stats()
  local large = ("x"):rep(16 * MB)
  local after = allocator.stats()
  -- The string, and the buffer that it was made in.
  check.within(16 * MB, after.collected - before.collected, 36 * MB, "collected")
  check.within(-MB, after.live - before.live, MB, "live")
  check.within(15 * MB, after.large_max - before.large_min, 38 * MB, "large blocks")
  check.within(0, after.large_min, after.large_max, "large_min")
  return large
end

local function text()
  local report = assert(allocator.report())
  for _, word in ipairs { "LuaJIT's own allocator", "resident ", "live ", "free ", "returnable ",
                          "% of the " } do
    assert(report:find(word, 1, true), word .. " is not in: " .. report)
  end
  assert(report:find("nothing to gain", 1, true) or report:find("would give back", 1, true),
         report)
end

local function facts()
  local heap = assert(allocator.heap())
  check.equal(heap.allocator, "builtin", "allocator")
  check.equal(heap.attached, false, "attached")
  check.equal(heap.options, nil, "options")
  check.equal(allocator.version(), allocator._VERSION, "version")
  assert(allocator.version():find("^%d+%.%d+%.%d+"))
  for _, name in ipairs { "tick", "next_tick", "pressure" } do
    check.refused("attach%(%)", allocator[name]())
  end
  check.refused("attach%(%)", allocator.get("retain"))
  check.refused("attach%(%)", allocator.set("retain", 1))
  check.refused("attach%(%)", allocator.configure { retain = 1 })
  check.refused("not attached", allocator.previous())
end

-- Garbage on top of objects that stay: what a traffic peak leaves behind.
local function peak()
  local kept = objects.new(7)
  local rows = {}
  for i = 1, 120000 do
    rows[i] = { i, name = "row " .. i }
    if i % 300 == 0 then
      kept:live(1)
    end
  end
  return kept
end

local function report_is_whole(report, collected)
  check.equal(report.collected, collected, "collected")
  check.within(0, report.returned, 2 ^ 40, "returned")
  check.within(0, report.elapsed_us, 6e7, "elapsed_us")
  check.equal(report.refused, 0, "refused")
  check.equal(type(report.more), "boolean", "type of more")
end

local function in_place()
  local kept = peak()
  collectgarbage()
  collectgarbage()
  kept:check()
  local told = allocator.stats()
  local before = check.anonymous()
  local report = assert(allocator.reclaim { collect = false })
  local fallen = before - check.anonymous()
  report_is_whole(report, false)
  check.equal(report.more, false, "more")
  check.within(5 * MB, report.returned, told.returnable + MB, "returned")
  check.within(told.returnable - MB, report.returned, told.returnable + MB, "returned")
  check.within(report.returned - 2 * MB, fallen, report.returned + 2 * MB, "fallen")
  local after = allocator.stats()
  check.adds_up(after)
  check.within(after.live - MB / 4, report.live, after.live, "live")
  check.within(report.resident, after.resident, report.resident + MB / 2, "resident")
  kept:check()
  local again = assert(allocator.reclaim())
  report_is_whole(again, true)
  check.within(0, again.returned, MB, "returned again")
  check.within(0, allocator.reclaim { collect = false }.returned, MB / 8, "returned at last")
  kept:check()
  kept:live(300)
  kept:check()
end

local function within_a_budget()
  local kept = peak()
  collectgarbage()
  collectgarbage()
  local told, returned, calls = allocator.stats(), 0, 0
  repeat
    local report = assert(allocator.reclaim { budget_us = 1, collect = false })
    report_is_whole(report, false)
    check.equal(report.live, 0, "live")
    returned, calls = returned + report.returned, calls + 1
    if calls % 3 == 0 then
      kept:live(1)
    end
    assert(calls < 100000, "it does not end")
  until not report.more
  check.within(2, calls, 100000, "calls")
  check.within(told.returnable / 2, returned, told.returnable + 2 * MB, "returned")
  kept:check()
end

local function without_a_collection()
  local before = collectgarbage("count")
  do
    local garbage = {}
    for i = 1, 20000 do
      garbage[i] = { i }
    end
  end
  collectgarbage("stop")
  report_is_whole(allocator.reclaim(), false)
  check.within(before + 500, collectgarbage("count"), math.huge, "count")
  collectgarbage("restart")
  report_is_whole(allocator.reclaim { collect = false, budget_us = 0 }, false)
  check.within(before + 500, collectgarbage("count"), math.huge, "count")
  report_is_whole(allocator.reclaim { collect = true }, true)
  check.within(0, collectgarbage("count"), before + 200, "count")
end

local function in_finalizers()
  local told = {}
  local function finalizer()
    told[#told + 1] = assert(allocator.reclaim())
    check.adds_up(assert(allocator.stats()))
  end
  for _ = 1, 5 do
    getmetatable(newproxy(true)).__gc = finalizer
  end
  local has_ffi, ffi = pcall(require, "ffi")
  if has_ffi then
    ffi.gc(ffi.new("int[4]"), finalizer)
  end
  collectgarbage()
  collectgarbage()
  check.equal(#told, has_ffi and 6 or 5, "finalizers")
  for _, report in ipairs(told) do
    report_is_whole(report, false)
  end
end

local function from_everywhere()
  assert(pcall(allocator.reclaim))
  local wrapped = coroutine.wrap(function()
    report_is_whole(coroutine.yield(allocator.reclaim()), true)
    check.adds_up(allocator.stats())
    return allocator.reclaim { collect = false }
  end)
  report_is_whole(wrapped(wrapped()), false)
  local sum, wanted = 0, 0
  for i = 1, 150 do
    local row = { i, tostring(i) }
    if i % 2 == 0 then
      sum = sum + (allocator.reclaim { budget_us = 20, collect = false }.more and 0 or 1)
    end
    wanted = wanted + row[1]
  end
  check.equal(wanted, 150 * 151 / 2, "the sum of a loop")
  for _ = 1, 60 do
    check.adds_up(allocator.stats())
  end
end

statistics()
text()
facts()
in_place()
text()
within_a_budget()
without_a_collection()
in_finalizers()
from_everywhere()
statistics()
mapped_apart()
check.equal(allocator.heap().allocator, "builtin", "allocator at the end")
