-- The requests of wrk: alternately an acquire and a release. Each acquire uses a new name, and each
-- release the name of an earlier acquire. The distance makes sure that the acquire has finished,
-- although wrk sends the two on different connections.
local behind = 256
local threads = 0

function setup(thread)
  thread:set("id", threads)
  threads = threads + 1
end

function init(args)
  headers = {}
  if args[1] then
    headers["Authorization"] = args[1]
  end
  count = 0
  run = args[2] or "0"
end

function request()
  count = count + 1
  local number = math.floor((count + 1) / 2)
  if count % 2 == 1 then
    return wrk.format("GET", "/v1/acquire/bench-" .. run .. "-" .. id .. "-" .. number, headers)
  end
  return wrk.format("GET", "/v1/release/bench-" .. run .. "-" .. id .. "-" .. (number - behind), headers)
end
