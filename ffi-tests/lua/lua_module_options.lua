-- Options, from attach() to configure(); what a heap says of itself.
local allocator = require "ebbtide"
local check = require "lua_module_check"

local function refused_before()
  check.refused("decay: there is no such option", allocator.attach { decay = 5 })
  check.refused("retain", allocator.attach { retain = -1 })
  check.refused("retain", allocator.attach { retain = 2 ^ 50 })
  check.refused("retain", allocator.attach { retain = 1.5 })
  check.refused("retain", allocator.attach { retain = 0 / 0 })
  check.refused("retain", allocator.attach { retain = "lots" })
  check.throws("(option 'retain' is table", allocator.attach, { retain = {} })
  check.refused("decay_ms", allocator.attach { retain = 2 ^ 20, decay_ms = 2 ^ 40 })
  check.refused("auto", allocator.attach { auto = "maybe" })
  check.refused("limit_hard=on", allocator.attach { limit_hard = true })
  check.refused("did you mean decay_ms%?", allocator.attach { decay = 5 })
  check.refused("decay_ms=soon: takes a number from 0 to 3600000 ms",
                allocator.attach { decay_ms = "soon" })
  check.refused("retain: 9t is not from 0 to 8t", allocator.attach { retain = 9 * 2 ^ 40 })
  check.refused("auto=true: takes off or on; say on", allocator.attach { auto = "true" })
  check.refused("limit_soft=200m: is above limit_hard=100m",
                allocator.attach { limit_soft = "200m", limit_hard = "100m" })
  check.refused("retain=30m: is above limit_soft=20m",
                allocator.attach { retain = "30m", limit_soft = "20m" })
  check.throws("(option '1' is 5)", allocator.attach, { 5 })
  check.equal(allocator.heap().allocator, "builtin", "allocator")
  check.equal(assert(allocator.stats()).allocator, "builtin", "allocator")
end

local function given()
  local options = { retain = "8m", decay_ms = 250, auto = false, thp = "off", limit_soft = 2 ^ 30 }
  check.equal(allocator.attach(options), true, "attach()")
  check.equal(allocator.get("retain"), 8 * 2 ^ 20, "retain")
  check.equal(allocator.get("decay_ms"), 250, "decay_ms")
  check.equal(allocator.get("auto"), 0, "auto")
  check.equal(allocator.get("thp"), 0, "thp")
  check.equal(allocator.get("limit_soft"), 2 ^ 30, "limit_soft")
  check.equal(options.retain, "8m", "what the caller's table has")
end

local function heap_facts()
  local heap = allocator.heap()
  check.equal(heap.allocator, "ebbtide", "allocator")
  check.equal(heap.attached, true, "attached")
  local count = 0
  for name, value in pairs(heap.options) do
    check.equal(allocator.get(name), value, name)
    count = count + 1
  end
  check.within(11, count, 30, "options")
end

local function one_by_one()
  check.equal(allocator.set("decay_ms", 0), true, "set")
  check.equal(allocator.get("decay_ms"), 0, "decay_ms")
  check.equal(allocator.set("decay_ms", "2k"), true, "set")
  check.equal(allocator.get("decay_ms"), 2048, "decay_ms")
  check.equal(allocator.set("auto", true), true, "set")
  check.equal(allocator.get("auto"), 1, "auto")
  check.equal(allocator.set("limit_soft", "cgroup"), true, "set")
  check.refused("reserve", allocator.set("reserve", 2 ^ 30))
  check.refused("no such option", allocator.set("nothing", 1))
  check.refused("no such option", allocator.get("nothing"))
  check.refused("decay_ms", allocator.set("decay_ms", -1))
  check.refused("decay_ms", allocator.set("decay_ms", "soon"))
  check.refused("decay_ms", allocator.set("decay_ms", 1 / 0))
  check.refused("decay_ms", allocator.set("decay_ms", 0.5))
  check.equal(allocator.get("decay_ms"), 2048, "decay_ms")
  check.equal(allocator.set("limit_soft", 0), true, "set")
end

local function all_or_none()
  check.equal(allocator.configure {}, true, "configure")
  local done = allocator.configure { decay_ms = 700, retain = "4m", step_us = 300, auto = "on" }
  check.equal(done, true, "configure")
  local before = allocator.heap().options
  check.equal(before.decay_ms, 700, "decay_ms")
  check.equal(before.retain, 2 ^ 22, "retain")
  check.equal(before.step_us, 300, "step_us")
  for _, wrong in ipairs { { nothing = 1 }, { step_us = -4 }, { reserve = 2 ^ 30 } } do
    -- Enough of them that some come before the wrong one in each order.
    local options = { decay_ms = 1, retain = "1m", retain_max = "2m", auto = false, history = true }
    for name, value in pairs(wrong) do
      options[name] = value
      check.refused(name, allocator.configure(options))
    end
    for name, value in pairs(before) do
      check.equal(allocator.get(name), value, name .. " after a refusal")
    end
  end
