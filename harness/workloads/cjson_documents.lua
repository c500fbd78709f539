-- Documents decoded and encoded by lua-cjson (Debian's), as an API gateway
-- does: each is changed a little in between, and some are kept for a while.
package.cpath = package.cpath .. ";/usr/lib/x86_64-linux-gnu/lua/5.1/?.so"
  .. ";/usr/lib/aarch64-linux-gnu/lua/5.1/?.so"
local cjson = require "cjson"

local rounds = tonumber(arg[1] or 4000)
local RECORDS, KEPT = 30, 500

local function document()
  local users = {}
  for i = 1, RECORDS do
    users[i] = {
      id = i, name = "user" .. i, mail = "u" .. i .. "@example.org",
      tags = { "a", "b", "c" .. i }, score = i * 1.5,
      address = { street = "street " .. i, number = i, city = "city" }
    }
  end
  return { users = users, next = "/users?page=2", total = RECORDS }
end

local text = cjson.encode(document())
local kept = {}

for round = 1, rounds do
  local tree = cjson.decode(text)
  assert(#tree.users == RECORDS and tree.total == RECORDS)
  tree.request = "r-" .. round
  for i, user in ipairs(tree.users) do
    user.mail = nil
    user.score = user.score + i
  end
  local response = cjson.encode(tree)
  assert(#response > #text / 2)
  kept[round % KEPT + 1] = tree
  if round % 500 == 0 then
    local again = cjson.decode(response)
    assert(again.request == tree.request and again.users[2].score == 5)
    assert(again.users[1].mail == nil and again.users[1].tags[3] == "c1")
  end
end
