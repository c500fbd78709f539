-- A VM on an allocator that is not LuaJIT's own: every door stays shut, with a
-- reason in which the argument is found; with "none", it is ebbtide's.
local allocator = require "ebbtide"
local check = require "lua_module_check"

local reason = arg[1]
for _, name in ipairs { "stats", "report", "reclaim", "attach", "heap", "previous" } do
  check.refused(reason, allocator[name]())
end
check.refused(reason, allocator.attach { retain = 2 ^ 20 })
do
  local garbage = setmetatable({}, { __mode = "k" })
  garbage[{}] = true
  check.refused(reason, allocator.reclaim())
  assert(next(garbage), "it collected, though there is nothing to reclaim")
end
check.refused(reason, allocator.reclaim { budget_us = 10, collect = false })
for _, name in ipairs { "tick", "next_tick", "pressure" } do
  check.refused("attach%(%)", allocator[name]())
end
check.refused("attach%(%)", allocator.get("retain"))
check.refused("attach%(%)", allocator.set("retain", 2 ^ 20))
check.refused("attach%(%)", allocator.configure { retain = 2 ^ 20 })
check.throws("'options' to 'attach'", allocator.attach, 5)
assert(allocator.version():find("^%d"))
