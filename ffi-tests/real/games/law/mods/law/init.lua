-- Minetest: a game of nothing but this. Each step of the server does the
-- commands that have come, and makes a little garbage as games do.
local work = dofile(os.getenv "LAW_WORK")
local socket = require "socket"

local STEP_US = 50000

local port = tonumber(os.getenv "LAW_PORT")
local received = ""
local client = assert(socket.connect("127.0.0.1", port))
client:settimeout(0.005)

minetest.register_globalstep(function()
  local positions = {}
  for i = 1, 10 do
    positions[i] = vector.add(vector.new(i, i, i), 1)
  end
  local ends = minetest.get_us_time() + STEP_US
  repeat
    local command, _, partial = client:receive("*l", received)
    received = partial or ""
    if command then
      work.run(command)
      client:send "done\n"
    end
  until not command or minetest.get_us_time() >= ends
end)
