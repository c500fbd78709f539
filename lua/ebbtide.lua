-- ebbtide: memory that LuaJIT holds and does not need goes back to the kernel.
--
--   local allocator = require "ebbtide"
--   print(allocator.report())
--   allocator.reclaim()          -- in place, on the built-in allocator too
--   allocator.attach()           -- from here on, on a heap that breathes
--
-- README.md beside this file documents each function. What can fail returns nil and a reason; what
-- is called wrongly is an error that names the argument. Numbers of bytes are plain Lua numbers.

local _, core = ...
if type(core) ~= "table" then
  core = require "ebbtide.core"
  if type(core) ~= "table" then
    error("ebbtide: this program does not export Lua's functions (-rdynamic)", 0)
  end
end

local collectgarbage, error, pairs, tostring, type = collectgarbage, error, pairs, tostring, type
local concat, format, huge = table.concat, string.format, math.huge

local _M = { _VERSION = core.version }

local function misuse(number, name, called, expected, value)
  local got = type(value)
  if value ~= nil and (got == "number" or got == "string") then
    got = format("%s %s", got, tostring(value))
  end
  error(format("bad argument #%d '%s' to '%s' (%s expected, got %s)",
               number, name, called, expected, got), 3)
end

local function is_budget(value)
  return type(value) == "number" and value >= 0 and value < huge
end

-- Keys that a table of arguments may have, and what each must be.
local function check_keys(arguments, known, called)
  for key, value in pairs(arguments) do
    local expected = known[key]
    if not expected then
      error(format("bad argument #1 to '%s' (it takes no '%s')", called, tostring(key)), 3)
    end
    if type(value) ~= expected or expected == "number" and not is_budget(value) then
      error(format("bad argument #1 to '%s' ('%s' must be a %s, not %s)",
                   called, key, expected, tostring(value)), 3)
    end
  end
end

local RECLAIM = { budget_us = "number", collect = "boolean" }

function _M.reclaim(options)
  if options == nil then
    options = RECLAIM
  elseif type(options) ~= "table" then
    misuse(1, "options", "reclaim", "table or nil", options)
  else
    check_keys(options, RECLAIM, "reclaim")
  end
  local budget_us, collect = 0, true
  if options ~= RECLAIM then
    budget_us, collect = options.budget_us or 0, options.collect ~= false
  end
  -- What cannot be reclaimed is not touched: no collection either.
  local allocator, unknown = core.allocator()
  if not allocator then
    return nil, unknown
  end
  local collected = collect and core.may_collect()
  if collected then
    collectgarbage "collect"
  end
  local report, reason = core.reclaim(budget_us)
  if not report then
    return nil, reason
  end
  report.collected = collected
  return report
end

local function is_value(value)
  local kind = type(value)
  return kind == "number" or kind == "boolean" or kind == "string"
end

-- Options have names, and values of the kinds that options take.
local function check_options(options, called)
  for name, value in pairs(options) do
    if type(name) ~= "string" or not is_value(value) then
      error(format("bad argument #1 to '%s' (option '%s' is %s)",
                   called, tostring(name), tostring(value)), 3)
    end
  end
end

function _M.attach(options)
  if options ~= nil then
    if type(options) ~= "table" then
      misuse(1, "options", "attach", "table or nil", options)
    end
    check_options(options, "attach")
  end
  local attached, reason = core.attach(options)
  if not attached then
    return nil, reason
  end
  if attached == "already" then
    return true, "already attached"
  end
  return true
end

-- What share of the process's memory the allocator holds.
local function add_share(stats)
  stats.process_resident = core.process()
  if stats.process_resident then
    stats.share = stats.resident / stats.process_resident
  end
  return stats
end

function _M.stats()
  local allocator, attached = core.allocator()
  if not allocator then
    return nil, attached
  end
  if allocator == "ebbtide" then
    local stats = core.stats()
    stats.allocator = allocator
    stats.attached = attached
    return stats
  end
  local stats, reason = core.builtin()
  if not stats then
    return nil, reason
  end
  stats.allocator = allocator
  stats.attached = false
  return add_share(stats)
end

-- What the VM ran on before attach() still holds.
function _M.former()
  local allocator, attached = core.allocator()
  if not allocator then
    return nil, attached
  end
  if not attached then
    return nil, "the VM was not attached: it has no former heap"
  end
  local stats, reason = core.builtin()
  if not stats then
    return nil, reason
  end
  return add_share(stats)
end

