-- The action `verify` of haproxy.cfg: asks Mayfly about the token of a request. Only a 200 lets the request through,
-- with the X-Auth-* headers of that answer. Any other answer goes to the client, and no answer is a 503 or 504. The
-- variable txn.demands is the query for Mayfly.

local URL = os.getenv("MAYFLY") .. "/api/v1alpha/verify"
-- For each of the four attempts that HAProxy's client makes: a Mayfly that hangs is an error after 5 s.
local MILLISECONDS = 1250

local function each(values, use)
    for _, value in pairs(values or {}) do use(value) end
end

core.register_action("verify", { "http-req" }, function(txn)
    local question, request = {}, txn.http:req_get_headers()
    for _, name in ipairs({ "authorization", "x-request-id", "traceparent" }) do
        each(request[name], function(value)
            question[name] = question[name] or {}
            table.insert(question[name], value)
        end)
    end
    -- For tokens that are limited to networks; name this proxy in MAYFLY_TRUSTED_PROXIES.
    question["x-forwarded-for"] = { txn.f:src() }
    local url = URL .. (txn:get_var("txn.demands") or "")
    local answer = core.httpclient():get({ url = url, headers = question, timeout = MILLISECONDS })

    if answer.status == 200 then
        for name, values in pairs(answer.headers) do
            if name:find("^x%-auth%-") then
                each(values, function(value) txn.http:req_set_header(name, value) end)
            end
        end
        return
    end

    local reply = txn:reply({ status = 503 })
    if answer.status and answer.status >= 400 then
        reply:set_status(answer.status)
        reply:set_body(answer.body)
        for _, name in ipairs({ "content-type", "www-authenticate", "retry-after", "x-request-id" }) do
            each(answer.headers[name], function(value) reply:add_header(name, value) end)
        end
    else
        reply:add_header("retry-after", "1")
    end
    txn:done(reply)
end)
