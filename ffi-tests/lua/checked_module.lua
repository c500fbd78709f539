-- A program at work that calls a C module. The module has the bug that `case` names, or the first
-- argument.

local case, native = case or arg[1], native or require "native"

local function work(rounds)
  local words, count = {}, 0
  for i = 1, rounds do
    local word = ("%x"):format(i * 2654435761 % 4294967296)
    words[#words + 1] = { word = word, next = words[#words], length = #word }
    count = count + #word
    if #words > 500 then
      words = {}
    end
  end
  return count
end

assert(work(20000) > 100000)
native.none()
native[case]()
assert(work(20000) > 100000)
collectgarbage()
