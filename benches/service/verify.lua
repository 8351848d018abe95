-- A script for wrk: requests one path, each time with another token. Arguments: the path, a file with a token a line,
-- how many of its lines to use, and their order: "random" or "in-turn".

local requests, at, in_turn = {}, 0, false

-- Numbers the threads, so that each has a random sequence, or a part of the tokens, of its own.
local threads = 0

function setup(thread)
  threads = threads + 1
  thread:set("number", threads)
end

function init(arguments)
  local line, count = 0, tonumber(arguments[3])
  in_turn = arguments[4] == "in-turn"
  for token in io.lines(arguments[2]) do
    line = line + 1
    if line > count then break end
    -- There are two threads.
    if not in_turn or line % 2 == number % 2 then
      requests[#requests + 1] = wrk.format("GET", arguments[1], { Authorization = "Bearer " .. token })
    end
  end
  math.randomseed(os.time() * 16 + number)
end

function request()
  if not in_turn then return requests[math.random(#requests)] end
  at = at % #requests + 1
  return requests[at]
end

function done(summary)
  local errors = summary.errors
  io.write(string.format("requests %d us %d errors %d\n", summary.requests, summary.duration,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
