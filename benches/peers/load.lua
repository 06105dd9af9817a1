-- One wrk script for all workloads. Arguments (after `--`): NAME=VALUE, see workloads.py.
-- Prints one line of JSON when done; the runner reads it. Strings reach here through files, since paths and bodies
-- may hold anything: `get`, `put` and `batch` name Lua files that return a function of a random key number.

local args = {}

function init(argv)
   for _, word in ipairs(argv) do
      local name, value = word:match("^([%w_]+)=(.*)$")
      args[name] = value
   end
   math.randomseed(tonumber(args.seed))
   plan = dofile(args.plan)
end

function request()
   return plan(math.random)
end

function done(summary, latency, requests)
   local e = summary.errors
   io.write(string.format(
      '\nRESULT {"requests": %d, "duration_us": %d, "bytes": %d, "connect": %d, "read": %d, "write": %d, ' ..
      '"timeout": %d, "status": %d, "mean_us": %d, "p50_us": %d, "p95_us": %d, "p99_us": %d, "p999_us": %d, "max_us": %d}\n',
      summary.requests, summary.duration, summary.bytes, e.connect, e.read, e.write, e.timeout, e.status,
      latency.mean, latency:percentile(50), latency:percentile(95), latency:percentile(99), latency:percentile(99.9), latency.max))
end
