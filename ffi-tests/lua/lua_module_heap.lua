-- The module in a VM whose host made it on a heap of ebbtide's.
local allocator = require "ebbtide"
local check = require "lua_module_check"
local objects = require "live_objects"

local stats = assert(allocator.stats())
check.equal(stats.allocator, "ebbtide", "allocator")
check.equal(stats.attached, false, "attached")
check.equal(stats.previous_live, 0, "previous_live")
check.equal(allocator.heap().attached, false, "attached")
local attached, already = allocator.attach()
check.equal(attached, true, "attach()")
check.equal(already, "already attached", "attach()")
check.refused("no previous heap", allocator.previous())

local kept = objects.new(3)
kept:live(2000)
kept:drop(0.7)
local report = assert(allocator.reclaim())
check.equal(report.collected, true, "collected")
check.equal(report.more, false, "more")
kept:check()
check.within(1, report.live, allocator.stats().live + 2 ^ 16, "live")
assert(allocator.report():find("An ebbtide heap\n", 1, true))
assert(allocator.set("retain", 2 ^ 20))
check.equal(allocator.get("retain"), 2 ^ 20, "retain")
