-- What wrk sends and prints: wrk … -s load.lua URL -- METHOD BODY_FILE [NAME VALUE ...]; an empty BODY_FILE means no
-- body, each NAME is a header. A "%d" in the URL becomes the number of the request. The result is one line of JSON.

local constant
local number = 0

function init(args)
  wrk.method = args[1]
  if args[2] ~= "" then
    local file = assert(io.open(args[2], "rb"))
    wrk.body = file:read("*a")
    file:close()
  end
  for i = 3, #args, 2 do
    wrk.headers[args[i]] = args[i + 1]
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
