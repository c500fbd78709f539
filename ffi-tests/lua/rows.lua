-- Prints how many rows a table gets before memory runs out, and the error. With
-- an argument the VM changes over to a heap before.
if arg[1] == "attach" then
  assert(require("ebbtide").attach())
end

local rows, count = {}, 0
local ok, message = pcall(function()
  for i = 1, 1e9 do
    rows[i] = { i }
    count = i
  end
end)
rows = nil
collectgarbage()
assert(not ok and message == "not enough memory", message)
print(count)
