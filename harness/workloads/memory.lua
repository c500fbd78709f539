-- Says what is live in Lua and what the kernel says this process holds, in MB.
-- PSS counts a page that is mapped twice once. Under a host that collects
-- events, its own function does it.
local function read(field, text)
  return tonumber(text:match(field .. ":%s+(%d+)")) / 1024
end

return event or function(label)
  local file = assert(io.open("/proc/self/smaps_rollup"))
  local text = file:read("*a")
  file:close()
  io.write(string.format("%-17s live %7.1f  rss %7.1f  pss %7.1f MB\n", label,
    collectgarbage("count") / 1024, read("Rss", text), read("Pss", text)))
end
