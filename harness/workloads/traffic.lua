-- A service through high and low tide. Requests make garbage, one in a hundred
-- leaves a session behind, in place of an older one, and when a peak ends every
-- request in flight ends. Live data stays small, and nothing ever asks for
-- memory to go back: whether it does is the question.
--
-- Each argument is a stretch of time, KIND:SECONDS[:IN_FLIGHT:RATE]:
--
--   peak    RATE requests arrive each second, up to IN_FLIGHT are there at
--           once; in the end all are done, and the host has time to collect
--   low     the same, but what is in flight stays
--   pause   nothing happens
--   drop    the sessions go too, and then nothing happens
--
-- Requests arrive at an even rate, so that two runs keep step; what a busy
-- machine delays by more than a second shifts the rest. Without a host that can
-- wait, everything happens as fast as it can.
local here = arg[0] and arg[0]:match("^(.*/)") or "./"
local report = dofile(here .. "memory.lua")
local requests = dofile(here .. "requests.lua")
local wait_until = wait_until or function(seconds) return seconds end
math.randomseed(7)

local SESSIONS_MAX = 4096
-- Requests arrive BURST at a time, because a wait costs time, too.
local BURST = 100
local LAG_MAX_S = 1
local sessions = {}
local in_flight = {}
local schedule_s = 0

local function leave_session(id)
  sessions[math.random(SESSIONS_MAX)] = {
    id = id, user = "u" .. id, token = string.rep("t", 40)
  }
end

-- Returns the time that it is then, later where the machine lags behind.
local function pass(seconds)
  schedule_s = schedule_s + seconds
  return wait_until(schedule_s)
end

local function serve(seconds, in_flight_max, rate)
  for i = 1, seconds * rate do
    in_flight[#in_flight + 1] = requests.new(i)
    if math.random() < 0.01 then
      leave_session(i)
    end
    if #in_flight > in_flight_max then
      requests.finish_one(in_flight)
    end
    if i % BURST == 0 then
      pass(BURST / rate)
    end
  end
end

-- What a host does when it has nothing to do.
local function collect()
  collectgarbage()
  collectgarbage()
end

local stretches = {}

function stretches.peak(name, ...)
  serve(...)
  report("end of " .. name)
  in_flight = {}
  collect()
  report(name .. " collected")
end

function stretches.low(name, ...)
  serve(...)
  report("end of " .. name)
end

function stretches.pause(_, seconds)
  pass(seconds)
end

function stretches.drop(_, seconds)
  sessions, in_flight = {}, {}
  collect()
  pass(seconds)
end

local counts = {}

local function run(text)
  local kind, rest = text:match("^(%l+)(:[%d:.]+)$")
  local run_stretch = assert(stretches[kind], "no such stretch: " .. text)
  local numbers = {}
  for number in rest:gmatch("[^:]+") do
    numbers[#numbers + 1] = tonumber(number)
  end
  counts[kind] = (counts[kind] or 0) + 1
  local name = kind .. " " .. counts[kind]
  report(name)
  run_stretch(name, unpack(numbers))
  schedule_s = math.max(schedule_s, pass(0) - LAG_MAX_S)
end

report("start")
for _, text in ipairs(arg) do
  run(text)
end
report("end")