function _M.heap()
  local allocator, attached = core.allocator()
  if not allocator then
    return nil, attached
  end
  local heap = { allocator = allocator, attached = attached == true }
  if allocator == "ebbtide" then
    heap.options = core.options()
  end
  return heap
end

function _M.tick(budget_us)
  if budget_us ~= nil and not is_budget(budget_us) then
    misuse(1, "budget_us", "tick", "microseconds or nil", budget_us)
  end
  return core.tick(budget_us or 0)
end

_M.next_tick = core.next_tick
_M.pressure = core.pressure

function _M.get(name)
  if type(name) ~= "string" then
    misuse(1, "name", "get", "string", name)
  end
  return core.get(name)
end

function _M.set(name, value)
  if type(name) ~= "string" then
    misuse(1, "name", "set", "string", name)
  end
  if not is_value(value) then
    misuse(2, "value", "set", "number, boolean or string", value)
  end
  return core.set(name, value)
end

-- All or none: what was changed before one failed is put back.
function _M.configure(options)
  if type(options) ~= "table" then
    misuse(1, "options", "configure", "table", options)
  end
  check_options(options, "configure")
  local before = {}
  for name, value in pairs(options) do
    local old, reason = core.get(name)
    local done = old ~= nil
    if done then
      done, reason = core.set(name, value)
    end
    if not done then
      for changed, was in pairs(before) do
        core.set(changed, was)
      end
      return nil, reason
    end
    before[name] = old
  end
  return true
end

function _M.version()
  return core.version
end

local function megabytes(bytes)
  return format("%8.1f MB", bytes / 2 ^ 20)
end

local function builtin_verdict(stats)
  local live = stats.live + stats.metadata
  local held = stats.resident
  if held - live < 2 ^ 20 then
    return "Little of it is free: there is nothing to gain."
  end
  return format("reclaim() would give back %.1f MB in place, attach() in the long run %.1f MB.",
                stats.returnable / 2 ^ 20, (held - live) / 2 ^ 20)
end

local function builtin_report(stats)
  local lines = {
    "LuaJIT's own allocator",
    format("  resident   %s   in %d segments", megabytes(stats.resident), stats.segments),
    format("  live       %s   in %d blocks; the collector counts %.1f MB",
           megabytes(stats.live), stats.blocks, stats.collected / 2 ^ 20),
    format("  free       %s   in %d chunks, the largest %.1f MB",
           megabytes(stats.free), stats.free_chunks, stats.largest_free / 2 ^ 20),
    format("  returnable %s", megabytes(stats.returnable)),
  }
  if stats.share then
    lines[#lines + 1] = format("  It is %.0f %% of the %.1f MB that the process has resident.",
                               100 * stats.share, stats.process_resident / 2 ^ 20)
  end
  lines[#lines + 1] = builtin_verdict(stats)
  return lines
end

local MOODS = { "growing", "steady", "shrinking" }

local function own_report(stats)
  local lines = {
    stats.attached and "An ebbtide heap, attached to a running VM" or "An ebbtide heap",
    format("  resident   %s   at most so far %.1f MB",
           megabytes(stats.resident), stats.resident_peak / 2 ^ 20),
    format("  live       %s   in %d blocks; the collector counts %.1f MB",
           megabytes(stats.live), stats.blocks, stats.collected / 2 ^ 20),
    format("  free       %s   of that to go back now %.1f MB",
           megabytes(stats.free_resident), stats.due / 2 ^ 20),
    format("  given back %s   so far; the mood is %s",
           megabytes(stats.returned_total), MOODS[stats.mood] or "steady"),
  }
  if stats.thrashing then
    lines[#lines + 1] = "  thrashing  what goes back at the limit is needed again at once"
  end
  if stats.refused_allocations > 0 then
    lines[#lines + 1] = format("  refused    %d allocations", stats.refused_allocations)
  end
  if stats.purge_errno ~= 0 then
    lines[#lines + 1] = format("  kernel     takes no memory back (errno %d)",
                               stats.purge_errno)
  end
  if stats.attached then
    lines[#lines + 1] = format("  former     %s   in LuaJIT's own allocator, of that live %.1f MB",
                               megabytes(stats.former_resident), stats.former_live / 2 ^ 20)
  end
  return lines
end

function _M.report()
  local stats, reason = _M.stats()
  if not stats then
    return nil, reason
  end
  local lines = stats.allocator == "ebbtide" and own_report(stats) or builtin_report(stats)
  return concat(lines, "\n")
end

return _M
