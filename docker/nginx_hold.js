/* nginx_hold.js - hands a request to a node that takes work, and waits for one when there is none: see nginx.conf.
 *
 * A request with a routing key belongs to one node, whatever happens: its session is there and nowhere else. While that
 * node restarts the request waits here. Without a key it prefers a node and takes the other when that one is not ready.
 *
 * A node that has said "ready" keeps taking work for drain.delay_seconds after it stops saying so, and the body is here
 * already: so what is handed on arrives. Should it not (a node that crashed), it is handed on once more only when it cannot
 * have run: no connection was made, or the node said 503 (loading, draining: never after it began), or it is harmless.
 */
const NODES = ['1', '2'];
const WAIT_MS = 120000;
const ASK_AGAIN_MS = 200;
const MAX_TRIES = 4; /* nginx allows ten internal redirects a request; a try takes two */

function sleep(ms) {
    return new Promise((done) => setTimeout(done, ms));
}

function fail(r, status, message) {
    const type = status === 503 ? 'service_unavailable' : 'server_error';
    r.headersOut['Content-Type'] = 'application/json';
    if (status === 503) {
        r.headersOut['Retry-After'] = '5';
    }
    r.return(status, JSON.stringify({error: {message: message, type: type, param: null, code: null}}));
}

async function isReady(r, node) {
    const reply = await r.subrequest('/-/ready/' + node, {method: 'GET', body: ''});
    return reply.status === 200;
}

async function send(r) {
    const own = r.variables.tt_node;
    const nodes = r.variables.tt_key !== '' ? [own] : [own].concat(NODES.filter((n) => n !== own));
    const deadline = Date.now() + WAIT_MS;
    while (Date.now() < deadline) {
        for (let i = 0; i < nodes.length; i++) {
            if (await isReady(r, nodes[i])) {
                r.internalRedirect('@node_' + nodes[i]);
                return;
            }
        }
        await sleep(ASK_AGAIN_MS);
    }
    fail(r, 503, 'the node of this request is not there');
}

/* The last attempt failed. nginx keeps a value of each, apart by commas and, between redirects, colons. */
function last(list) {
    return list === undefined ? '' : list.split(/ : |, /).pop();
}

function again(r) {
    const never_sent = last(r.variables.upstream_connect_time) === '-';
    const refused = last(r.variables.upstream_status) === '503';
    const harmless = r.method === 'GET' || r.method === 'HEAD' || r.method === 'OPTIONS';
    const tries = r.variables.upstream_status.split(' : ').length;
    if (!never_sent && !refused && !harmless) {
        fail(r, 502, 'the node went away; what it did of this request is not known');
        return undefined;
    }
    if (tries >= MAX_TRIES) {
        fail(r, 503, 'the node of this request does not take it');
        return undefined;
    }
    return send(r);
}

export default {send, again};
