-- Posts the same body again and again; prints one line of figures at the end.
-- BENCH_BODY is the file of the body, BENCH_KEY the service's key, BENCH_UPSTREAM_KEY the key
-- that the upstream wants: proxies pass it on, the service brings its own.
-- With BENCH_INSTANCES, each call is of one of so many instances, by chance.

local file = assert(io.open(os.getenv("BENCH_BODY"), "rb"))
wrk.method = "POST"
wrk.body = file:read("*a")
file:close()
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer " .. os.getenv("BENCH_KEY")
wrk.headers["X-Upstream-Key"] = os.getenv("BENCH_UPSTREAM_KEY")

local instances = tonumber(os.getenv("BENCH_INSTANCES") or "")

if instances then
  local threads = 0

  function setup(thread)
    threads = threads + 1
    thread:set("number", threads)
  end

  function init()
    math.randomseed(number)
  end

  function request()
    return wrk.format(nil, "/execute/i" .. math.random(0, instances - 1) .. "/order")
  end
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    "FIGURES requests=%d duration_us=%d p50_us=%d p99_us=%d not_2xx=%d broken=%d\n",
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
