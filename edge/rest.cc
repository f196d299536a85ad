#include "edge/rest.h"

#include <algorithm>
#include <set>

#include "common/codec.h"
#include "edge/page.h"
#include "edge/sse.h"

namespace sigmacast::edge {
namespace {

constexpr std::string_view kStatePrefix = "/api/v1/state/";
constexpr std::string_view kBreakers = "/api/v1/status/circuit-breaker";
constexpr std::string_view kHealth = "/api/v1/health";
constexpr std::string_view kReady = "/api/v1/ready";
/// It was refused for a limit, and another thread's client has left since.
constexpr std::string_view kFreeAgain = "a place has just become free: try again";

http::Response error(int status, std::string_view message) {
    std::string body = "{";
    append_member(body, "code", static_cast<std::uint64_t>(status));
    append_member(body, "error", message);
    body += '}';
    return {.status = status, .body = std::move(body)};
}

void append_flag(std::string& out, std::string_view name, bool value) {
    out += out.back() == '{' ? "\"" : ",\"";
    out += name;
    out += value ? "\":true" : "\":false";
}

void comma(std::string& out) {
    if (out.back() != '[' && out.back() != '{') {
        out += ',';
    }
}

}  // namespace

Rest::Rest(Parts parts) : parts_(std::move(parts)), policy_(page_policy(page())) {}

http::Response Rest::answer(const http::Request& request, Now now) {
    http::Response response = route(request, now);
    add_answer_headers(response, request, parts_.wire.options().cors_origins);
    if (response.content_type == "application/json") {
        response.headers.emplace_back("Cache-Control", "no-store");
    }
    return response;
}

http::Response Rest::route(const http::Request& request, Now now) {
    std::string_view path = request.path;
    if (path == "/ws" || path == "/ws/") {
        auto refused = parts_.wire.refusal(request);
        unauthorized_ += refused && refused->status == 401 ? 1u : 0u;
        return refused ? *std::move(refused) : try_later(kFreeAgain);
    }
    if (path.size() > 1 && path.ends_with('/')) {
        path.remove_suffix(1);
    }
    static const std::set<std::string_view> kPaths = {
        "/", "/index.html", kBreakers, "/api/v1/state", kHealth, kReady, "/metrics", kEventsPath};
    const bool one_topic = path.starts_with(kStatePrefix) && path.size() > kStatePrefix.size();
    if (kPaths.count(path) == 0 && !one_topic) {
        return error(404, "Not Found");
    }
    if (request.method == "OPTIONS") {
        http::Response response{.status = 204, .body = {}};
        response.headers = {
            {"Allow", "GET, HEAD, OPTIONS"},
            {"Access-Control-Allow-Methods", "GET, HEAD, OPTIONS"},
            {"Access-Control-Allow-Headers", "Authorization, Content-Type, Last-Event-ID"},
            {"Access-Control-Max-Age", "600"}};
        return response;
    }
    if (request.method != "GET" && request.method != "HEAD") {
        auto response = error(405, "Method Not Allowed");
        response.headers.emplace_back("Allow", "GET, HEAD, OPTIONS");
        return response;
    }
    if (path == kEventsPath) {  // What is not refused was taken over before.
        auto refused = parts_.wire.refusal(request);
        unauthorized_ += refused && refused->status == 401 ? 1u : 0u;
        return refused ? *std::move(refused) : try_later(kFreeAgain);
    }
    if (path == "/" || path == "/index.html") {
        return page_response();
    }
    const auto admitted = parts_.access.admit(request, now.wall);
    const bool is_health = path == kHealth || path == kReady;
    if (!admitted || (!*admitted && !is_health)) {
        ++unauthorized_;
        return unauthorized(admitted ? "" : admitted.error().message);
    }
    if (is_health) {
        const bool failed = path == kReady && (!parts_.upstream.ready() || parts_.hub.draining());
        return {.status = failed ? 503 : 200,
                .body = health(*admitted ? &**admitted : nullptr, now)};
    }
    return answer_with(path, **admitted, now);
}

http::Response Rest::answer_with(std::string_view path, const Grant& grant, Now now) {
    if (path == "/metrics") {
        if (!grant.everything) {  // They name every source.
            return error(403, "your token does not allow every topic");
        }
        update_metrics(now);
        return {.body = parts_.metrics.text(),
                .content_type = "text/plain; version=0.0.4; charset=utf-8"};
    }
    if (path == "/api/v1/state") {
        return {.body = all_state(grant, now)};
    }
    const bool breaker = path == kBreakers;
    const std::string topic =
        breaker ? "breaker.status" : http::percent_decoded(path.substr(kStatePrefix.size()));
    if (!grant.allows(topic)) {
        return error(403, "your token does not allow " + topic);
    }
    if (breaker) {
        return {.body = breakers()};
    }
    if (!parts_.hub.known_topic(topic)) {
        return error(404, "no such topic: " + topic);
    }
    return {.body = topic_state(topic, now)};
}

http::Response Rest::page_response() const {
    return {.body = std::string(page()),
            .content_type = "text/html; charset=utf-8",
            .headers = {{"Content-Security-Policy", policy_},
                        {"Cache-Control", "no-cache"},
                        {"Referrer-Policy", "no-referrer"},
                        {"X-Frame-Options", "DENY"}}};
}

std::string Rest::health(const Grant* grant, Now now) const {
    const Cache& cache = parts_.hub.cache();
    std::string out = "{";
    append_member(out, "status",
                  parts_.hub.draining()      ? "draining"
                  : !parts_.upstream.ready() ? "starting"
                  : cache.uplink()           ? "ok"
                                             : "degraded");
    append_flag(out, "ready", parts_.upstream.ready() && !parts_.hub.draining());
    append_member(out, "uplink", cache.uplink() ? "up" : "down");
    if (!grant) {
        return out + '}';
    }
    if (!cache.uplink()) {
        append_member(out, "reason", "BROKER_UNREACHABLE");
    }
    append_member(out, "clients", std::uint64_t{parts_.hub.occupancy().clients});
    append_member(out, "epoch", cache.epoch());
    append_member(out, "pos", cache.pos());
    append_member(out, "values", std::uint64_t{cache.entries()});
    append_member(out, "unreadable", parts_.upstream.counters().unreadable);
    append_member(out, "version", SIGMACAST_VERSION);
    append_member(out, "uptime_ms",
                  static_cast<std::uint64_t>(elapsed(parts_.started, now.mono).count()));
    append_member(out, "timestamp", to_rfc3339(now.wall));
    out += ",\"sources\":[";
    for (const Source& source : parts_.hub.sources(*grant)) {
        comma(out);
        append_source(out, source, now);
    }
    out += "]}";
    return out;
}

std::string Rest::breakers() const {
    const Cache& cache = parts_.hub.cache();
    std::set<std::string_view> origins;
    bool stale = false;
    std::optional<AsOf> as_of;
    cache.each_of_topic("breaker.status", [&](const Value& value) {
        origins.insert(value.stream->origin);
        stale = stale || cache.effective(value.age).quality != Quality::kLive;
        // Of several producers the one that was heard least: nothing here is older than it says.
        if (value.age.as_of && (!as_of || value.age.as_of->mono < as_of->mono)) {
            as_of = value.age.as_of;
        }
    });
    std::string out = "{\"breakers\":[";
    cache.each_of_topic("breaker.status", [&](const Value& value) {
        comma(out);
        out += *value.json;
        if (origins.size() > 1) {
            out.pop_back();
            append_member(out, "origin", value.stream->origin);
            out += '}';
        }
    });
    out += ']';
    append_flag(out, "stale", stale || origins.empty());
    if (as_of) {
        append_member(out, "as_of", to_rfc3339(as_of->wall));
    } else {
        out += ",\"as_of\":null";
    }
    out += '}';
    return out;
}

std::string Rest::topic_state(std::string_view topic, Now now) const {
    const Cache& cache = parts_.hub.cache();
    std::string out = "{";
    append_member(out, "topic", topic);
    append_member(out, "timestamp", to_rfc3339(now.wall));
    append_member(out, "uplink", cache.uplink() ? "up" : "down");
    append_member(out, "epoch", cache.epoch());
    append_member(out, "pos", cache.pos());
    out += ",\"values\":[";
    cache.each_of_topic(topic, [&](const Value& value) {
        comma(out);
        out += render_value(value, cache.effective(value.age), Dialect::kV1, now);
    });
    out += "],\"sources\":[";
    for (const Source& source : parts_.hub.sources({})) {
        if (source.topic == topic) {
            comma(out);
            append_source(out, source, now);
        }
    }
    out += "]}";
    return out;
}

std::string Rest::all_state(const Grant& grant, Now now) const {
    const Cache& cache = parts_.hub.cache();
    std::string out = "{";
    append_member(out, "timestamp", to_rfc3339(now.wall));
    append_member(out, "uplink", cache.uplink() ? "up" : "down");
    append_member(out, "epoch", cache.epoch());
    append_member(out, "pos", cache.pos());
    out += ",\"values\":[";
    cache.each_topic([&](const std::string& topic) {
        if (!grant.allows(topic)) {
            return;
        }
        cache.each_of_topic(topic, [&](const Value& value) {
            comma(out);
            out += render_value(value, cache.effective(value.age), Dialect::kV1, now);
        });
    });
    out += "],\"sources\":[";
    for (const Source& source : parts_.hub.sources(grant)) {
        comma(out);
        append_source(out, source, now);
    }
    out += "]}";
    return out;
}

void Rest::update_metrics(Now now) {
    const auto with = [&](Labels labels) {
        labels.insert(parts_.labels.begin(), parts_.labels.end());
        return labels;
    };
    const auto count = [&](const char* name, const char* help, std::uint64_t value,
                           const Labels& labels = {}) {
        Counter& counter = parts_.metrics.counter(name, help, with(labels));
        counter.add(std::max(0.0, static_cast<double>(value) - counter.value()));
    };
    const auto limited = [&](const char* limit, std::uint64_t value) {
        count("sigmacast_edge_limited_total", "Times that a client met a limit", value,
              {{"limit", limit}});
    };
    const auto gauge = [&](const char* name, const char* help, double value,
                           const Labels& labels = {}) {
        parts_.metrics.gauge(name, help, with(labels)).set(value);
    };
    const Cache& cache = parts_.hub.cache();
    const HubCounters& hub = parts_.hub.counters();
    const WireCounters& wire = parts_.wire.counters();
    const Upstream::Counters& upstream = parts_.upstream.counters();
    gauge("sigmacast_edge_clients", "Open WebSocket connections and event streams",
          static_cast<double>(parts_.wire.clients()));
    gauge("sigmacast_edge_event_streams", "Of the clients, those over Server-Sent Events",
          static_cast<double>(parts_.wire.event_streams()));
    gauge("sigmacast_edge_uplink_up", "1 while the broker's heads arrive", cache.uplink() ? 1 : 0);
    gauge("sigmacast_edge_ready", "1 once a snapshot has been applied, 0 again while it drains",
          parts_.upstream.ready() && !parts_.hub.draining() ? 1 : 0);
    gauge("sigmacast_edge_values", "Values kept", static_cast<double>(cache.entries()));
    gauge("sigmacast_edge_values_bytes", "Data kept, as JSON and as msgpack",
          static_cast<double>(cache.bytes()));
    gauge("sigmacast_edge_pos", "Log position reached", static_cast<double>(cache.pos()));
    gauge("sigmacast_edge_uptime_seconds", "Since the start",
          static_cast<double>(elapsed(parts_.started, now.mono).count()) / 1000.0);
    for (const auto& poll : cache.polls()) {
        const Age age = cache.effective(poll->state.age);
        gauge("sigmacast_edge_source_live", "1 while the poll's values are live",
              age.quality == Quality::kLive ? 1 : 0,
              {{"origin", poll->state.origin}, {"poll", poll->state.report.poll}});
    }
    count("sigmacast_edge_accepted_total", "WebSocket handshakes", wire.accepted);
    count("sigmacast_edge_event_streams_total", "Event streams begun", wire.streams_accepted);
    count("sigmacast_edge_refused_total", "WebSocket handshakes and event streams refused",
          wire.refused);
    count("sigmacast_edge_messages_sent_total", "Messages handed to sockets", hub.sent.messages);
    count("sigmacast_edge_bytes_sent_total", "Bytes taken by sockets", wire.bytes);
    count("sigmacast_edge_flushes_total", "Times that a client's socket took something",
          wire.flushes);
    count("sigmacast_edge_batched_flushes_total",
          "Of them, those that shared a system call (io_uring)", wire.batched);
    count("sigmacast_edge_batches_total", "System calls that flushes have shared", wire.batches);
    const auto& batch = parts_.wire.options().batch;
    gauge("sigmacast_edge_io_uring", "1 while flushes share system calls",
          batch && !batch->broken() ? 1 : 0);
    count("sigmacast_edge_encodes_total", "Frames built", hub.encodes);
    const EncodeCounters& encodes = parts_.wire.encodes();
    count("sigmacast_edge_msgpack_encodes_total", "Frames of them made again as msgpack",
          encodes.msgpack);
    count("sigmacast_edge_deflated_total", "Frames compressed", encodes.deflated);
    count("sigmacast_edge_deflate_in_bytes_total", "What was compressed, before",
          encodes.deflate_in);
    count("sigmacast_edge_deflate_out_bytes_total", "What was compressed, after",
          encodes.deflate_out);
    count("sigmacast_edge_conflated_total",
          "State frames replaced by newer ones in a client's queue", hub.sent.conflated);
    count("sigmacast_edge_skipped_notes_total", "Notes to clients of what was left out",
          hub.sent.skipped_notes);
    count("sigmacast_edge_dropped_clients_total", "Clients closed for being too slow",
          hub.slow_closed);
    count("sigmacast_edge_no_pong_total", "Clients closed for not answering pings", wire.no_pong);
    count("sigmacast_edge_client_errors_total", "Bad messages of clients", hub.client_errors);
    count("sigmacast_edge_protocol_errors_total", "Clients closed for breaking RFC 6455",
          wire.protocol_errors);
    const ResumeCounters& resumes = hub.resumes;
    const std::pair<const char*, std::uint64_t> results[] = {
        {"resumed", resumes.resumed},         {"too_old", resumes.too_old},
        {"new_epoch", resumes.new_epoch},     {"future", resumes.future},
        {"bad_cursor", resumes.bad_cursor},   {"pending", resumes.pending},
        {"edge_behind", resumes.edge_behind}, {"unavailable", resumes.unavailable}};
    for (const auto& [result, of] : results) {
        count("sigmacast_edge_resumes_total", "Clients that came back, by how they were answered",
              of, {{"result", result}});
    }
    gauge("sigmacast_edge_resuming", "Clients that have yet to be sent something they missed",
          static_cast<double>(parts_.hub.resuming()));
    count("sigmacast_edge_history_requests_total", "Pages of the log asked of the broker",
          parts_.hub.history().requests());
    gauge("sigmacast_edge_history_ring_bytes", "Recent events kept, of at most 8 MiB",
          static_cast<double>(parts_.hub.history().ring_bytes()));
    limited("handshake_timeout", parts_.http.late);
    limited("header_bytes_max", parts_.http.header_too_large);
    limited("connections_max", parts_.http.turned_away);
    limited("clients_max", wire.clients_full);
    limited("clients_per_address_max", wire.address_full + parts_.http.address_turned_away);
    limited("clients_per_user_max", wire.user_full + hub.users_refused);
    limited("clients_waiting_max", wire.waiting_full);
    limited("client_message_bytes_max", wire.too_large);
    limited("client_messages_per_second", hub.over_rate);
    limited("client_messages_per_second_flood", hub.floods);
    limited("client_subscriptions_max", hub.subscriptions_refused);
    limited("client_answer_bytes_max", wire.not_read_from);
    limited("write_timeout", hub.not_read);
    count("sigmacast_edge_unauthorized_total", "Requests and messages without a good token",
          unauthorized_ + hub.unauthorized);
    count("sigmacast_edge_expired_total", "Clients closed as their token had expired", hub.expired);
    if (parts_.first) {
        gauge("sigmacast_edge_waiting", "Connections that have to send a token yet",
              static_cast<double>(parts_.hub.occupancy().waiting));
    }
    if (parts_.first && parts_.tls) {
        const tls::Server::Counters& tls = parts_.tls->counters;
        gauge("sigmacast_edge_certificate_expires_timestamp_seconds",
              "When the certificate that is served expires, since 1970",
              static_cast<double>(unix_seconds(parts_.tls->expires())));
        count("sigmacast_edge_certificate_reload_failures_total",
              "SIGHUPs after which the old certificate went on serving", tls.reloads_failed);
        count("sigmacast_edge_tls_handshakes_total", "TLS handshakes", tls.handshakes);
        count("sigmacast_edge_tls_handshakes_failed_total",
              "TLS handshakes that failed, or took too long", tls.handshakes_failed);
    }
    count("sigmacast_edge_not_encodable_total", "Events that could not become JSON",
          hub.not_encodable);
    count("sigmacast_edge_too_large_total", "Messages too large for a client's queue, not sent",
          hub.too_large);
    count("sigmacast_edge_not_kept_total", "Values passed on without room to keep them",
          cache.not_kept());
    count("sigmacast_edge_gaps_total", "Ranges asked of the broker", upstream.gaps);
    count("sigmacast_edge_lost_total", "Positions that nobody has any more", upstream.lost);
    count("sigmacast_edge_unreadable_total", "Rows of the broker's that could not be read",
          upstream.unreadable);
    count("sigmacast_edge_snapshots_total", "Snapshots applied", upstream.snapshots);
    count("sigmacast_edge_upstream_overflow_total", "Messages dropped at a bound, to be repaired",
          upstream.overflow);
}

}  // namespace sigmacast::edge
