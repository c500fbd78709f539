-- What luasocket's test client asks of its test server, on a port of its own
-- and over loopback alone: the server is a child of the same VM. In the folder
-- of luasocket's tests. Left out is what waits for seconds.

local ffi = require "ffi"
local socket = require "socket"

ffi.cdef [[
int fork(void);
int waitpid(int process, int *status, int options);
int prctl(int option, unsigned long value, ...);
]]
local PR_SET_PDEATHSIG, SIGKILL = 1, 9

local function free_port()
  local server = assert(socket.bind("127.0.0.1", 0))
  local _, number = server:getsockname()
  server:close()
  return number
end

host, port = "127.0.0.1", free_port()
local child = ffi.C.fork()
if child == 0 then
  ffi.C.prctl(PR_SET_PDEATHSIG, SIGKILL)
  print = function() end
  dofile "testsrvr.lua"
end

-- The client has a word for each thing that a socket may do rightly.
local said = {}
io.stderr = { write = function(_, ...) said[#said + 1] = table.concat { ... } end }
os.exit = function() error(table.concat(said), 0) end

local function wait_for_server()
  for _ = 1, 6000 do
    local probe = socket.connect(host, port)
    if probe then
      return probe:close()
    end
    socket.sleep(0.01)
  end
  error "no server"
end

wait_for_server()
-- Without it the client does not begin.
socket._DEBUG = true
local file = assert(io.open "testclnt.lua")
local text = file:read "*a"
file:close()
local definitions = text:sub(1, assert(text:find('test("closed', 1, true)) - 1)
assert(loadstring(definitions, "@testclnt.lua"))()

for _, test in ipairs {
  test_closed, test_partialrecv, test_selectbugs, test_readafterclose,
  test_writeafterclose, empty_connect, rebind_test, active_close,
  accept_errors, getstats_test,
} do
  test()
end
for _, test in ipairs { test_asciiline, test_mixed, test_rawline, test_raw } do
  for _, size in ipairs { 1, 17, 4091, 801990, 200 } do
    test(size)
  end
end
test_nonblocking(80199)
remote "os.exit()"
local status = ffi.new "int[1]"
assert(ffi.C.waitpid(child, status, 0) == child and status[0] == 0)
print("client and server passed")
