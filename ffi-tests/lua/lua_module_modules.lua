-- Two C modules that allocate a lot, lpeg and cjson, at work: on a VM as it is
-- ("never"), attached at the "start", or in the "middle", or on a heap from its
-- birth ("preload").
--
-- Debian's packages of them come without the modules' own test scripts; these
-- checks stand in for those.
local allocator = require "ebbtide"
local check = require "lua_module_check"
local cjson = require "cjson"
local lpeg = require "lpeg"

local when = assert(arg[1])

-- A document of rows, as JSON.
local function document(rows)
  local list = {}
  for i = 1, rows do
    list[i] = { id = i, name = "row " .. i, tags = { "a", "b", tostring(i) }, ratio = i / 8,
                note = i % 50 == 0 and ("long "):rep(2000) or cjson.null }
  end
  return list
end

local function same(a, b)
  if type(a) ~= "table" then
    return a == b
  end
  for key, value in pairs(a) do
    if not same(value, b[key]) then
      return false
    end
  end
  for key in pairs(b) do
    if a[key] == nil then
      return false
    end
  end
  return true
end

local function encode_and_decode(rows)
  local list = document(rows)
  local text = cjson.encode(list)
  local decoded = cjson.decode(text)
  assert(same(list, decoded), "a document is not what it was")
  check.equal(#decoded, rows, "rows")
  check.equal(#cjson.encode(decoded), #text, "the length of a document")
  check.equal(pcall(cjson.decode, text:sub(1, -2)), false, "half a document")
end

-- Arithmetic: the pattern makes closures, tables and captures as it goes.
local function calculator()
  local P, R, S, V, C, Cf, Cg = lpeg.P, lpeg.R, lpeg.S, lpeg.V, lpeg.C, lpeg.Cf, lpeg.Cg
  local space = S " \n\t" ^ 0
  local number = C(P "-" ^ -1 * R "09" ^ 1) * space / tonumber
  local function apply(a, operator, b)
    if operator == "+" then return a + b end
    if operator == "-" then return a - b end
    return a * b
  end
  return P {
    space * V "sum" * -1,
    sum = Cf(V "product" * Cg(C(S "+-") * space * V "product") ^ 0, apply),
    product = Cf(V "factor" * Cg(C(P "*") * space * V "factor") ^ 0, apply),
    factor = number + P "(" * space * V "sum" * P ")" * space,
  }
end

local function calculate(sum, count)
  check.equal(sum:match("2 * (3 + 4) - 5"), 9, "a sum")
  local terms, wanted = {}, 0
  for i = 1, count do
    terms[i] = ("(%d * 2 + 1)"):format(i)
    wanted = wanted + i * 2 + 1
  end
  check.equal(sum:match(table.concat(terms, " + ")), wanted, "a long sum")
  check.equal(sum:match("2 * (3 + "), nil, "half a sum")
end

-- Patterns grow while they are built: lpeg resizes userdata's code with the
-- VM's allocation function.
local function words(count)
  local any = lpeg.P(false)
  for i = 1, count do
    any = any + lpeg.P("word" .. i .. ";")
  end
  local all = lpeg.Ct(lpeg.C(any) ^ 0)
  local list = {}
  for i = 1, count do
    list[i] = "word" .. (i * 7 % count + 1) .. ";"
  end
  local found = all:match(table.concat(list))
  check.equal(#found, count, "words")
  for i = 1, count do
    check.equal(found[i], list[i], "a word")
  end
  return function()
    check.equal(#all:match("word1;word2;word"), 2, "words")
    check.equal(lpeg.Cs((lpeg.P "e" / "E" + 1) ^ 0):match(("be"):rep(20000)), ("bE"):rep(20000),
                "a text")
  end
end

local function reclaim()
  local report, reason = allocator.reclaim()
  assert(report, reason)
end

if when == "start" then
  assert(allocator.attach())
end
local sum, again = calculator(), words(150)
for round = 1, 6 do
  encode_and_decode(300 * round)
  calculate(sum, 60)
  again()
  words(20 * round)()
  reclaim()
  if when == "middle" and round == 3 then
    assert(allocator.attach())
  end
end
again()
local heap = allocator.heap()
check.equal(heap.allocator, when == "never" and "builtin" or "ebbtide", "allocator")
check.equal(heap.attached, when == "start" or when == "middle", "attached")
