-- DeltaBlue: an incremental solver of constraints in one direction at a time.
-- Two tests, each with known results: a chain of variables that must be equal,
-- edited at one end, and pairs of variables with a scale and an offset between.
local rounds = tonumber(arg[1] or 45)
local SIZE = 1000

-- Strengths: less is stronger.
local REQUIRED, PREFERRED, STRONG_DEFAULT, NORMAL, WEAKEST = 0, 2, 3, 4, 6

local planner

local function remove_value(list, value)
  for i = 1, #list do
    if list[i] == value then
      return table.remove(list, i)
    end
  end
end

local Variable = {}
Variable.__index = Variable

function Variable.new(value)
  return setmetatable({
    value = value, constraints = {}, determined_by = nil, mark = 0,
    strength = WEAKEST, stay = true
  }, Variable)
end

-- The constraints in force that read the variable, added to a list.
function Variable:add_readers(list)
  for _, constraint in ipairs(self.constraints) do
    if constraint ~= self.determined_by and constraint:is_satisfied() then
      list[#list + 1] = constraint
    end
  end
end

local Constraint = {}

function Constraint:add()
  for _, variable in ipairs(self:variables()) do
    table.insert(variable.constraints, self)
  end
  planner:add(self)
end

function Constraint:remove_from_graph()
  for _, variable in ipairs(self:variables()) do
    remove_value(variable.constraints, self)
  end
  self:unsatisfy()
end

function Constraint:destroy()
  if self:is_satisfied() then
    planner:remove(self)
  else
    self:remove_from_graph()
  end
end

-- Puts itself in force if it can; returns the constraint that had to give way.
function Constraint:satisfy(mark)
  self:choose(mark)
  if not self:is_satisfied() then
    assert(self.strength ~= REQUIRED, "a required constraint cannot hold")
    return nil
  end
  for _, input in ipairs(self:inputs()) do
    input.mark = mark
  end
  local out = self:output()
  local overridden = out.determined_by
  if overridden then
    overridden:unsatisfy()
  end
  out.determined_by = self
  assert(planner:propagate(self, mark), "a cycle")
  out.mark = mark
  return overridden
end

function Constraint:inputs_known(mark)
  for _, input in ipairs(self:inputs()) do
    if not (input.mark == mark or input.stay or not input.determined_by) then
      return false
    end
  end
  return true
end

-- Edit and stay: constraints on one variable.
local Unary = setmetatable({}, { __index = Constraint })
Unary.__index = Unary

function Unary.new(variable, strength, is_edit)
  local constraint = setmetatable({
    variable = variable, strength = strength, is_edit = is_edit,
    satisfied = false
  }, Unary)
  constraint:add()
  return constraint
end

function Unary:variables()
  return { self.variable }
end

function Unary:inputs()
  return {}
end

function Unary:output()
  return self.variable
end

function Unary:is_satisfied()
  return self.satisfied
end

function Unary:unsatisfy()
  self.satisfied = false
end

function Unary:choose(mark)
  self.satisfied = self.variable.mark ~= mark
    and self.strength < self.variable.strength
end

function Unary:recalculate()
  self.variable.strength = self.strength
  self.variable.stay = not self.is_edit
end

function Unary:execute()
end

-- Between two variables, with a scale and an offset or without.
local Binary = setmetatable({}, { __index = Constraint })
Binary.__index = Binary

function Binary.new(first, second, strength, scale, offset)
  local constraint = setmetatable({
    first = first, second = second, strength = strength, scale = scale,
    offset = offset, forward = nil
  }, Binary)
  constraint:add()
  return constraint
end

function Binary:variables()
  return { self.first, self.second, self.scale, self.offset }
end

function Binary:inputs()
  local from = self.forward and self.first or self.second
  return { from, self.scale, self.offset }
end

function Binary:output()
  return self.forward and self.second or self.first
end

function Binary:is_satisfied()
  return self.forward ~= nil
end

function Binary:unsatisfy()
  self.forward = nil
end

function Binary:choose(mark)
  local first, second = self.first, self.second
  local forward
  if first.mark == mark then
    forward = true
  elseif second.mark == mark then
    forward = false
  else
    forward = first.strength <= second.strength
  end
  local out = forward and second or first
  if out.mark ~= mark and self.strength < out.strength then
    self.forward = forward
  else
    self.forward = nil
  end
end

function Binary:recalculate()
  local out = self:output()
  local inputs = self:inputs()
  out.strength = math.max(self.strength, inputs[1].strength)
  out.stay = true
  for _, input in ipairs(inputs) do
    out.stay = out.stay and input.stay
  end
  if out.stay then
    self:execute()
  end
end

function Binary:execute()
  local scale = self.scale and self.scale.value or 1
  local offset = self.offset and self.offset.value or 0
  if self.forward then
    self.second.value = self.first.value * scale + offset
  else
    self.first.value = (self.second.value - offset) / scale
  end
end

local Planner = {}
Planner.__index = Planner

function Planner:new_mark()
  self.mark = self.mark + 1
  return self.mark
end

function Planner:add(constraint)
  local mark = self:new_mark()
  local overridden = constraint:satisfy(mark)
  while overridden do
    overridden = overridden:satisfy(mark)
  end
end

function Planner:remove(constraint)
  local out = constraint:output()
  constraint:unsatisfy()
  constraint:remove_from_graph()
  local unsatisfied = self:propagate_removal(out)
  for strength = REQUIRED, WEAKEST do
    for _, other in ipairs(unsatisfied) do
      if other.strength == strength then
        self:add(other)
      end
    end
  end
end

function Planner:propagate(constraint, mark)
  local todo = { constraint }
  while #todo > 0 do
    local next_one = table.remove(todo)
    if next_one:output().mark == mark then
      self:remove(constraint)
      return false
    end
    next_one:recalculate()
    next_one:output():add_readers(todo)
  end
  return true
end

-- Returns the constraints that may now come into force.
function Planner:propagate_removal(out)
  local unsatisfied, todo = {}, { out }
  out.determined_by, out.strength, out.stay = nil, WEAKEST, true
  while #todo > 0 do
    local variable = table.remove(todo)
    for _, constraint in ipairs(variable.constraints) do
      if not constraint:is_satisfied() then
        unsatisfied[#unsatisfied + 1] = constraint
      elseif constraint ~= variable.determined_by then
        constraint:recalculate()
        todo[#todo + 1] = constraint:output()
      end
    end
  end
  return unsatisfied
end

-- The constraints to execute, in order, when an edited variable has changed.
function Planner:plan(edit)
  local mark, plan, todo = self:new_mark(), {}, {}
  if edit:is_satisfied() then
    todo[1] = edit
  end
  while #todo > 0 do
    local constraint = table.remove(todo)
    local out = constraint:output()
    if out.mark ~= mark and constraint:inputs_known(mark) then
      plan[#plan + 1] = constraint
      out.mark = mark
      out:add_readers(todo)
    end
  end
  return plan
end

local function edit(variable, values, check)
  local constraint = Unary.new(variable, PREFERRED, true)
  local plan = planner:plan(constraint)
  for _, value in ipairs(values) do
    variable.value = value
    for _, step in ipairs(plan) do
      step:execute()
    end
    check(value)
  end
  constraint:destroy()
end

local function chain()
  local variables = { Variable.new(0) }
  for i = 2, SIZE do
    variables[i] = Variable.new(0)
    Binary.new(variables[i - 1], variables[i], REQUIRED)
  end
  Unary.new(variables[SIZE], STRONG_DEFAULT, false)
  edit(variables[1], { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 }, function(value)
    assert(variables[SIZE].value == value)
  end)
end

local function projection()
  local scale, offset = Variable.new(10), Variable.new(1000)
  local sources, images = {}, {}
  for i = 1, SIZE do
    sources[i], images[i] = Variable.new(i), Variable.new(i)
    Unary.new(sources[i], NORMAL, false)
    Binary.new(sources[i], images[i], REQUIRED, scale, offset)
  end
  edit(sources[SIZE], { 17 }, function()
    assert(images[SIZE].value == 1170)
  end)
  edit(images[SIZE], { 1050 }, function()
    assert(sources[SIZE].value == 5)
  end)
  edit(scale, { 5 }, function()
    for i = 1, SIZE - 1 do
      assert(images[i].value == i * 5 + 1000)
    end
  end)
  edit(offset, { 2000 }, function()
    for i = 1, SIZE - 1 do
      assert(images[i].value == i * 5 + 2000)
    end
  end)
end

for _ = 1, rounds do
  planner = setmetatable({ mark = 0 }, Planner)
  chain()
  planner = setmetatable({ mark = 0 }, Planner)
  projection()
end