end

-- A soft limit above the hard one is refused, by whichever of them; both at
-- once can become anything else.
local function crossed_limits()
  local function are(soft, hard)
    check.equal(allocator.get("limit_soft"), soft * 2 ^ 20, "limit_soft")
    check.equal(allocator.get("limit_hard"), hard * 2 ^ 20, "limit_hard")
  end
  assert(allocator.configure { limit_soft = "100m", limit_hard = "200m" })
  are(100, 200)
  check.refused("limit_soft=201m: is above limit_hard=200m", allocator.set("limit_soft", "201m"))
  check.refused("limit_soft=100m: is above limit_hard=99m", allocator.set("limit_hard", "99m"))
  check.refused("limit_soft=300m: is above limit_hard=299m",
                allocator.configure { limit_soft = "300m", limit_hard = "299m" })
  check.refused("limit_hard=lots", allocator.configure { limit_soft = "9m", limit_hard = "lots" })
  check.refused("limit_soft=200m: is above limit_hard=100m",
                allocator.configure { limit_soft = "200m", limit_hard = "100m", decay_ms = 5 })
  are(100, 200)
  check.equal(allocator.get("decay_ms"), 700, "decay_ms")
  assert(allocator.configure { limit_soft = "300m", limit_hard = "400m" })
  are(300, 400)
  assert(allocator.configure { limit_soft = "100m", limit_hard = "200m" })
  are(100, 200)
  assert(allocator.set("limit_hard", "400m"))
  assert(allocator.set("limit_soft", "300m"))
  are(300, 400)
  assert(allocator.configure { limit_soft = 0, limit_hard = 0 })
end

-- The same for memory that is always kept, below each limit.
local function crossed_retain()
  for _, limit in ipairs { "limit_soft", "limit_hard" } do
    local function both(retain, bytes)
      return { retain = retain, [limit] = bytes }
    end
    local words = "retain=30m: is above " .. limit .. "=20m, .*; lower the first or raise the second"
    assert(allocator.configure(both("20m", "20m")))
    check.refused(words, allocator.set("retain", "30m"))
    assert(allocator.configure(both("30m", "30m")))
    check.refused(words, allocator.set(limit, "20m"))
    check.refused(words, allocator.configure(both("30m", "20m")))
    check.equal(allocator.get("retain"), 30 * 2 ^ 20, "retain")
    check.equal(allocator.get(limit), 30 * 2 ^ 20, limit)
    assert(allocator.configure(both("20m", "20m")))
    assert(allocator.configure(both(0, 0)))
  end
end

local function ticks()
  assert(allocator.configure { decay_ms = 0, retain = 0, auto = false })
  local garbage = {}
  for i = 1, 50000 do
    garbage[i] = { i }
  end
  garbage = nil
  collectgarbage()
  collectgarbage()
  local next_ms, ticks = allocator.next_tick(), 0
  check.within(0, next_ms, 3600000, "next_tick")
  repeat
    check.equal(type(allocator.tick(200)), "boolean", "type of tick()")
    ticks = ticks + 1
    assert(ticks < 10000000, "it does not come to rest")
  until allocator.next_tick() == math.huge
  check.equal(allocator.tick(), false, "tick()")
  check.within(2 ^ 20, allocator.stats().returned_idle, 2 ^ 40, "returned_idle")
end

local function pressure()
  check.equal(allocator.pressure(), 0, "pressure")
  local kept = {}
  for i = 1, 100000 do
    kept[i] = { i }
  end
  assert(allocator.set("limit_soft", 2 ^ 20))
  check.equal(allocator.pressure(), 100, "pressure")
  check.equal(allocator.stats().limit_soft, 2 ^ 20, "limit_soft")
  assert(allocator.set("limit_soft", 0))
  check.equal(#kept, 100000, "rows")
end

local function hard_limit()
  assert(allocator.set("limit_hard", 64 * 2 ^ 20))
  local fine, message = pcall(string.rep, "x", 256 * 2 ^ 20)
  check.equal(fine, false, "a string beyond the limit")
  assert(tostring(message):find("not enough memory", 1, true), message)
  assert(allocator.set("limit_hard", 0))
  check.equal(#("x"):rep(2 ^ 20), 2 ^ 20, "a string")
end

refused_before()
given()
heap_facts()
one_by_one()
all_or_none()
crossed_limits()
crossed_retain()
ticks()
pressure()
hard_limit()
