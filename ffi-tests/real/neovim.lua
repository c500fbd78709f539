-- Neovim: commands come over a connection. Each goes through a buffer, too.
local work = dofile(os.getenv "LAW_WORK")
local api, loop = vim.api, vim.loop

local client = loop.new_tcp()
local received = ""

local function edit(command)
  local lines = {}
  for i = 1, 200 do
    lines[i] = ("%s line %d %s"):format(command, i, ("x"):rep(i))
  end
  api.nvim_buf_set_lines(0, 0, -1, false, lines)
  assert(#api.nvim_buf_get_lines(0, 0, -1, false) == 200)
end

vim.o.undolevels = -1
client:connect("127.0.0.1", tonumber(os.getenv "LAW_PORT"), function(failure)
  assert(not failure, failure)
  client:read_start(vim.schedule_wrap(function(_, text)
    if not text then
      vim.cmd "qall!"
      return
    end
    received = received .. text
    for command in received:gmatch "([^\n]*)\n" do
      edit(command)
      work.run(command)
      client:write "done\n"
    end
    received = received:match "[^\n]*$"
  end))
end)
