-- The work of real programs under the law of memory, the same in each of them.
-- work.run "load-17" makes the sessions of a moment; the last ones stay in a
-- cache, so that garbage arises all the time. work.run "collect" drops the
-- cache but for a record here and there, and collects. work.run "reclaim" is a
-- full reclaim, where ebbtide is there. work.run "ready" does nothing.
local work = {}

local CACHED = 300
local RECORDS = 150

local cache, kept = {}, {}

function work.ready()
end

function work.load(number)
  local session = {}
  for i = 1, RECORDS do
    session[i] = {
      id = i,
      name = "user" .. number .. "-" .. i,
      text = ("b"):rep((number * 7919 + i * 104729) % 1500) .. number .. i,
    }
  end
  cache[number % CACHED + 1] = session
  -- At times a page of some hundred KB: a mapping of its own in stock LuaJIT.
  if number % 10 == 0 then
    local page = {}
    for i = 1, RECORDS do
      page[i] = session[i].text .. session[i].name
    end
    work.page = table.concat(page, "\n"):rep(number % 7 + 1)
  end
end

function work.collect()
  for _, session in pairs(cache) do
    kept[#kept + 1] = session[#kept % RECORDS + 1]
  end
  cache = {}
  -- Each of them halves LuaJIT's own buffer for strings, too.
  for _ = 1, 6 do
    collectgarbage()
  end
end

function work.reclaim()
  if os.getenv "LAW_EBBTIDE" then
    local ebbtide = require "ebbtide"
    assert(ebbtide.stats().allocator == "ebbtide", "the VM is not taken over")
    assert(ebbtide.reclaim { collect = false })
  end
end

function work.run(command)
  local name, number = command:match "(%a+)%-?(%d*)"
  work[name](tonumber(number))
end

return work
