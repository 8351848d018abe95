-- A script for wrk: requests one path, each time with a random token. Arguments: the path, a file with a token a line.

local requests = {}

-- Numbers the threads, so that each has a random sequence of its own.
local threads = 0

function setup(thread)
  threads = threads + 1
  thread:set("number", threads)
end

function init(arguments)
  for token in io.lines(arguments[2]) do
    requests[#requests + 1] = wrk.format("GET", arguments[1], { Authorization = "Bearer " .. token })
  end
  math.randomseed(os.time() * 16 + number)
end

function request()
  return requests[math.random(#requests)]
end

function done(summary)
  local errors = summary.errors
  io.write(string.format("requests %d us %d errors %d\n", summary.requests, summary.duration,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
