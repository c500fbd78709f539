-- Runs in threads of nginx's, each time in one of the VMs made for that.

local work = {}

function work.sum(seed)
  local rows, total = {}, 0
  for i = 1, 3000 do
    rows[i] = { number = seed + i, text = seed .. "." .. i }
  end
  for i = 1, #rows do
    total = total + rows[i].number
  end
  return total, rows[#rows].text
end

-- Takes all that the limit allows, and more.
function work.greedy()
  local all = {}
  while true do
    all[#all + 1] = { tostring(#all), #all }
  end
end

-- Fills memory and lets go of it, again and again, with blocks of all sizes.
function work.churn(rounds)
  local total = 0
  for round = 1, rounds do
    local rows = {}
    for i = 1, 20000 do
      rows[i] = { i, ("x"):rep(i % 3000) }
    end
    for i = 1, #rows do
      total = total + rows[i][1]
    end
    rows = nil
    collectgarbage()
  end
  return total
end

-- Fills memory and collects: what is free then is for others to give back.
function work.fill(megabytes)
  local rows = {}
  for i = 1, megabytes * 12000 do
    rows[i] = { i }
  end
  local count = #rows
  rows = nil
  collectgarbage()
  collectgarbage()
  return count
end

-- Asks the Lua module of the heap that the thread's own VM is on.
function work.look()
  local allocator = require "resty.ebbtide"
  local rows = {}
  for i = 1, 20000 do
    rows[i] = { i }
  end
  rows = nil
  local returned = allocator.reclaim().returned
  assert(allocator.heap().allocator == "ebbtide" and #allocator.report() > 0)
  assert(allocator.tick(100) ~= nil and allocator.next_tick() and allocator.pressure())
  assert(allocator.set("retain", 4096) and allocator.get("retain") == 4096)
  local stats = allocator.stats()
  return stats.allocator, returned, stats.live
end

return work
