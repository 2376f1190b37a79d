/* route_table.c - every endpoint of the server. openapi.yaml describes the same list. */
#include "server/api.h"
#include "server/route.h"

const tt_route tt_routes[] = {
    {"/v1/chat/completions", "POST", tt_api_chat, .ready = true},
    {"/v1/completions", "POST", tt_api_completions, .ready = true},
    {"/v1/models", "GET", tt_api_models_list, .ready = true},
    {"/v1/models/{id...}", "GET", tt_api_models_get, .ready = true},
    {"/v1/sessions", "POST", tt_api_sessions_create, .ready = true},
    {"/v1/sessions", "GET", tt_api_sessions_list, .ready = true},
    {"/v1/sessions/{id}", "GET", tt_api_sessions_get, .ready = true},
    {"/v1/sessions/{id}", "POST", tt_api_sessions_update, .ready = true},
    {"/v1/sessions/{id}", "DELETE", tt_api_sessions_delete, .ready = true},
    {"/v1/sessions/{id}/fork", "POST", tt_api_sessions_fork, .ready = true, .optional_body = true},
    {"/v1/sessions/{id}/extend", "POST", tt_api_sessions_extend, .ready = true},
    {"/v1/sessions/{id}/diagnostics", "POST", tt_api_session_diagnostics, .ready = true},
    {"/v1/sessions/{id}/adapter", "DELETE", tt_api_sessions_reset, .ready = true},
    {"/v1/sessions/{id}/qttt/jobs", "POST", tt_api_session_jobs_create, .ready = true,
     .optional_body = true},
    {"/v1/sessions/{id}/qttt/jobs", "GET", tt_api_session_jobs_list, .ready = false},
    {"/v1/qttt/jobs", "GET", tt_api_jobs_list, .ready = false},
    {"/v1/qttt/jobs/{id}", "GET", tt_api_jobs_get, .ready = false},
    {"/v1/qttt/jobs/{id}/cancel", "POST", tt_api_jobs_cancel, .optional_body = true},
    {"/v1/qttt/jobs/{id}/pause", "POST", tt_api_jobs_pause, .optional_body = true},
    {"/v1/qttt/jobs/{id}/resume", "POST", tt_api_jobs_resume, .optional_body = true},
    {"/v1/qttt/jobs/{id}/events", "GET", tt_api_jobs_events, .ready = false},
    {"/tokenize", "POST", tt_api_tokenize, .ready = true},
    {"/detokenize", "POST", tt_api_detokenize, .ready = true},
    {"/tokenizer_info", "GET", tt_api_tokenizer_info, .ready = true},
    {"/livez", "GET", tt_api_livez, .open = true},
    {"/readyz", "GET", tt_api_readyz, .open = true},
    {"/startupz", "GET", tt_api_startupz, .open = true},
    {"/health", "GET", tt_api_readyz, .open = true},
    {"/metrics", "GET", tt_api_metrics, .metrics = true},
    {"/v1/admin/state", "GET", tt_api_admin_state, .admin = true},
};

const int tt_n_routes = (int)(sizeof tt_routes / sizeof *tt_routes);
