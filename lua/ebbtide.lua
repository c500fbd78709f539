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
if _VERSION ~= "Lua 5.1" then
  error("ebbtide: this is " .. _VERSION .. " (PUC); ebbtide's Lua module is for LuaJIT", 0)
end
if type(core) ~= "table" then
  core = require "ebbtide.core"
  if type(core) ~= "table" then
    error("ebbtide: the library cannot see Lua's functions (a program exports them with " ..
          "-rdynamic, a library is loaded with RTLD_GLOBAL); standard error says more", 0)
  end
end

local collectgarbage, error, pairs, tostring, type = collectgarbage, error, pairs, tostring, type
local getmetatable, newproxy, rawget = getmetatable, newproxy, rawget
local concat, format, sort = table.concat, string.format, table.sort
local huge, max, min = math.huge, math.max, math.min

local _M = { _VERSION = core.version }

-- A value as messages name it.
local function named(value)
  local kind = type(value)
  if kind == "number" or kind == "string" or kind == "boolean" then
    return format("%s %s", kind, tostring(value))
  end
  return kind
end

local function misuse(number, name, called, expected, value)
  error(format("bad argument #%d '%s' to '%s' (%s expected, got %s)",
               number, name, called, expected, named(value)), 3)
end

-- A colon hands the module itself over as the first argument.
local function is_module(value)
  return type(value) == "table" and rawget(value, "attach") == _M.attach
end

local function check_dot(first, called, level)
  if is_module(first) then
    error(format("bad argument #1 to '%s' (the module itself: call %s with a dot, not a colon)",
                 called, called), level or 3)
  end
end

local function check_none(first, called)
  check_dot(first, called, 4)
  if first ~= nil then
    error(format("bad argument #1 to '%s' (it takes none, got %s)", called, named(first)), 3)
  end
end

-- What concerns all workers is known to the nginx module alone.
local function only_in_nginx()
  return nil, '"all" works only in nginx with the ebbtide module, by require "resty.ebbtide"'
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
      local range = expected == "number" and ", 0 for no limit or more" or ""
      error(format("bad argument #1 to '%s' ('%s' must be a %s%s, not %s)",
                   called, key, expected, range, tostring(value)), 3)
    end
  end
end

local RECLAIM = { budget_us = "number", collect = "boolean" }

function _M.reclaim(options)
  check_dot(options, "reclaim")
  if options == nil then
    options = RECLAIM
  elseif options == "all" then
    return only_in_nginx()
  elseif type(options) ~= "table" then
    misuse(1, "options", "reclaim", 'table, "all" or nil', options)
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
  check_dot(options, "attach")
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

-- LuaJIT's own allocator maps blocks of 128 KiB and more apart and keeps no list of them. Their
-- bytes follow from two sums: the collector counts the bytes asked for, in all blocks; the walk
-- counts whole chunks, each 8 to 39 bytes larger than its block. The process's memory is an upper
-- bound.
local CHUNK_MORE_MIN, CHUNK_MORE_MAX = 8, 39

local function add_large(stats)
  local beside = stats.collected - stats.live
  local most = max(0, beside + CHUNK_MORE_MAX * stats.blocks)
  if stats.process_resident then
    most = min(most, max(0, stats.process_resident - stats.resident))
  end
  stats.large_max = most
  stats.large_min = min(most, max(0, beside + CHUNK_MORE_MIN * stats.blocks))
  return stats
end

local function read_stats()
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
  return add_large(add_share(stats))
end

function _M.stats(which)
  check_dot(which, "stats")
  if which == "all" then
    return only_in_nginx()
  elseif which ~= nil then
    misuse(1, "which", "stats", '"all" or nil', which)
  end
  return read_stats()
end

-- What the VM ran on before attach() still holds.
function _M.previous(unwanted)
  check_none(unwanted, "previous")
  local allocator, attached = core.allocator()
  if not allocator then
    return nil, attached
  end
  if not attached then
    return nil, "the VM was not attached: it has no previous heap"
  end
  local stats, reason = core.builtin()
  if not stats then
    return nil, reason
  end
  return add_share(stats)
end

function _M.heap(unwanted)
  check_none(unwanted, "heap")
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
  check_dot(budget_us, "tick")
  if budget_us ~= nil and not is_budget(budget_us) then
    misuse(1, "budget_us", "tick", "microseconds, 0 for no limit or more, or nil", budget_us)
  end
  return core.tick(budget_us or 0)
