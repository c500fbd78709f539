-- Havlak: finds the loops of a control flow graph, and how they are nested.
-- The graph is made of pieces with three loops each, inside two outer ones, so
-- the number of loops is known.
local rounds = tonumber(arg[1] or 34)
local OUTER, INNER, PIECES, LOOPS_OF_PIECE = 10, 10, 5, 3

local Graph = {}
Graph.__index = Graph

function Graph.new()
  return setmetatable({ size = 0, into = {}, out = {} }, Graph)
end

function Graph:block()
  self.size = self.size + 1
  self.into[self.size], self.out[self.size] = {}, {}
  return self.size
end

function Graph:connect(from, to)
  table.insert(self.out[from], to)
  table.insert(self.into[to], from)
end

function Graph:after(from)
  local block = self:block()
  self:connect(from, block)
  return block
end

function Graph:diamond(from)
  local left, right = self:after(from), self:after(from)
  local foot = self:after(left)
  self:connect(right, foot)
  return foot
end

-- One loop around another two, one after the other.
function Graph:piece(from)
  local head = self:after(from)
  local middle = self:diamond(head)
  local second = self:after(middle)
  local foot = self:diamond(second)
  self:connect(foot, second)
  self:connect(middle, head)
  local last = self:after(foot)
  self:connect(last, from)
  return self:after(last)
end

local function build()
  local graph = Graph.new()
  local at = graph:block()
  for _ = 1, OUTER do
    local outer = graph:after(at)
    at = outer
    for _ = 1, INNER do
      local inner = graph:after(at)
      at = graph:after(inner)
      for _ = 1, PIECES do
        at = graph:piece(graph:after(at))
      end
      graph:connect(at, inner)
      at = graph:after(at)
    end
    graph:connect(at, outer)
    at = graph:after(at)
  end
  return graph
end

-- Numbers the blocks in the order of a search in depth. Returns, by number, the
-- blocks and the last number below each, and by block the numbers.
local function number(graph)
  local blocks, numbers, last = { 1 }, { 1 }, {}
  local path = { { block = 1, next = 1 } }
  while #path > 0 do
    local top = path[#path]
    local to = graph.out[top.block][top.next]
    top.next = top.next + 1
    if not to then
      last[numbers[top.block]] = #blocks
      path[#path] = nil
    elseif not numbers[to] then
      blocks[#blocks + 1] = to
      numbers[to] = #blocks
      path[#path + 1] = { block = to, next = 1 }
    end
  end
  return blocks, numbers, last
end

-- Sets that are united when a loop becomes one node of the loop around it.
local function find(parents, node)
  local root = node
  while parents[root] ~= root do
    root = parents[root]
  end
  while parents[node] ~= root do
    parents[node], node = root, parents[node]
  end
  return root
end

-- The edges into a block, from inside its loop and from elsewhere, as numbers.
local function sort_edges(graph, block, at, numbers, last)
  local back, forward = {}, {}
  for _, from in ipairs(graph.into[block]) do
    local source = numbers[from]
    if at <= source and source <= last[at] then
      back[#back + 1] = source
    else
      forward[source] = true
    end
  end
  return back, forward
end

-- Everything that leads to the ends of the loop that a block heads.
local function body(head, back, forward, parents, last)
  local members, todo = {}, {}
  local function include(node)
    if node ~= head and not members[node] then
      members[node] = true
      todo[#todo + 1] = node
    end
  end
  for _, node in ipairs(back) do
    include(find(parents, node))
  end
  while #todo > 0 do
    local node = table.remove(todo)
    for source in pairs(forward[node]) do
      local root = find(parents, source)
      assert(head <= root and root <= last[head], "an irreducible loop")
      include(root)
    end
  end
  return members
end

local function find_loops(graph)
  local blocks, numbers, last = number(graph)
  local back, forward, parents = {}, {}, {}
  for at, block in ipairs(blocks) do
    parents[at] = at
    back[at], forward[at] = sort_edges(graph, block, at, numbers, last)
  end
  local loops, loop_of = {}, {}
  for head = #blocks, 1, -1 do
    if #back[head] > 0 then
      local loop = { head = head, inside = {}, nodes = {} }
      for node in pairs(body(head, back[head], forward, parents, last)) do
        parents[node] = head
        if loop_of[node] then
          table.insert(loop.inside, loop_of[node])
          loop_of[node].parent = loop
        else
          table.insert(loop.nodes, node)
        end
      end
      loops[#loops + 1], loop_of[head] = loop, loop
    end
  end
  return loops
end

local function depth(loop)
  local deepest = 0
  for _, inner in ipairs(loop.inside) do
    deepest = math.max(deepest, depth(inner))
  end
  return deepest + 1
end

local expected = OUTER * (1 + INNER * (1 + PIECES * LOOPS_OF_PIECE))
for _ = 1, rounds do
  local loops = find_loops(build())
  local outermost, deepest = 0, 0
  for _, loop in ipairs(loops) do
    if not loop.parent then
      outermost = outermost + 1
      deepest = math.max(deepest, depth(loop))
    end
  end
  assert(#loops == expected, #loops)
  assert(outermost == OUTER and deepest == 4, deepest)
end
