-- A script for wrk: repeats one request. Arguments: the method, and the body if there is one.

function init(arguments)
  wrk.method, wrk.body = arguments[1], arguments[2]
end
