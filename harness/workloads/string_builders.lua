-- Strings made in the ways that programs make them: piece after piece in a
-- table, by appending, by patterns, by formats, and whole pages at once.
local rounds = tonumber(arg[1] or 240)

local function by_table(count)
  local pieces = {}
  for i = 1, count do
    pieces[#pieces + 1] = "item "
    pieces[#pieces + 1] = i
    pieces[#pieces + 1] = ";"
  end
  return table.concat(pieces)
end

-- Every step makes a new string, longer than the last.
local function by_appending(count)
  local text = ""
  for i = 1, count do
    text = text .. "item " .. i .. ";"
  end
  return text
end

local function by_format(count)
  local lines = {}
  for i = 1, count do
    lines[i] = string.format("item %d;", i)
  end
  return table.concat(lines)
end

local function by_pattern(text)
  return (text:gsub("item (%d+);", "<li>%1</li>"))
end

local function split(text)
  local parts = {}
  for part in text:gmatch("[^;]+") do
    parts[#parts + 1] = part
  end
  return parts
end

local function doubled(text, times)
  for _ = 1, times do
    text = text .. text
  end
  return text
end

for round = 1, rounds do
  local count = 1000 + round
  local text = by_table(count)
  assert(text == by_format(count) and text == by_appending(count))
  local parts = split(text)
  assert(#parts == count and parts[count] == "item " .. count)
  local list = by_pattern(text)
  assert(#list == #text + 3 * count)
  assert(#text:upper() == #text and text:reverse():reverse() == text)
  local page = doubled(list, 6)
  assert(#page == #list * 64)
end
