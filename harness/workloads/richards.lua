-- Richards: a small operating system passes packets between an idle task, a
-- worker, two handlers and two devices. How many packets are queued and how
-- often a task is held is known for the schedule of 1000 idle rounds.
local rounds = tonumber(arg[1] or 400)
local IDLE_ROUNDS, QUEUED, HELD = 1000, 2322, 928

local IDLE, WORKER, HANDLER_A, HANDLER_B, DEVICE_A, DEVICE_B = 1, 2, 3, 4, 5, 6
local DEVICE, WORK = 1, 2
local PACKET_BYTES = 4

local Packet, Task, Scheduler = {}, {}, {}
Packet.__index, Task.__index, Scheduler.__index = Packet, Task, Scheduler

function Packet.new(link, identity, kind)
  local data = {}
  for i = 1, PACKET_BYTES do
    data[i] = 0
  end
  return setmetatable({
    link = link, identity = identity, kind = kind, datum = 1, data = data
  }, Packet)
end

local function append(packet, queue)
  packet.link = nil
  if not queue then
    return packet
  end
  local last = queue
  while last.link do
    last = last.link
  end
  last.link = packet
  return queue
end

function Task.new(identity, priority, queue, work)
  return setmetatable({
    identity = identity, priority = priority, queue = queue, work = work,
    packet_pending = queue ~= nil, waiting = queue ~= nil, holding = false
  }, Task)
end

function Task:held_or_waiting()
  return self.holding or (not self.packet_pending and self.waiting)
end

function Task:take()
  if not (self.packet_pending and self.waiting and not self.holding) then
    return nil
  end
  local packet = self.queue
  self.queue = packet.link
  self.packet_pending = self.queue ~= nil
  self.waiting = false
  return packet
end

function Scheduler.new()
  return setmetatable({ tasks = {}, order = {}, queued = 0, held = 0 },
    Scheduler)
end

-- The task that was added last runs first.
function Scheduler:add(task)
  self.tasks[task.identity] = task
  task.next, self.first = self.first, task
end

function Scheduler:hold()
  self.held = self.held + 1
  self.current.holding = true
  return self.current.next
end

function Scheduler:wait()
  self.current.waiting = true
  return self.current
end

function Scheduler:release(identity)
  local task = self.tasks[identity]
  task.holding = false
  if task.priority > self.current.priority then
    return task
  end
  return self.current
end

function Scheduler:send(packet)
  local task = self.tasks[packet.identity]
  self.queued = self.queued + 1
  packet.link, packet.identity = nil, self.current.identity
  local was_empty = task.queue == nil
  task.queue = append(packet, task.queue)
  if was_empty then
    task.packet_pending = true
    if task.priority > self.current.priority then
      return task
    end
  end
  return self.current
end

function Scheduler:run()
  self.current = self.first
  while self.current do
    if self.current:held_or_waiting() then
      self.current = self.current.next
    else
      local task = self.current
      self.current = task.work(self, task:take())
    end
  end
end

local function idle()
  local seed, left = 1, IDLE_ROUNDS
  return function(scheduler)
    left = left - 1
    if left == 0 then
      return scheduler:hold()
    elseif seed % 2 == 0 then
      seed = bit.rshift(seed, 1)
      return scheduler:release(DEVICE_A)
    end
    seed = bit.bxor(bit.rshift(seed, 1), 0xD008)
    return scheduler:release(DEVICE_B)
  end
end

local function worker()
  local to, letter = HANDLER_A, 0
  return function(scheduler, packet)
    if not packet then
      return scheduler:wait()
    end
    to = HANDLER_A + HANDLER_B - to
    packet.identity, packet.datum = to, 1
    for i = 1, PACKET_BYTES do
      letter = letter % 26 + 1
      packet.data[i] = letter
    end
    return scheduler:send(packet)
  end
end

local function handler()
  local work, device
  return function(scheduler, packet)
    if packet and packet.kind == WORK then
      work = append(packet, work)
    elseif packet then
      device = append(packet, device)
    end
    if not work then
      return scheduler:wait()
    end
    local first = work
    if first.datum > PACKET_BYTES then
      work = first.link
      return scheduler:send(first)
    elseif not device then
      return scheduler:wait()
    end
    local out = device
    device = out.link
    out.datum = first.data[first.datum]
    first.datum = first.datum + 1
    return scheduler:send(out)
  end
end

local function device()
  local pending
  return function(scheduler, packet)
    if packet then
      pending = packet
      return scheduler:hold()
    elseif not pending then
      return scheduler:wait()
    end
    local out = pending
    pending = nil
    return scheduler:send(out)
  end
end

local function packets(count, identity, kind)
  local queue
  for _ = 1, count do
    queue = Packet.new(queue, identity, kind)
  end
  return queue
end

local function simulate()
  local scheduler = Scheduler.new()
  scheduler:add(Task.new(IDLE, 0, nil, idle()))
  scheduler:add(Task.new(WORKER, 1000, packets(2, WORKER, WORK), worker()))
  scheduler:add(Task.new(HANDLER_A, 2000, packets(3, DEVICE_A, DEVICE),
    handler()))
  scheduler:add(Task.new(HANDLER_B, 3000, packets(3, DEVICE_B, DEVICE),
    handler()))
  scheduler:add(Task.new(DEVICE_A, 4000, nil, device()))
  scheduler:add(Task.new(DEVICE_B, 5000, nil, device()))
  for identity = WORKER, DEVICE_B do
    scheduler.tasks[identity].waiting = true
  end
  scheduler:run()
  return scheduler
end

for _ = 1, rounds do
  local scheduler = simulate()
  assert(scheduler.queued == QUEUED, scheduler.queued)
  assert(scheduler.held == HELD, scheduler.held)
end
