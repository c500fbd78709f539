-- Memory runs out, again and again, in every shape; each time the error is
-- caught, and the VM goes on with all that it had. For a small reservation, or
-- a hard limit, which is never crossed.
local reclaim = reclaim or function() end
local limit = heap_stats and heap_stats().limit_hard or 0

-- The heap's own tables are known to the peak only as they are now.
local function limit_is_kept()
  if limit > 0 then
    local peak = heap_stats().resident_peak
    assert(peak <= limit + limit / 32, peak)
  end
end

local witness = {}
for i = 1, 5000 do
  witness[i] = { name = "witness " .. i }
end

local function witness_is_unharmed()
  for i = 1, 5000 do
    assert(witness[i].name == "witness " .. i)
  end
end

-- Each collection halves the table of strings at most once, into a new block.
-- Were it still large when memory runs out, the collector itself would fail,
-- on any allocator.
local function collect_all()
  for _ = 1, 16 do
    collectgarbage()
  end
end

local shapes = {
  function()
    return ("x"):rep(2 ^ 30)
  end,
  function()
    local s = "x"
    while true do
      s = s .. s
    end
  end,
  function()
    local list = {}
    while true do
      list[#list + 1] = { #list }
    end
  end,
  function()
    local list = {}
    while true do
      list[#list + 1] = ("y"):rep(1000) .. #list
    end
  end,
  function()
    local hash = {}
    local i = 0
    while true do
      i = i + 1
      hash["key" .. i] = i
    end
  end,
  function()
    local list = {}
    while true do
      list[#list + 1] = coroutine.wrap(function(...)
        coroutine.yield(...)
      end)
      list[#list](list)
    end
  end,
}

for _ = 1, 3 do
  for i, shape in ipairs(shapes) do
    local ok, failure = pcall(shape)
    collect_all()
    limit_is_kept()
    reclaim()
    assert(not ok, "shape " .. i .. " never failed")
    failure = tostring(failure)
    assert(failure:find("not enough memory"), i .. ": " .. failure)
    witness_is_unharmed()
  end
end
