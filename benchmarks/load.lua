-- What wrk sends, and what it tells: wrk … -s load.lua URL -- METHOD CONTENT_TYPE BODY_FILE, the last two empty for none.
-- A "%d" in the URL becomes the number of the request. What was measured is printed as a line of JSON.

local constant
local number = 0

function init(args)
  wrk.method = args[1]
  if args[3] ~= "" then
    local file = assert(io.open(args[3], "rb"))
    wrk.body = file:read("*a")
    file:close()
    wrk.headers["Content-Type"] = args[2]
  end
  if not wrk.path:find("%d", 1, true) then
    constant = wrk.format()
  end
end

function request()
  if constant then
    return constant
  end
  number = number + 1
  return wrk.format(nil, wrk.path:format(number))
end

function done(summary, latency)
  local errors = summary.errors
  print(string.format(
    '{"requests": %d, "seconds": %.6f, "p50_ms": %.3f, "p99_ms": %.3f, "errors": %d}',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.connect + errors.read + errors.write + errors.timeout + errors.status
  ))
end
