-- attach() at a moment that the argument names: at the start, in the middle of
-- work, in a coroutine, in a compiled loop, in a finalizer, in a sort. Then
-- both heaps are looked at, served, and emptied of what was there before.
local allocator = require "ebbtide"
local check = require "lua_module_check"
local objects = require "live_objects"

local MB = 2 ^ 20
local moments = {}

function moments.start()
  assert(allocator.attach())
end

function moments.middle()
  assert(pcall(allocator.attach, nil))
end

function moments.coroutine()
  local resume = coroutine.wrap(function(...)
    local given = { ... }
    coroutine.yield(allocator.attach { decay_ms = 500 })
    return #given
  end)
  check.equal(resume(1, 2, 3), true, "attach()")
  check.equal(resume(), 3, "what the coroutine was given")
  check.equal(allocator.get("decay_ms"), 500, "decay_ms")
end

-- The loop is compiled long before; attach() is called from where it was always
-- called from.
function moments.loop()
  local rows, attached_at = {}, 0
  local function none()
    return false
  end
  for i = 1, 3000 do
    local call = i == 2000 and allocator.attach or none
    if call() then
      attached_at = i
    end
    rows[i] = { i, "row " .. i, { i } }
  end
  check.equal(attached_at, 2000, "attached at")
  for i = 1, 3000 do
    assert(rows[i][1] == i and rows[i][2] == "row " .. i and rows[i][3][1] == i)
  end
end

function moments.finalizer()
  local attached
  getmetatable(newproxy(true)).__gc = function()
    attached = allocator.attach()
  end
  collectgarbage()
  check.equal(attached, true, "attach() in a finalizer")
end

-- While C code of LuaJIT's is in the middle of something.
function moments.sort()
  local numbers, calls = {}, 0
  for i = 1, 500 do
    numbers[i] = i * 7919 % 500
  end
  table.sort(numbers, function(a, b)
    calls = calls + 1
    if calls == 1000 then
      assert(allocator.attach())
    end
    return a < b
  end)
  for i = 1, 500 do
    check.equal(numbers[i], i - 1, "a sorted number")
  end
  local text = ("abc"):rep(1000):gsub("b", function()
    return select(2, allocator.attach()) and "B"
  end)
  check.equal(text, ("aBc"):rep(1000), "a text")
end

-- Tables, strings and arrays that are mapped apart, across the change.
local function large_blocks()
  local array = {}
  for i = 1, 100000 do
    array[i] = i
  end
  return { array = array, text = ("0123456789"):rep(50000), pieces = { ("y"):rep(300000) } }
end

local function large_blocks_grow(large)
  for i = 100001, 300000 do
    large.array[i] = i
  end
  for i = 1, 300000, 7 do
    check.equal(large.array[i], i, "a number in an array")
  end
  for i = 300000, 51, -1 do
    large.array[i] = nil
  end
  large.array.key = true
  check.equal(#large.array, 50, "the length of an array")
  check.equal(large.text, ("0123456789"):rep(50000), "a long text")
  large.pieces[2] = large.text
  check.equal(#table.concat(large.pieces), 800000, "the length of a long text")
  check.equal(large.pieces[1], ("y"):rep(300000), "a long text")
end

local function attached_twice()
  local before = allocator.stats()
  local again, reason = allocator.attach { decay_ms = 1 }
  check.equal(again, true, "attach()")
  check.equal(reason, "already attached", "attach()")
  check.within(2, allocator.get("decay_ms"), 3600000, "decay_ms")
  local stats = assert(allocator.stats())
  check.equal(stats.allocator, "ebbtide", "allocator")
  check.equal(stats.attached, true, "attached")
  check.within(1, stats.previous_live, before.previous_live, "previous_live")
  check.equal(stats.previous_damaged, false, "previous_damaged")
  assert(allocator.report():find("attached to a running VM", 1, true))
  assert(not allocator.report():find("damaged", 1, true))
  assert(allocator.report():find("previous ", 1, true))
end

-- The heap's own account, and the previous one's, which the bond has kept.
local function both_add_up()
  local stats, previous = assert(allocator.stats()), assert(allocator.previous())
  check.adds_up(previous)
  check.within(stats.previous_live - MB / 8, previous.live, stats.previous_live, "previous().live")
  check.equal(stats.previous_reserved, previous.reserved, "previous_reserved")
  check.within(previous.resident - MB / 4, stats.previous_resident, previous.reserved,
               "previous_resident")
  check.within(0.001, previous.share, 1, "share")
  check.equal(stats.committed, stats.live + stats.waste + stats.free_resident + stats.returned
              + stats.never_touched + stats.metadata, "committed")
  return stats, previous
end

local function reclaim_serves_both()
  -- From here on nothing goes back by itself, so that the figures are of one moment.
  assert(allocator.set("auto", false))
  collectgarbage()
  collectgarbage()
  local stats, previous = both_add_up()
  local before = check.anonymous()
  local report = assert(allocator.reclaim { collect = false })
  local fallen = before - check.anonymous()
  local due = stats.free_resident + previous.returnable
  check.within(due * 0.6 - MB, report.returned, due + 2 * MB, "returned")
  check.within(report.returned - 2 * MB, fallen, report.returned + 2 * MB, "fallen")
  check.within(0, allocator.previous().returnable, MB / 2, "returnable of the previous")
  stats, previous = both_add_up()
  check.within(previous.resident - MB / 4, stats.previous_resident, previous.resident + MB / 4,
               "previous_resident")
  check.within(stats.live + stats.previous_live - MB, report.live,
               stats.live + stats.previous_live + MB, "live")
  check.within(stats.resident + previous.resident - MB, report.resident,
               stats.resident + previous.resident + MB, "resident")
  local rounds = 0
  repeat
    rounds = rounds + 1
    local more = assert(allocator.reclaim { collect = false, budget_us = 1 }).more
    assert(rounds < 100000, "it does not end")
  until not more
  -- At the end of a pass in steps, too, the kernel is asked.
  previous = assert(allocator.previous())
  check.within(previous.resident - MB / 4, assert(allocator.stats()).previous_resident,
               previous.resident + MB / 4, "previous_resident after steps")
  assert(allocator.set("auto", true))
end

local function old_data_goes(old)
  local before = both_add_up()
  for index = 1, #old do
    old[index] = nil
  end
  collectgarbage()
  collectgarbage()
  local stats, previous = both_add_up()
  check.within(MB, before.previous_live - stats.previous_live, before.previous_live, "what has gone")
  -- What is left: the VM itself, the libraries, this script.
  check.within(1, stats.previous_live, 2 * MB, "previous_live")
  check.within(1, allocator.reclaim().returned, previous.reserved + stats.committed, "returned")
end

local moment = assert(arg[1])
local kept, old, large = objects.new(11), {}, nil
if moment ~= "start" then
  kept:live(3000)
  large = large_blocks()
  for i = 1, 40000 do
    old[i] = { i, "old " .. i }
  end
end
moments[moment]()
kept:check()
if moment ~= "start" then
  attached_twice()
  large_blocks_grow(large)
end
large = nil
kept:live(4000)
kept:check()
kept:drop(0.5)
if moment ~= "start" then
  reclaim_serves_both()
  old_data_goes(old)
end
kept:check()
kept:live(1000)
kept:check()
both_add_up()
