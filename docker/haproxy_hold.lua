-- haproxy_hold.lua - lets a request wait for its node: see haproxy.cfg.
--
-- A request with a routing key belongs to one node: its session is there and nowhere else. While the health check says that
-- the node does not take work (it drains, restarts, loads), the request stays here, its body unread. A node keeps taking work
-- for drain.delay_seconds after it stops saying "ready", which is longer than the check needs to notice.

local WAIT_MS = 120000
local ASK_AGAIN_MS = 100

local function some_server_is_up(backend)
    for _, server in pairs(backend.servers) do
        if string.sub(server:get_stats().status, 1, 2) == "UP" then
            return true
        end
    end
    return false
end

core.register_action("hold", {"http-req"}, function(txn)
    local backend = core.backends[txn.f:be_name()]
    local waited = 0
    while waited < WAIT_MS and not some_server_is_up(backend) do
        core.msleep(ASK_AGAIN_MS)
        waited = waited + ASK_AGAIN_MS
    end
end)
