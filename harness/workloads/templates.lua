-- Templates as web frameworks have them: text with {{ expressions }}, which are
-- escaped, and {% statements %}, compiled to a Lua function that fills a table
-- of pieces. Pages are rendered over and over, compiled anew now and then.
local pages = tonumber(arg[1] or 9000)
local COMPILE_EVERY = 100

local SOURCE = [[
<html><head><title>{{ title }}</title></head><body>
<h1>{{ title }}</h1>
{% for i, row in ipairs(rows) do %}
  <div class="{{ i % 2 == 0 and 'even' or 'odd' }}">
    <a href="/item/{{ row.id }}">{{ row.name }}</a>
    {% if row.price > 20 then %}<b>{{ row.price }}</b>{% end %}
    <ul>{% for _, tag in ipairs(row.tags) do %}<li>{{ tag }}</li>{% end %}</ul>
  </div>
{% end %}
</body></html>
]]

local ESCAPES = {
  ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;"
}

local function escape(value)
  return (tostring(value):gsub('[&<>"]', ESCAPES))
end

-- The Lua code of a template, piece by piece.
local function translate(source)
  local code, at = { "local out, escape = ... " }, 1
  while true do
    local first, last, kind, inside = source:find("{([{%%])(.-)[}%%]}", at)
    local text = source:sub(at, (first or 0) - 1)
    code[#code + 1] = string.format("out[#out + 1] = %q ", text)
    if not first then
      return table.concat(code)
    elseif kind == "{" then
      code[#code + 1] = "out[#out + 1] = escape(" .. inside .. ") "
    else
      code[#code + 1] = inside .. " "
    end
    at = last + 1
  end
end

local function compile(source)
  local run = assert(loadstring(translate(source), "=template"))
  return function(values)
    local out = {}
    values.ipairs = ipairs
    setfenv(run, values)
    run(out, escape)
    return table.concat(out)
  end
end

local function rows(page)
  local list = {}
  for i = 1, 12 do
    list[i] = {
      id = page * 100 + i, name = "A <thing> & " .. i, price = i * 2.5,
      tags = { "new", "tag" .. i, '"' .. page .. '"' }
    }
  end
  return list
end

local function occurrences(text, what)
  return select(2, text:gsub(what, ""))
end

local render
for page = 1, pages do
  if page % COMPILE_EVERY == 1 then
    render = compile(SOURCE)
  end
  local html = render { title = "Page " .. page, rows = rows(page) }
  if page % COMPILE_EVERY == 0 then
    assert(occurrences(html, "<li>") == 36 and occurrences(html, "<b>") == 4)
    assert(occurrences(html, "&lt;thing&gt; &amp;") == 12)
    assert(occurrences(html, "Page " .. page) == 2)
  end
end
