-- A service whose requests hold some 80 KB of tables each while they wait, and that keeps a small
-- session for one in fifty.

local service = {}

local sessions, count = {}, 0

local function rows_for(request)
  local rows = {}
  for i = 1, 360 do
    rows[i] = { id = i, name = "row " .. request .. "." .. i, ready = true }
  end
  return rows
end

function service.heavy()
  count = count + 1
  local request = count
  local rows = rows_for(request)
  ngx.sleep(0.2 + math.random() / 10)
  if request % 50 == 0 then
    sessions[#sessions + 1] = { id = request, name = rows[1].name, seen = { 1, 2, 3 } }
  end
  ngx.say(rows[#rows].name)
end

-- A short one, for many.
function service.light()
  local rows = {}
  for i = 1, 20 do
    rows[i] = { id = i, name = "row " .. i }
  end
  ngx.sleep(0.01)
  ngx.say(rows[20].name)
end

-- Answers after `seconds` seconds, and holds tables all the time.
function service.slow()
  local rows = rows_for(1)
  ngx.sleep(tonumber(ngx.var.arg_seconds) or 1)
  ngx.say(rows[360].name)
end

local function is_there(path)
  local file = io.open(path)
  if file then
    file:close()
  end
  return file ~= nil
end

-- Holds tables until the test writes the file "released", and writes a file that says so.
function service.wait()
  local rows = rows_for(1)
  local folder = ngx.config.prefix()
  local name = "waiting." .. ngx.worker.pid() .. "." .. ngx.var.connection
  assert(io.open(folder .. name, "w")):close()
  while not is_there(folder .. "released") do
    ngx.sleep(0.05)
  end
  ngx.say(rows[360].name)
end

-- Fills the VM with garbage, and keeps a row of each 80 KB, so that no larger piece is free. With
-- the argument clean=1 it keeps nothing.
function service.litter()
  local megabytes = tonumber(ngx.var.arg_megabytes) or 40
  local all = {}
  for i = 1, megabytes * 12 do
    local rows = rows_for(1)
    all[i] = rows
    if not ngx.var.arg_clean then
      sessions[#sessions + 1] = rows[180]
    end
  end
  ngx.say(#all)
end

return service
