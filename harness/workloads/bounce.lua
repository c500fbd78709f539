-- Bounce: a hundred balls in a box for fifty frames. Here a ball never changes:
-- each frame makes a new one, and a new table of them. The number of bounces
-- with this generator is known.
local rounds = tonumber(arg[1] or 800)
local BALLS, FRAMES, BOUNCES, LIMIT = 100, 50, 1331, 500

local Random, Ball = {}, {}
Random.__index, Ball.__index = Random, Ball

function Random.new()
  return setmetatable({ seed = 74755 }, Random)
end

function Random:next()
  self.seed = bit.band(self.seed * 1309 + 13849, 65535)
  return self.seed
end

function Ball.new(x, y, x_speed, y_speed)
  return setmetatable({
    x = x, y = y, x_speed = x_speed, y_speed = y_speed
  }, Ball)
end

function Ball.random(random)
  local x, y = random:next() % 500, random:next() % 500
  local x_speed = random:next() % 300 - 150
  return Ball.new(x, y, x_speed, random:next() % 300 - 150)
end

-- Place and speed one frame later, and whether it touched a wall.
local function advance(at, speed)
  at = at + speed
  if at > LIMIT then
    return LIMIT, -math.abs(speed), true
  elseif at < 0 then
    return 0, math.abs(speed), true
  end
  return at, speed, false
end

function Ball:next()
  local x, x_speed, sideways = advance(self.x, self.x_speed)
  local y, y_speed, upright = advance(self.y, self.y_speed)
  return Ball.new(x, y, x_speed, y_speed), sideways or upright
end

local function bounces()
  local random, balls, total = Random.new(), {}, 0
  for i = 1, BALLS do
    balls[i] = Ball.random(random)
  end
  for _ = 1, FRAMES do
    local after = {}
    for i = 1, BALLS do
      local ball, bounced = balls[i]:next()
      after[i] = ball
      total = total + (bounced and 1 or 0)
    end
    balls = after
  end
  return total
end

for _ = 1, rounds do
  assert(bounces() == BOUNCES)
end
