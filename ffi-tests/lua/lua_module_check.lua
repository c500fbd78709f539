-- What the scripts at ebbtide's doors share: checks that say what was wrong,
-- and the kernel's word on this process.
local check = {}

function check.equal(got, want, what)
  if got ~= want then
    error(("%s is %s, not %s"):format(what, tostring(got), tostring(want)), 2)
  end
end

-- Whether a number is where it should be.
function check.within(low, value, high, what)
  if type(value) ~= "number" or not (low <= value and value <= high) then
    error(("%s is %s, not from %s to %s"):format(what, tostring(value),
                                                 tostring(low), tostring(high)), 2)
  end
  return value
end

-- A call that must fail as nil and a reason in which the pattern is found.
function check.refused(pattern, value, reason)
  if value ~= nil or type(reason) ~= "string" or not reason:find(pattern) then
    error(("refused as %s, %s, which lacks: %s"):format(tostring(value), tostring(reason),
                                                        pattern), 2)
  end
end

-- A call that must throw a message that has this text, and the place of the call.
function check.throws(text, call, ...)
  local first, second = ...
  local fine, message = pcall(function()
    local result = call(first, second)
    return result
  end)
  if fine or not message:find(text, 1, true) or not message:find("lua_module_check.lua:", 1, true) then
    error(("it told '%s', which lacks: %s"):format(tostring(message), text), 2)
  end
end

-- Bytes of anonymous memory that the kernel counts for this process.
function check.anonymous()
  local file = assert(io.open("/proc/self/smaps_rollup"))
  local text = file:read("*a")
  file:close()
  local kilobytes = text:match("Pss_Anon:%s+(%d+) kB") or text:match("Pss:%s+(%d+) kB")
  return tonumber(kilobytes) * 1024
end

-- Bytes that are mapped in the process.
function check.mapped()
  local file = assert(io.open("/proc/self/statm"))
  local pages = file:read("*n")
  file:close()
  return pages * 4096
end

-- Statistics of the built-in heap must add up.
function check.adds_up(stats)
  check.equal(stats.reserved, stats.live + stats.metadata + stats.free, "reserved")
  local count, bytes, returnable, below = 0, 0, 0, 0
  for _, chunks in ipairs(stats.free_by_size) do
    assert(chunks.up_to > below, "sizes rise")
    assert(chunks.bytes <= chunks.up_to * chunks.count or chunks.count == 0)
    assert(chunks.bytes >= below * chunks.count and chunks.returnable <= chunks.bytes)
    below = chunks.up_to
    count, bytes = count + chunks.count, bytes + chunks.bytes
    returnable = returnable + chunks.returnable
  end
  check.equal(below, math.huge, "the last size")
  check.equal(count, stats.free_chunks, "free chunks by size")
  check.equal(bytes, stats.free, "free bytes by size")
  check.equal(returnable, stats.returnable, "returnable bytes by size")
  check.within(0, stats.largest_free, stats.free, "largest_free")
  check.within(0, stats.returnable + stats.returned, stats.free, "whole free pages")
  check.within(stats.metadata + 1, stats.resident, stats.reserved, "resident")
  check.within(1, stats.segments, 10000, "segments")
  check.within(1, stats.blocks, stats.live / 32, "blocks")
end

return check
