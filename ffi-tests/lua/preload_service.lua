-- A service as a host program calls it: handle(request) returns a line.
--
-- "load" makes requests, of which one in a hundred leaves a session behind, and
-- "some" a few; "rest" ends all of them and collects; "check" looks at every
-- session and every request.
local sessions = {}
local in_flight = {}
local made = 0

local function session(id)
  return { id = id, user = "u" .. id, token = string.rep("t", id % 40) }
end

local function serve()
  made = made + 1
  local request = { id = made, headers = {}, rows = {} }
  for i = 1, 8 do
    request.headers["h" .. i] = "value-" .. made .. "-" .. i
  end
  for i = 1, 10 do
    request.rows[i] = string.format('{"k":%d,"v":"%d"}', i, made)
  end
  in_flight[#in_flight + 1] = request
  if made % 100 == 0 then
    sessions[made] = session(made)
  end
end

local handlers = {}

function handlers.load()
  for _ = 1, 3000 do
    serve()
  end
  return "served " .. made
end

function handlers.some()
  for _ = 1, 300 do
    serve()
  end
  return "served " .. made
end

function handlers.rest()
  in_flight = {}
  collectgarbage()
  collectgarbage()
  return "resting"
end

function handlers.check()
  local count = 0
  for id, found in pairs(sessions) do
    local want = session(id)
    assert(found.id == want.id and found.user == want.user)
    assert(found.token == want.token)
    count = count + 1
  end
  assert(count == math.floor(made / 100), "a session is missing")
  for _, request in ipairs(in_flight) do
    assert(request.headers.h8 == "value-" .. request.id .. "-8")
    assert(request.rows[10] == '{"k":10,"v":"' .. request.id .. '"}')
  end
  return "checked " .. count
end

function handle(request)
  return handlers[request]()
end
