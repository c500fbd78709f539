-- A program whose standard error has a fate before it has a bug.
--
--   checked_stderr.lua CASE FATE [FILE]
--
-- FATE is "log" or "database": FILE becomes descriptor 2, open for appending or for reading and
-- writing. "full": descriptor 2 is a pipe, and is full.

local ffi = require "ffi"

ffi.cdef [[
int open(const char *path, int flags, ...);
int dup2(int from, int to);
int fcntl(int descriptor, int command, ...);
ptrdiff_t write(int descriptor, const void *bytes, size_t count);
]]

local STDERR, F_SETFL = 2, 4
local O_WRONLY, O_RDWR, O_CREAT, O_APPEND, O_NONBLOCK = 1, 2, 64, 1024, 2048

local function becomes(flags)
  local file = ffi.C.open(arg[3], flags + O_CREAT, ffi.cast("int", 384))
  assert(file >= 0 and ffi.C.dup2(file, STDERR) == STDERR)
end

local fates = {}

function fates.log()
  becomes(O_WRONLY + O_APPEND)
end

function fates.database()
  becomes(O_RDWR)
end

function fates.full()
  local page = ("x"):rep(4096)
  assert(ffi.C.fcntl(STDERR, F_SETFL, ffi.cast("int", O_WRONLY + O_NONBLOCK)) == 0)
  while ffi.C.write(STDERR, page, #page) > 0 do
  end
  assert(ffi.C.fcntl(STDERR, F_SETFL, ffi.cast("int", O_WRONLY)) == 0)
end

fates[arg[2]]()
dofile((arg[0]:gsub("checked_stderr", "checked_module")))
