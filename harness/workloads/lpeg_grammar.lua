-- A grammar in LPeg (Debian's lua-lpeg) for a small language of assignments:
-- sources are matched into trees of tables, which are evaluated. The VM's
-- allocator also serves the userdata of the patterns and the matcher's stack.
package.cpath = package.cpath .. ";/usr/lib/x86_64-linux-gnu/lua/5.1/?.so"
  .. ";/usr/lib/aarch64-linux-gnu/lua/5.1/?.so"
local lpeg = require "lpeg"

local rounds = tonumber(arg[1] or 250)
local STATEMENTS = 150

local P, R, S, V, C, Ct = lpeg.P, lpeg.R, lpeg.S, lpeg.V, lpeg.C, lpeg.Ct

local function node(kind, pattern)
  return Ct(lpeg.Cg(lpeg.Cc(kind), "kind") * pattern)
end

local function build()
  local space = S(" \n") ^ 0
  local function token(pattern)
    return pattern * space
  end
  local name = token(C(R("az") * (R("az", "09") + "_") ^ 0))
  local number = token(C(R("09") ^ 1))
  return P {
    space * Ct(V "assignment" ^ 0) * -1,
    assignment = node("set", name * token(P "=") * V "sum" * token(P ";")),
    sum = node("sum", V "product" * (token(C(S "+-")) * V "product") ^ 0),
    product = node("product", V "unary" * (token(C(P "*")) * V "unary") ^ 0),
    unary = node("number", number) + node("name", name)
      + token(P "(") * V "sum" * token(P ")")
  }
end

local evaluate

local function chain(tree, variables)
  local value = evaluate(tree[1], variables)
  for i = 2, #tree, 2 do
    local right = evaluate(tree[i + 1], variables)
    if tree[i] == "+" then
      value = value + right
    elseif tree[i] == "-" then
      value = value - right
    else
      value = value * right
    end
  end
  return value % 65536
end

function evaluate(tree, variables)
  if tree.kind == "number" then
    return tonumber(tree[1])
  elseif tree.kind == "name" then
    return variables[tree[1]]
  end
  return chain(tree, variables)
end

-- Also what the last variable must be.
local function source()
  local lines, value = { "v0 = 1;" }, 1
  for i = 1, STATEMENTS do
    lines[#lines + 1] = string.format("v%d = (v%d + %d) * 3 - v%d * (%d - 2);",
      i, i - 1, i, i - 1, i % 7 + 2)
    value = ((value + i) % 65536 * 3 - value * (i % 7)) % 65536
  end
  return table.concat(lines, "\n"), value
end

local text, expected = source()
local grammar
for round = 1, rounds do
  if round % 10 == 1 then
    grammar = build()
  end
  local tree = assert(grammar:match(text))
  local variables = {}
  for _, assignment in ipairs(tree) do
    variables[assignment[1]] = evaluate(assignment[2], variables)
  end
  assert(variables["v" .. STATEMENTS] == expected)
end
