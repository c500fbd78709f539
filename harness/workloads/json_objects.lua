-- JSON as an object-oriented program does it: a parser that reads letter by
-- letter and makes an object with a class for every value, and a visitor that
-- writes them out again. What comes out must be what went in.
local rounds = tonumber(arg[1] or 220)
local RECORDS = 60

local Value = {}
local function class(name)
  local new = setmetatable({ name = name }, { __index = Value })
  new.__index = new
  return new
end

local Null, Boolean, Number = class "null", class "boolean", class "number"
local String, Array, Object = class "string", class "array", class "object"

function Value:is(kind)
  return self.name == kind
end

local function make(kind, value)
  return setmetatable({ value = value }, kind)
end

function Null.write(_, out)
  out[#out + 1] = "null"
end

function Boolean:write(out)
  out[#out + 1] = tostring(self.value)
end

function Number:write(out)
  out[#out + 1] = self.value
end

function String:write(out)
  out[#out + 1] = '"' .. self.value .. '"'
end

function Array:write(out)
  out[#out + 1] = "["
  for i, item in ipairs(self.value) do
    out[#out + 1] = i > 1 and "," or ""
    item:write(out)
  end
  out[#out + 1] = "]"
end

-- Members in the order in which they came.
function Object:write(out)
  out[#out + 1] = "{"
  for i, member in ipairs(self.value) do
    out[#out + 1] = (i > 1 and "," or "") .. '"' .. member.key .. '":'
    member.value:write(out)
  end
  out[#out + 1] = "}"
end

function Object:get(key)
  for _, member in ipairs(self.value) do
    if member.key == key then
      return member.value
    end
  end
  return nil
end

local Parser = {}
Parser.__index = Parser

function Parser.new(text)
  local parser = setmetatable({ text = text, at = 0 }, Parser)
  parser:read()
  return parser
end

function Parser:read()
  self.at = self.at + 1
  self.current = self.text:sub(self.at, self.at)
end

function Parser:take(letter)
  if self.current ~= letter then
    return false
  end
  self:read()
  return true
end

function Parser:expect(word)
  for letter in word:gmatch(".") do
    assert(self:take(letter), "expected " .. word)
  end
end

function Parser:skip()
  while self.current == " " or self.current == "\n" do
    self:read()
  end
end

-- Letters are gathered as long as they fit.
function Parser:gather(pattern)
  local letters = {}
  while self.current ~= "" and self.current:find(pattern) do
    letters[#letters + 1] = self.current
    self:read()
  end
  return table.concat(letters)
end

function Parser:string()
  self:expect('"')
  local text = self:gather('[^"]')
  self:expect('"')
  return text
end

function Parser:array()
  local items = {}
  self:expect("[")
  self:skip()
  while not self:take("]") do
    items[#items + 1] = self:value()
    self:take(",")
    self:skip()
  end
  return make(Array, items)
end

function Parser:object()
  local members = {}
  self:expect("{")
  self:skip()
  while not self:take("}") do
    local key = self:string()
    self:expect(":")
    members[#members + 1] = { key = key, value = self:value() }
    self:take(",")
    self:skip()
  end
  return make(Object, members)
end

local function word(text, kind, value)
  return function(parser)
    parser:expect(text)
    return make(kind, value)
  end
end

local STARTS = {
  ["{"] = Parser.object,
  ["["] = Parser.array,
  ['"'] = function(parser) return make(String, parser:string()) end,
  n = word("null", Null),
  t = word("true", Boolean, true),
  f = word("false", Boolean, false)
}

function Parser:value()
  self:skip()
  local start = STARTS[self.current]
  if start then
    return start(self)
  end
  local text = self:gather("[%d%.%-+eE]")
  assert(tonumber(text), "not a number: " .. text)
  return make(Number, text)
end

local function document()
  local records = {}
  for i = 1, RECORDS do
    records[i] = string.format('{"id":%d,"name":"user %d","score":%.2f,'
      .. '"active":%s,"parent":null,"tags":["a","tag%d"],"at":{"x":%d}}',
      i, i, i * 1.25, tostring(i % 2 == 0), i, -i)
  end
  return '{"users":[' .. table.concat(records, ",") .. ']}'
end

local text = document()
for _ = 1, rounds do
  local tree = Parser.new(text):value()
  local users = tree:get("users")
  assert(tree:is("object") and users:is("array") and #users.value == RECORDS)
  local out = {}
  tree:write(out)
  assert(table.concat(out) == text)
end