end

function _M.next_tick(unwanted)
  check_none(unwanted, "next_tick")
  return core.next_tick()
end

function _M.pressure(unwanted)
  check_none(unwanted, "pressure")
  return core.pressure()
end

function _M.get(name)
  check_dot(name, "get")
  if type(name) ~= "string" then
    misuse(1, "name", "get", "string", name)
  end
  return core.get(name)
end

function _M.set(name, value)
  check_dot(name, "set")
  if type(name) ~= "string" then
    misuse(1, "name", "set", "string", name)
  end
  if not is_value(value) then
    misuse(2, "value", "set", "number, boolean or string", value)
  end
  return core.set(name, value)
end

-- Options of which none may lie above one before it.
local RANKS = { limit_hard = 1, limit_soft = 2, retain = 3 }

local function rank(name)
  return RANKS[name] or 0
end

-- Sets options until one is refused; true, or nil and why.
local function set_all(options)
  local names = {}
  for name in pairs(options) do
    names[#names + 1] = name
    -- At 0 it allows all values of the others.
    if rank(name) > 1 then
      core.set(name, 0)
    end
  end
  sort(names, function(a, b)
    return rank(a) < rank(b)
  end)
  for i = 1, #names do
    local done, reason = core.set(names[i], options[names[i]])
    if not done then
      return nil, reason
    end
  end
  return true
end

-- All or none: what was changed before one failed is put back.
function _M.configure(options)
  check_dot(options, "configure")
  if type(options) ~= "table" then
    misuse(1, "options", "configure", "table", options)
  end
  check_options(options, "configure")
  local before = {}
  for name in pairs(options) do
    local value, reason = core.get(name)
    if value == nil then
      return nil, reason
    end
    before[name] = value
  end
  local done, reason = set_all(options)
  if not done then
    -- What cannot be changed was not, and is refused again.
    before.reserve, before.checked = nil, nil
    set_all(before)
    return nil, reason
  end
  return true
end

function _M.version(unwanted)
  check_none(unwanted, "version")
  return core.version
end

local function megabytes(bytes)
  return format("%8.1f MB", bytes / 2 ^ 20)
end

local function range(least, most)
  return format("%.1f to %.1f MB", least / 2 ^ 20, most / 2 ^ 20)
end

-- What is not worth a word.
local LITTLE = 2 ^ 20

-- What each of the two would bring, and what these figures leave out. A block takes some 16 bytes
-- more in LuaJIT's own allocator than on a heap.
local function builtin_verdict(stats, lines)
  local live = max(0, stats.live - 16 * stats.blocks)
  local most = max(stats.returnable, stats.resident - live)
  if most < LITTLE then
    lines[#lines + 1] = "Little of the segments is free: there is nothing to gain in them."
  else
    lines[#lines + 1] = format("reclaim() would give back %.1f MB in place, attach() %s:",
                               stats.returnable / 2 ^ 20, range(stats.returnable, most))
    lines[#lines + 1] = "the more, the more of what is live now is freed or resized later."
  end
  lines[#lines + 1] = "Garbage is counted as live: what a collection frees comes on top."
end

local function add_large_lines(stats, lines)
  if stats.large_max >= LITTLE then
    lines[#lines + 1] = "  large       " .. range(stats.large_min, stats.large_max) ..
                        " in blocks of 128 KiB and more, each mapped apart (an estimate);"
    lines[#lines + 1] = "                            each goes back by itself when it is collected"
  end
end

-- Settings in the environment that do nothing.
local function add_environment(stats, lines)
  local set, unknown, wrong = core.environment()
  if unknown then
    lines[#lines + 1] = "In the environment: " .. unknown
  end
  if stats.allocator == "builtin" and set then
    lines[#lines + 1] = "In the environment, without effect before attach(): " .. set
  end
  if stats.allocator == "builtin" and wrong then
    lines[#lines + 1] = "attach() would fail: " .. wrong
  end
end

local function add_process(what, share, process, lines)
  lines[#lines + 1] = format("%s %.0f %% of the %.1f MB that the process has resident.",
                             what, 100 * share, process / 2 ^ 20)
  lines[#lines + 1] = "Not counted: the program itself, machine code, what C has from malloc()."
end

local function builtin_report(stats)
  local lines = {
    "LuaJIT's own allocator",
    format("  resident   %s   in %d segments", megabytes(stats.resident), stats.segments),
    format("  live       %s   in %d blocks; the collector counts %.1f MB",
           megabytes(stats.live), stats.blocks, stats.collected / 2 ^ 20),
    format("  free       %s   in %d chunks, the largest %.1f MB",
           megabytes(stats.free), stats.free_chunks, stats.largest_free / 2 ^ 20),
    format("  returnable %s   in whole pages", megabytes(stats.returnable)),
  }
  add_large_lines(stats, lines)
  if stats.share then
    add_process("The segments are", stats.share, stats.process_resident, lines)
  end
  builtin_verdict(stats, lines)
  return lines
end

local TRENDS = { "growing", "steady", "shrinking" }

-- What was mapped apart before attach() is in no figure of either allocator, and the collector
-- counts it still.
local function add_previous(stats, lines)
  lines[#lines + 1] = format("  previous   %s   in LuaJIT's own allocator, of that live %.1f MB",
                             megabytes(stats.previous_resident), stats.previous_live / 2 ^ 20)
  local process = core.process() or huge
  local beside = max(0, stats.collected - stats.live)
  stats.large_max = min(beside, max(0, process - stats.resident - stats.previous_resident))
  stats.large_min = min(stats.large_max, max(0, beside - stats.previous_live))
  add_large_lines(stats, lines)
  if stats.previous_damaged then
    lines[#lines + 1] = "  damaged    the program has overwritten records of LuaJIT's own allocator: " ..
                        "what is free there stays"
  elseif stats.previous_resident - stats.previous_live >= LITTLE then
    lines[#lines + 1] = "Whole free pages of the previous allocator go back " ..
                        (core.get("auto") == 0 and "in tick() and reclaim()." or
                         "while the VM works, and in tick().")
  end
end

-- Who returns memory while the VM does nothing: the background thread, or the host.
local function at_rest()
  local has_thread = core.get("background") ~= 0 and core.get("auto") ~= 0 and
                     core.get("checked") == 0
  return has_thread and "the heap gives back" or "tick() gives back"
end

local function own_report(stats)
  local retain = core.get("retain")
  local lines = {
    stats.attached and "An ebbtide heap, attached to a running VM" or "An ebbtide heap",
    format("  resident   %s   highest so far %.1f MB",
           megabytes(stats.resident), stats.resident_peak / 2 ^ 20),
    format("  live       %s   in %d blocks; the collector counts %.1f MB",
           megabytes(stats.live), stats.blocks, stats.collected / 2 ^ 20),
    format("  free       %s   due now %.1f MB; at rest %s %s",
           megabytes(stats.free_resident), stats.due / 2 ^ 20, at_rest(),
           range(min(stats.due, stats.free_resident),
                 max(stats.due, stats.free_resident - retain))),
    format("  given back %s   so far; demand was %s at the last look",
           megabytes(stats.returned_total), TRENDS[stats.trend] or "steady"),
  }
  if stats.thrashing then
    lines[#lines + 1] = "  thrashing  what goes back at the limit is needed again at once"
  end
  if stats.refused_allocations > 0 then
    lines[#lines + 1] = format("  refused    %d allocations, %d for RLIMIT_AS",
                               stats.refused_allocations, stats.refused_address_space)
  end
  if stats.purge_errno ~= 0 then
    lines[#lines + 1] = format("  kernel     takes no memory back (errno %d)",
                               stats.purge_errno)
  end
  if stats.attached then
    add_previous(stats, lines)
  end
  local process = core.process()
  if process then
    add_process("The heap is", stats.resident / process, process, lines)
  end
  return lines
end

function _M.report(unwanted)
  check_none(unwanted, "report")
  local stats, reason = read_stats()
  if not stats then
    return nil, reason
  end
  local lines = stats.allocator == "ebbtide" and own_report(stats) or builtin_report(stats)
  add_environment(stats, lines)
  return concat(lines, "\n")
end

-- At the end of the VM: whether settings in the environment never had an effect.
if newproxy then
  local at_end = newproxy(true)
  getmetatable(at_end).__gc = core.at_end
  core.kept = at_end
end

return _M
