-- What wrk sends: "POST" with each of `keys` in turn. `CONFIG` is put before this by load.py.
local next_key = 0
wrk.method, wrk.body = "POST", CONFIG.body
local requests = {}

function init(args)
  for number, key in ipairs(CONFIG.keys) do
    local headers = { ["Content-Type"] = "application/json", ["Authorization"] = key }
    for name, value in pairs(CONFIG.headers) do headers[name] = value end
    requests[number] = wrk.format(nil, nil, headers, nil)
  end
end

function request()
  next_key = next_key % #requests + 1
  return requests[next_key]
end

-- A callback for every answer costs the load's core something: only where ends are looked at.
if CONFIG.ends_with then
  function response(status, headers, body)
    if body:sub(-#CONFIG.ends_with) ~= CONFIG.ends_with then cut = (cut or 0) + 1 end
  end
end

local threads = {}
function setup(thread) table.insert(threads, thread) end

function done(summary, latency)
  local cut = 0
  for _, thread in ipairs(threads) do cut = cut + (thread:get("cut") or 0) end
  local errors = summary.errors
  io.stderr:write(string.format(
    '{"calls": %d, "seconds": %f, "refused": %d, "broken": %d, "p50_ms": %f, "p99_ms": %f, "max_ms": %f}\n',
    summary.requests, summary.duration / 1e6, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout + cut,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000, latency.max / 1000))
end
