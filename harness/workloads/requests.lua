-- The requests of a service: each makes garbage, and is in flight until the
-- service finishes it.
local requests = {}

function requests.new(id)
  local headers = {}
  for i = 1, 8 do
    headers["h" .. i] = "value-" .. id .. "-" .. i
  end
  local rows = {}
  for i = 1, 20 do
    rows[i] = string.format('{"k":%d,"v":"%s"}', i, string.rep("x", i % 50))
  end
  return { id = id, headers = headers, body = table.concat(rows, ",") }
end

-- Finishes any one of those in flight.
function requests.finish_one(in_flight)
  local k = math.random(#in_flight)
  in_flight[k] = in_flight[#in_flight]
  in_flight[#in_flight] = nil
end

return requests
