-- Counts every sequence of one length in a random strand of DNA: a table
-- of short strings that fills up, for lengths with few and with many of them.
local length = tonumber(arg[1] or 400000)
local LENGTHS = { 1, 2, 3, 4, 6, 12, 18 }
local LETTERS = { "A", "C", "G", "T" }

local state = 42

local function random(limit)
  state = state * 16807 % 2147483647
  return state % limit
end

local function strand()
  local letters = {}
  for i = 1, length do
    letters[i] = LETTERS[random(4) + 1]
  end
  return table.concat(letters)
end

local function count(dna, width)
  local counts = {}
  for i = 1, #dna - width + 1 do
    local key = dna:sub(i, i + width - 1)
    counts[key] = (counts[key] or 0) + 1
  end
  return counts
end

-- The keys, most frequent first, as the report of such a program lists them.
local function sorted(counts)
  local keys = {}
  for key in pairs(counts) do
    keys[#keys + 1] = key
  end
  table.sort(keys, function(a, b)
    if counts[a] ~= counts[b] then
      return counts[a] > counts[b]
    end
    return a < b
  end)
  return keys
end

-- Occurrences by another way, those that overlap included.
local function find_all(dna, key)
  local found, at = 0, dna:find(key, 1, true)
  while at do
    found = found + 1
    at = dna:find(key, at + 1, true)
  end
  return found
end

local dna = strand()
for _, width in ipairs(LENGTHS) do
  local counts = count(dna, width)
  local total = 0
  for key, times in pairs(counts) do
    assert(#key == width)
    total = total + times
  end
  assert(total == length - width + 1)
  if width <= 4 then
    local keys = sorted(counts)
    assert(#keys == math.min(4 ^ width, #keys))
    assert(find_all(dna, keys[1]) == counts[keys[1]])
  end
end
