-- For wrk: send one request again and again, and count what became of it.
-- Arguments: the file with the whole request; how many refusals (402 or 503) are enough, 0 for all.
local threads, sent, enough, refusals = {}, nil, 0, 0

-- Globals, because done() reads them from another state.
statuses, passed = {}, 0

function setup(thread)
    threads[#threads + 1] = thread
end

function init(arguments)
    local file = assert(io.open(arguments[1], "rb"))
    sent = file:read("*a")
    file:close()
    enough = tonumber(arguments[2])
end

function request()
    return sent
end

function response(status, headers)
    statuses[status] = (statuses[status] or 0) + 1
    local check = headers["Budget-Check"] or headers["budget-check"]
    if status == 200 or check == "skipped" then
        passed = passed + 1
    end
    if status == 402 or status == 503 then
        refusals = refusals + 1
        if refusals == enough then
            wrk.thread:stop()
        end
    end
end

function done(summary)
    local listed = {}
    for status, count in pairs(threads[1]:get("statuses")) do
        listed[#listed + 1] = string.format('"%d": %d', status, count)
    end
    local errors = summary.errors
    local line = '\n{"statuses": {%s}, "passed": %d, "unanswered": %d, "duration_s": %f}\n'
    io.write(string.format(
        line,
        table.concat(listed, ", "),
        threads[1]:get("passed"),
        errors.connect + errors.read + errors.write + errors.timeout,
        summary.duration / 1e6
    ))
end
