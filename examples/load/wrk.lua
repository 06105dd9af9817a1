-- wrk (Debian: wrk). Closed loop: as fast as the answers come, 70 % reads and 30 % writes of 1 000 keys.
--   wrk -t 2 -c 100 -d 30s --latency -s examples/load/wrk.lua http://127.0.0.1:8080
--   wrk -t 2 -c 100 -d 30s --latency http://127.0.0.1:8080/health
-- LARDER_TOKEN; WRITES is the part that writes, in per cent.

local writes = tonumber(os.getenv("WRITES") or "30")
local token = os.getenv("LARDER_TOKEN")
local threads = 0

function setup(thread)
   thread:set("number", threads)
   threads = threads + 1
end

function init(args)
   math.randomseed(number + 1)
   headers = { ["Content-Type"] = "application/json" }
   if token then
      headers["Authorization"] = "Bearer " .. token
   end
end

function request()
   local path = "/api/v1/kv/load/wrk/k" .. math.random(0, 999)
   if math.random(100) <= writes then
      return wrk.format("PUT", path, headers, '{"sensor": 1, "celsius": 21.5}')
   end
   return wrk.format("GET", path, headers)
end

-- A key that nobody has written yet is no error of the server.
function done(summary, latency, requests)
   local errors = summary.errors
   io.write(string.format("connect %d, read %d, write %d, timeout %d; status 400 and above (404 included): %d\n",
      errors.connect, errors.read, errors.write, errors.timeout, errors.status))
   for _, p in pairs({ 50, 90, 95, 99, 99.9 }) do
      io.write(string.format("p%g %.2f ms\n", p, latency:percentile(p) / 1000))
   end
end
