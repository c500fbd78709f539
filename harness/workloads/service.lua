-- A service: requests make garbage, one in a hundred leaves a session behind,
-- and after each peak every request in flight ends. Live data stays under 2 MB;
-- what the process keeps is the question. At last the sessions go as well.
--
-- The second argument is the length of a peak in seconds, the third that of an
-- idle time: requests then arrive at an even rate, so that two runs keep step.
-- Without them everything happens as fast as it can.
local here = arg[0] and arg[0]:match("^(.*/)") or "./"
local report = dofile(here .. "memory.lua")
local requests = dofile(here .. "requests.lua")
local per_peak = tonumber(arg[1] or 150000)
local peak_s = tonumber(arg[2] or 0)
local idle_s = tonumber(arg[3] or 0)
math.randomseed(7)

local sessions = {}
local in_flight = {}
local schedule_s = 0

local function pass(seconds)
  schedule_s = schedule_s + seconds
  if wait_until and schedule_s > 0 then
    wait_until(schedule_s)
  end
end

local function serve(peak)
  for i = 1, per_peak do
    in_flight[#in_flight + 1] = requests.new(i)
    if math.random() < 0.01 then
      sessions[peak * 1e7 + i] = {
        id = i, user = "u" .. i, token = string.rep("t", 40)
      }
    end
    if #in_flight > 30000 then
      requests.finish_one(in_flight)
    end
    if i % 1000 == 0 then
      pass(peak_s * 1000 / per_peak)
    end
  end
end

-- What a host does when it has nothing to do.
local function idle(label)
  collectgarbage()
  collectgarbage()
  report("collected " .. label)
  if reclaim then
    reclaim()
  end
  report("idle " .. label)
  pass(idle_s)
end

report("start")
pass(idle_s / 2)
for peak = 1, 3 do
  serve(peak)
  report("peak " .. peak)
  in_flight = {}
  idle(tostring(peak))
end

sessions = {}
idle("empty")
report("end")
