-- The router of a web framework: routes with parameters in a tree of path
-- segments, requests that are split, matched, and handed on with a context of
-- their own through a chain of middleware. Every so often all is reloaded.
local requests = tonumber(arg[1] or 130000)
local RELOAD_EVERY = 20000
local RESOURCES = 40

local function split(path)
  local segments = {}
  for segment in path:gmatch("[^/]+") do
    segments[#segments + 1] = segment
  end
  return segments
end

local Router = {}
Router.__index = Router

function Router.new()
  return setmetatable({ root = { children = {} }, middleware = {} }, Router)
end

local function child(node, segment)
  local name = segment:match("^:(.+)$")
  if name then
    node.any = node.any or { children = {}, name = name }
    return node.any
  end
  node.children[segment] = node.children[segment] or { children = {} }
  return node.children[segment]
end

function Router:add(method, path, handler)
  local node = self.root
  for _, segment in ipairs(split(path)) do
    node = child(node, segment)
  end
  node.handlers = node.handlers or {}
  node.handlers[method] = handler
end

function Router:use(middleware)
  self.middleware[#self.middleware + 1] = middleware
end

function Router:find(method, path)
  local node, params = self.root, {}
  for _, segment in ipairs(split(path)) do
    local exact = node.children[segment]
    if not exact and node.any then
      params[node.any.name] = segment
    end
    node = exact or node.any
    if not node then
      return nil
    end
  end
  return node.handlers and node.handlers[method], params
end

local function parse_query(text)
  local query = {}
  for key, value in text:gmatch("([^&=]+)=([^&]*)") do
    query[key] = value:gsub("+", " ")
  end
  return query
end

function Router:serve(method, target)
  local path, query = target:match("^([^?]*)%??(.*)$")
  local handler, params = self:find(method, path)
  if not handler then
    return { status = 404, body = "not found: " .. path }
  end
  local context = {
    method = method, path = path, params = params,
    query = parse_query(query), headers = {}
  }
  local index = 0
  local function next_one()
    index = index + 1
    local middleware = self.middleware[index]
    if middleware then
      return middleware(context, next_one)
    end
    return handler(context)
  end
  return next_one()
end

local function show(context)
  local id = context.params.id
  return { status = 200, body = "item " .. id, id = tonumber(id) }
end

local function comment(context)
  local p = context.params
  return {
    status = 200, body = p.id .. "/" .. p.comment .. " " .. context.query.q,
    id = tonumber(p.id)
  }
end

local function trace(context, next_one)
  context.headers["x-request-id"] = "r-" .. context.path
  local response = next_one()
  response.headers = context.headers
  return response
end

local function authorise(context, next_one)
  context.user = { name = "user", roles = { "reader", "writer" } }
  return next_one()
end

local function load_routes()
  local router = Router.new()
  for i = 1, RESOURCES do
    local path = "/api/v1/resource" .. i
    router:add("GET", path .. "/:id", show)
    router:add("GET", path .. "/:id/comments/:comment", comment)
  end
  router:use(trace)
  router:use(authorise)
  return router
end

local router
local found, missing = 0, 0

for i = 1, requests do
  if i % RELOAD_EVERY == 1 then
    router = load_routes()
  end
  local path = "/api/v1/resource" .. i % (RESOURCES + 1) .. "/" .. i
  if i % 3 == 0 then
    path = path .. "/comments/" .. i * 2 .. "?q=a+word&page=" .. i
  end
  local response = router:serve("GET", path)
  if response.status == 200 then
    found = found + 1
    assert(response.id == i and response.headers["x-request-id"])
  else
    missing = missing + 1
  end
end
assert(missing == math.floor(requests / (RESOURCES + 1)))
assert(found + missing == requests)
