-- The life of a VM that is closed after it: the host looks at what is left.
-- What it does depends on its number, so that it ends in many ways.
local allocator = require "ebbtide"
local objects = require "live_objects"

local number = vm or 1
local kept = objects.new(number)

-- Freed by lua_close() itself, when the module is gone or about to be.
local at_the_end = newproxy(true)
getmetatable(at_the_end).__gc = function()
  local report = allocator.reclaim()
  assert(not report or report.collected == false)
  allocator.stats()
  if number % 5 == 0 then
    assert(allocator.attach())
  end
end
_G.at_the_end, _G.kept = at_the_end, kept

kept:live(300)
local large = ("z"):rep(2 ^ 18 + number)
if number % 3 == 0 then
  assert(allocator.reclaim())
elseif number % 3 == 1 then
  assert(allocator.attach())
else
  assert(coroutine.wrap(allocator.attach)())
end
large = large .. "z"
kept:live(200)
kept:check()
assert(#large == 2 ^ 18 + number + 1)
