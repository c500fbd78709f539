-- What replace.lua does, on bare blocks of 16 to 152 bytes: the VM's allocator
-- without Lua and its collector. Prints nanoseconds for each replacement.
local live = tonumber(arg[1] or 1e6)
local count = tonumber(arg[2] or 1e7)

print(string.format("%.1f", replace_blocks(live, count)))
