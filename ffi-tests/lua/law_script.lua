-- Runs a script as it is, for law.lua, and says as phases how far it is: two runs
-- are compared at the same work, not at the same time. A phase begins with each
-- full collection that the script asks for, and with turns of its outer loops:
-- with each of the first twenty turns of a loop, then with each twentieth part
-- more.
--
-- The script finds what it may ask a host of the benches for: wait_until(), and
-- replace_blocks() where the environment's LAW_BLOCKS is a library that has it.

-- The text, with mark(N) as the first thing in each turn of the loop N. Loops of
-- the script and those of its functions count, inner ones do not.
local function marked(text)
  local count = 0
  text = text:gsub("(\n ? ?for [^\n]- do)%f[\n]", function(head)
    count = count + 1
    return ("%s _mark(%d)"):format(head, count)
  end)
  return "local _mark = ... " .. text, count
end

local function marks(loops, phase)
  local turns, due = {}, {}
  for loop = 1, loops do
    turns[loop], due[loop] = 0, 1
  end
  return function(loop)
    local turn = turns[loop] + 1
    turns[loop] = turn
    if turn == due[loop] then
      due[loop] = turn + math.ceil(turn / 20)
      phase(("turn %d of loop %d"):format(turn, loop))
    end
  end
end

local function collections(phase)
  local collect, count = collectgarbage, 0
  return function(what, ...)
    if what == nil or what == "collect" then
      count = count + 1
      phase("collection " .. count)
    end
    return collect(what, ...)
  end
end

-- What stands in for ebbtide, for a script that asks how its own heap is.
local stand_in = {
  stats = function()
    return {}
  end
}

return function(path, arguments, host)
  local file = assert(io.open(path))
  local text, loops = marked(file:read "*a")
  file:close()
  local work = assert(loadstring(text, "@" .. path))

  arguments[0] = path
  arg = arguments
  local began = host.now()
  function wait_until(seconds)
    local left = began + seconds - host.now()
    if left > 0 then
      host.pause(left)
    end
    return host.now() - began
  end
  local blocks = os.getenv "LAW_BLOCKS"
  if blocks then
    replace_blocks = assert(package.loadlib(blocks, "blocks_replace"))
  end
  package.loaded.ebbtide = package.loaded.ebbtide or stand_in

  local collect, out, say = collectgarbage, io.write, print
  collectgarbage = collections(host.phase)
  io.write, print = function() end, function() end
  host.phase "work"
  work(marks(loops, host.phase))
  collectgarbage, io.write, print = collect, out, say
end
