-- Collision detection: planes fly known courses, and in every frame those that
-- came close to each other are looked for. Space is divided into cells; only
-- planes whose movements touch one cell are compared. In some frames all pairs
-- are compared as well, which must find the same.
local frames = tonumber(arg[1] or 2500)
local PLANES, CELL, NEAR, CHECK_EVERY = 150, 4, 1, 40

local Vector = {}
Vector.__index = Vector

local function vector(x, y, z)
  return setmetatable({ x = x, y = y, z = z }, Vector)
end

function Vector.__add(a, b)
  return vector(a.x + b.x, a.y + b.y, a.z + b.z)
end

function Vector.__sub(a, b)
  return vector(a.x - b.x, a.y - b.y, a.z - b.z)
end

function Vector.__mul(a, factor)
  return vector(a.x * factor, a.y * factor, a.z * factor)
end

local function dot(a, b)
  return a.x * b.x + a.y * b.y + a.z * b.z
end

-- Where a plane is at a time: on a circle, rising and sinking.
local function position(plane, time)
  local angle = time * (1 + plane % 5) / 10 + plane
  local radius = 20 + plane % 17
  return vector(50 + radius * math.cos(angle), 50 + radius * math.sin(angle),
    5 + plane % 3 + math.sin(time / 3 + plane))
end

local function movements(frame)
  local list = {}
  for plane = 1, PLANES do
    list[plane] = {
      plane = plane, from = position(plane, frame / 10),
      to = position(plane, (frame + 1) / 10)
    }
  end
  return list
end

-- Where two movements are as near as they get, if that is near enough.
local function meeting(a, b)
  local apart = a.from - b.from
  local drift = (a.to - a.from) - (b.to - b.from)
  local speed = dot(drift, drift)
  local time = 0
  if speed > 0 then
    time = math.max(0, math.min(1, -dot(apart, drift) / speed))
  end
  local least = apart + drift * time
  if dot(least, least) > NEAR * NEAR then
    return nil
  end
  return {
    first = a.plane, second = b.plane, at = a.from + (a.to - a.from) * time
  }
end

local function cell_range(from, to)
  local low = math.floor((math.min(from, to) - NEAR) / CELL)
  return low, math.floor((math.max(from, to) + NEAR) / CELL)
end

-- Adds a movement to each cell that the box around it touches.
local function put_into_cells(cells, movement)
  local from, to = movement.from, movement.to
  local x_first, x_last = cell_range(from.x, to.x)
  local y_first, y_last = cell_range(from.y, to.y)
  for x = x_first, x_last do
    for y = y_first, y_last do
      local key = x * 4096 + y
      local cell = cells[key] or {}
      cells[key] = cell
      cell[#cell + 1] = movement
    end
  end
end

local function compare(list, found)
  for i = 1, #list do
    for j = i + 1, #list do
      local a, b = list[i], list[j]
      local key = a.plane * PLANES + b.plane
      if not found[key] then
        found[key] = meeting(a, b)
      end
    end
  end
end

local function by_cells(list)
  local cells, found = {}, {}
  for _, movement in ipairs(list) do
    put_into_cells(cells, movement)
  end
  for _, cell in pairs(cells) do
    compare(cell, found)
  end
  return found
end

local function size(set)
  local count = 0
  for _ in pairs(set) do
    count = count + 1
  end
  return count
end

local function check(list, found)
  local expected = {}
  compare(list, expected)
  for key in pairs(expected) do
    assert(found[key], "a collision was missed")
  end
  assert(size(found) == size(expected))
end

local collisions = 0
for frame = 1, frames do
  local list = movements(frame)
  local found = by_cells(list)
  collisions = collisions + size(found)
  if frame % CHECK_EVERY == 1 then
    check(list, found)
  end
end
assert(collisions > 0)
