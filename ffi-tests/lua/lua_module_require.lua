-- require, under the name and from the place that the arguments say.
local check = require "lua_module_check"

local name, source = arg[1], arg[2]
local allocator = require(name)
local found = debug.getinfo(allocator.stats, "S").source
assert(found:find(source, 1, true), found)
assert(require "ebbtide" == allocator and package.loaded["ebbtide"] == allocator)
for _, call in ipairs { "attach", "configure", "previous", "get", "heap", "next_tick", "pressure",
                        "reclaim", "report", "set", "stats", "tick", "version" } do
  check.equal(type(allocator[call]), "function", call)
end
assert(allocator.stats() and allocator.reclaim() and allocator.attach())
