-- Binary trees: one long-lived tree, and many short-lived ones of every second
-- depth below it. Each tree is counted, and a full one has 2^(depth+1)-1 nodes.
local depth_max = tonumber(arg[1] or 15)
local DEPTH_MIN = 4

local function grow(depth)
  if depth == 0 then
    return {}
  end
  return { grow(depth - 1), grow(depth - 1) }
end

local function count(tree)
  if not tree[1] then
    return 1
  end
  return 1 + count(tree[1]) + count(tree[2])
end

local function nodes(depth)
  return 2 ^ (depth + 1) - 1
end

assert(count(grow(depth_max + 1)) == nodes(depth_max + 1))
local long_lived = grow(depth_max)

for depth = DEPTH_MIN, depth_max, 2 do
  local trees = 2 ^ (depth_max - depth + DEPTH_MIN)
  local total = 0
  for _ = 1, trees do
    total = total + count(grow(depth))
  end
  assert(total == trees * nodes(depth))
end
assert(count(long_lived) == nodes(depth_max))
