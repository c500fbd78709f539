-- One table grows to 8 million array slots and dies, again and again: 64 MB
-- blocks, and every power of two below. Growing alone never makes LuaJIT
-- collect, so the end of each table is asked for.
local rounds = tonumber(arg[1] or 10)

for _ = 1, rounds do
  local array = {}
  for j = 1, 8e6 do
    array[j] = j
  end
  array = nil
  collectgarbage()
end
