-- For wrk: POST to the targets in turn. Arguments: the file with the body, then the targets.
local requests, turn = {}, 0

function init(arguments)
    local file = assert(io.open(arguments[1], "rb"))
    local body = file:read("*a")
    file:close()
    wrk.headers["Content-Type"] = "application/json"
    for number = 2, #arguments do
        requests[#requests + 1] = wrk.format("POST", arguments[number], nil, body)
    end
end

function request()
    turn = turn % #requests + 1
    return requests[turn]
end

function done(summary)
    local errors = summary.errors
    local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
    local line = '\n{"calls": %d, "failed": %d, "duration_s": %f}\n'
    io.write(string.format(line, summary.requests, failed, summary.duration / 1e6))
end
