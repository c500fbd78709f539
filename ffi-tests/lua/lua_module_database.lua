-- A program that closes descriptor 2 and opens a database, which becomes descriptor 2. Then it loads
-- the library, in an environment with settings that have no effect.
--
--   lua_module_database.lua DATABASE

local ffi = require "ffi"

ffi.cdef [[
int close(int);
int fileno(void *);
]]

assert(ffi.C.close(2) == 0)
local database = assert(io.open(arg[1], "w+"))
assert(ffi.C.fileno(database) == 2)
assert(database:write("HEADER\n"))
assert(database:flush())
assert(require("ebbtide").report())
assert(database:write("END\n"))
assert(database:close())
