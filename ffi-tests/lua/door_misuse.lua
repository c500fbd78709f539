-- Each function, called wrongly: an error that names the argument, and nothing
-- has changed. The same before and after attach().
local allocator = require "ebbtide"
local check = require "door_check"

local function wrong_arguments()
  check.throws("bad argument #1 'options' to 'reclaim' (table or nil expected, got number 7)",
               allocator.reclaim, 7)
  check.throws("'reclaim' (it takes no 'budget')", allocator.reclaim, { budget = 5 })
  check.throws("'reclaim' (it takes no '1')", allocator.reclaim, { 500 })
  check.throws("'budget_us' must be a number", allocator.reclaim, { budget_us = "soon" })
  check.throws("'budget_us' must be a number", allocator.reclaim, { budget_us = -1 })
  check.throws("'budget_us' must be a number", allocator.reclaim, { budget_us = 0 / 0 })
  check.throws("'budget_us' must be a number", allocator.reclaim, { budget_us = 1 / 0 })
  check.throws("'collect' must be a boolean", allocator.reclaim, { collect = 1 })
  check.throws("'options' to 'attach' (table or nil expected, got string", allocator.attach, "x")
  check.throws("'budget_us' to 'tick' (microseconds or nil expected, got string", allocator.tick,
               "x")
  check.throws("'budget_us' to 'tick'", allocator.tick, -5)
  check.throws("bad argument #1 'name' to 'get' (string expected, got nil)", allocator.get)
  check.throws("bad argument #1 'name' to 'get' (string expected, got table)", allocator.get, {})
  check.throws("bad argument #1 'name' to 'set' (string expected, got number 5)", allocator.set, 5)
  check.throws("bad argument #2 'value' to 'set'", allocator.set, "retain")
  check.throws("bad argument #2 'value' to 'set'", allocator.set, "retain", {})
  check.throws("bad argument #1 'options' to 'configure' (table expected, got nil)",
               allocator.configure)
  check.throws("option 'retain' is table", allocator.configure, { retain = {} })
  check.throws("option '1' is retain", allocator.configure, { "retain" })
end

local function settings()
  local heap = allocator.heap()
  local names = {}
  for name, value in pairs(heap.options or {}) do
    names[#names + 1] = name .. "=" .. value
  end
  table.sort(names)
  return table.concat(names, " ")
end

wrong_arguments()
check.equal(allocator.heap().allocator, "builtin", "allocator")
assert(allocator.attach())
local before = settings()
wrong_arguments()
check.equal(settings(), before, "options")
check.equal(allocator.heap().allocator, "ebbtide", "allocator")
-- What a caller left in a table that is no longer used stays out of the next.
check.equal(allocator.reclaim { budget_us = 100, collect = false }.collected, false, "collected")
check.equal(allocator.reclaim().collected, true, "collected")
