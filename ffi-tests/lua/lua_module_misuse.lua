-- Each function, called wrongly: an error that names the argument, and nothing
-- has changed. The same before and after attach().
local allocator = require "ebbtide"
local check = require "lua_module_check"

local function wrong_arguments()
  check.throws("bad argument #1 'options' to 'reclaim' (table, \"all\" or nil expected, " ..
               "got number 7)", allocator.reclaim, 7)
  check.throws("(table, \"all\" or nil expected, got string al)", allocator.reclaim, "al")
  check.throws("bad argument #1 'which' to 'stats' (\"all\" or nil expected, got string al)",
               allocator.stats, "al")
  check.throws("(\"all\" or nil expected, got boolean true)", allocator.stats, true)
  check.throws("'reclaim' (it takes no 'budget')", allocator.reclaim, { budget = 5 })
  check.throws("'reclaim' (it takes no '1')", allocator.reclaim, { 500 })
  check.throws("'budget_us' must be a number", allocator.reclaim, { budget_us = "soon" })
  check.throws("'budget_us' must be a number, 0 for no limit or more, not -1)", allocator.reclaim,
               { budget_us = -1 })
  check.throws("'budget_us' must be a number", allocator.reclaim, { budget_us = 0 / 0 })
  check.throws("'budget_us' must be a number", allocator.reclaim, { budget_us = 1 / 0 })
  check.throws("'collect' must be a boolean", allocator.reclaim, { collect = 1 })
  check.throws("'options' to 'attach' (table or nil expected, got string", allocator.attach, "x")
  check.throws("'budget_us' to 'tick' (microseconds, 0 for no limit or more, or nil expected, got string", allocator.tick,
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

-- Each function that takes nothing says so.
local function no_arguments()
  for _, name in ipairs { "report", "previous", "heap", "next_tick", "pressure", "version" } do
    check.throws("bad argument #1 to '" .. name .. "' (it takes none, got number 5)",
                 allocator[name], 5)
    check.throws("(it takes none, got table)", allocator[name], {})
  end
end

-- A colon in place of the dot; so in a copy of the module, as nginx makes one.
local function colons()
  local copy, count = {}, 0
  for name, value in pairs(allocator) do
    copy[name] = value
  end
  for name, value in pairs(allocator) do
    if type(value) == "function" then
      count = count + 1
      local text = "bad argument #1 to '" .. name .. "' (the module itself: call " .. name ..
                   " with a dot, not a colon)"
      check.throws(text, value, allocator, "retain")
      check.throws(text, value, copy)
    end
  end
  check.equal(count, 13, "functions")
end

-- What concerns all workers, where there are none.
local function all_workers()
  check.refused("only in nginx with the ebbtide module", allocator.stats("all"))
  check.refused("only in nginx with the ebbtide module", allocator.reclaim("all"))
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

local function all_wrong()
  wrong_arguments()
  no_arguments()
  colons()
  all_workers()
end

all_wrong()
check.equal(allocator.heap().allocator, "builtin", "allocator")
assert(allocator.attach())
local before = settings()
all_wrong()
check.equal(settings(), before, "options")
check.equal(allocator.heap().allocator, "ebbtide", "allocator")
-- What a caller left in a table that is no longer used stays out of the next.
check.equal(allocator.reclaim { budget_us = 100, collect = false }.collected, false, "collected")
check.equal(allocator.reclaim().collected, true, "collected")
