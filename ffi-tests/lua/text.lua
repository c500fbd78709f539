-- Strings of all lengths: interned, concatenated, replaced, repeated, dropped.
local reclaim = reclaim or function() end
local rounds = tonumber(arg[1] or 10)

local function short_strings()
  local kept = {}
  for i = 1, 30000 do
    local s = "key " .. i .. ("x"):rep(i % 40)
    if i % 7 == 0 then
      kept[#kept + 1] = s
    end
  end
  collectgarbage()
  reclaim()
  for k, s in ipairs(kept) do
    local i = k * 7
    assert(s == "key " .. i .. ("x"):rep(i % 40))
  end
end

local function long_strings()
  local length = 1
  while length < 2 ^ 24 do
    local s = ("abc"):rep(length)
    assert(#s == 3 * length and s:sub(-3) == "abc")
    length = length * 4
  end
end

local function concatenated()
  local parts = {}
  for i = 1, 20000 do
    parts[i] = string.format("%d:%s", i, ("y"):rep(i % 30))
  end
  local text = table.concat(parts, ",")
  local count = 0
  for i, ys in text:gmatch("(%d+):(y*)") do
    count = count + 1
    assert(tonumber(i) == count and #ys == count % 30)
  end
  assert(count == 20000)
end

local function replaced()
  local text = ("one two three "):rep(5000)
  local longer, n = text:gsub("two", ("2"):rep(50))
  assert(n == 5000 and #longer == #text + 5000 * 47)
  assert(longer:gsub(("2"):rep(50), "two") == text)
end

local function byte_by_byte()
  local s = ""
  for i = 1, 3000 do
    s = s .. string.char(i % 256)
  end
  for i = 1, 3000 do
    assert(s:byte(i) == i % 256)
  end
end

for _ = 1, rounds do
  short_strings()
  long_strings()
  concatenated()
  replaced()
  byte_by_byte()
  collectgarbage()
  reclaim()
end
