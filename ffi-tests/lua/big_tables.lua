-- Tables that grow large, as arrays and as hashes, side by side so that few
-- can grow in place; sorted, emptied, and grown again.
local reclaim = reclaim or function() end
local rounds = tonumber(arg[1] or 3)

local function side_by_side()
  local arrays, hashes = {}, {}
  for k = 1, 8 do
    arrays[k], hashes[k] = {}, {}
  end
  for i = 1, 60000 do
    for k = 1, 8 do
      arrays[k][i] = i * k
      if i % 4 == 0 then
        hashes[k]["key" .. i] = i + k
      end
    end
  end
  collectgarbage()
  reclaim()
  for k = 1, 8 do
    for i = 1, 60000 do
      assert(arrays[k][i] == i * k)
      assert(i % 4 ~= 0 or hashes[k]["key" .. i] == i + k)
    end
  end
end

local function one_large()
  local array = {}
  for i = 1, 1500000 do
    array[i] = i
  end
  for i = 1, 1500000, 9999 do
    assert(array[i] == i)
  end
end

local function sorted()
  local array, state = {}, 42
  for i = 1, 50000 do
    state = (state * 16807) % 2147483647
    array[i] = state
  end
  table.sort(array)
  for i = 2, #array do
    assert(array[i - 1] <= array[i])
  end
  while #array > 100 do
    table.remove(array)
  end
  for _ = 1, 100 do
    table.insert(array, 1, 0)
  end
  assert(#array == 200 and array[1] == 0)
end

local function weak()
  local cache = setmetatable({}, { __mode = "v" })
  local kept = {}
  for i = 1, 50000 do
    cache[i] = { i }
    if i % 100 == 0 then
      kept[#kept + 1] = cache[i]
    end
  end
  collectgarbage()
  collectgarbage()
  reclaim()
  local count = 0
  for i, value in pairs(cache) do
    assert(value[1] == i)
    count = count + 1
  end
  assert(count == #kept)
end

for _ = 1, rounds do
  side_by_side()
  one_large()
  sorted()
  weak()
  collectgarbage()
  reclaim()
end
