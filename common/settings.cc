#include "common/settings.h"

#include <arpa/inet.h>

#include <toml++/toml.h>
#include <algorithm>
#include <boost/json/value.hpp>
#include <boost/url/parse.hpp>
#include <boost/url/url_view.hpp>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <numeric>
#include <set>
#include <utility>
#include <variant>

#include "common/codec.h"
#include "common/curve.h"

namespace sigmacast {
namespace {

constexpr std::size_t kFileBytesMax = 1u << 20;
constexpr std::size_t kProblemsMax = 100;  // Shown; the rest is counted.
constexpr std::size_t kPollsMax = 256;
constexpr std::size_t kRolesMax = 256;
constexpr std::size_t kTopicPatternsMax = 256;  // Of one role.
constexpr std::size_t kCurveClientsMax = 1'024;
constexpr std::size_t kCurveKeysMax = 4;  // Of one client.
constexpr std::size_t kIpcPathMax =
    100;  // A socket's path has room for 107 bytes, some of them the system's.
constexpr std::string_view kTransportBreaker = "engine";
constexpr Millis kDeadlineSlack{1000};  // P4: a deadline is never more than interval + 1 s.

constexpr std::int64_t kSecond = 1'000;
constexpr std::int64_t kMinute = 60 * kSecond;
constexpr std::int64_t kHour = 60 * kMinute;
constexpr std::int64_t kYear = 365 * 24 * kHour;

// ----------------------------------------------------------------------------------------------------------
// schema Each key is named once, here. Reading, checking, suggesting and writing the default file
// all walk this table.

using Names = std::map<std::string, std::string>;
using Target = std::variant<std::string*, bool*, std::uint16_t*, std::uint32_t*, std::size_t*,
                            Millis*, std::vector<std::string>*, Names*>;
/// What is wrong with a text, or nothing.
using Check = std::string (*)(const std::string&);

struct Field {
    std::string_view name;
    Target target;
    std::string_view comment;
    std::int64_t min = 0;  // Numbers; milliseconds for durations.
    std::int64_t max = std::numeric_limits<std::int64_t>::max();
    Check check = nullptr;  // Texts, and each text of a list.
};

struct Section {
    std::string_view path;
    std::string_view comment;
    std::vector<Field> fields;
};

bool only(std::string_view text, std::string_view extra, bool upper, bool lower) {
    return std::all_of(text.begin(), text.end(), [&](char c) {
        return (c >= '0' && c <= '9') || (lower && c >= 'a' && c <= 'z') ||
               (upper && c >= 'A' && c <= 'Z') || extra.find(c) != std::string_view::npos;
    });
}

std::string one_of(const std::string& value, std::initializer_list<std::string_view> choices) {
    std::string list;
    for (const std::string_view choice : choices) {
        if (value == choice) {
            return {};
        }
        list += (list.empty() ? "" : ", ") + std::string(choice);
    }
    return "'" + value + "' is none of " + list;
}

std::string check_not_empty(const std::string& value) {
    return value.empty() ? "may not be empty" : "";
}

std::string check_folder(const std::string& value) {
    if (value.empty() || value.front() != '/' || value.find('\0') != std::string::npos) {
        return "'" + value + "' is not an absolute path, as /srv/media";
    }
    return {};
}

std::string check_file(const std::string& value) {
    return value.empty() ? "" : check_folder(value);
}

std::string check_level(const std::string& value) {
    return one_of(value, {"debug", "info", "warn", "error"});
}

std::string check_io_uring(const std::string& value) {
    return one_of(value, {"auto", "on", "off"});
}

std::string check_algorithm(const std::string& value) {
    return one_of(value, {"HS256", "RS256"});
}

/// A token as RFC 6265 has it for a cookie's name; empty: no cookie.
std::string check_cookie(const std::string& value) {
    return only(value, "!#$%&'*+-.^_`|~", true, true)
               ? ""
               : "'" + value + "' is not the name of a cookie";
}

std::string check_mapper(const std::string& value) {
    return one_of(value, {"as_is", "system", "jobs", "agents", "storage"});
}

std::string check_name(const std::string& value) {
    if (value.empty() || value.size() > 64 || !only(value, "._-", false, true)) {
        return "'" + value + "' is not a name: 1 to 64 of a-z, 0-9, dot, underscore and dash";
    }
    return {};
}

/// A topic's name, all below one, or all.
std::string check_pattern(const std::string& value) {
    const bool below = value.size() > 2 && value.ends_with(".*");
    if (value != "*" && !check_name(below ? value.substr(0, value.size() - 2) : value).empty()) {
        return "'" + value + "' is neither a topic as system.status, nor agent.* or *";
    }
    return {};
}

std::string check_method(const std::string& value) {
    if (value.empty() || value.size() > 128 || !only(value, "._-/:", true, true)) {
        return "'" + value + "' is not the name of a method";
    }
    return {};
}

std::string check_code(const std::string& value) {
    if (value.size() > 64 || !only(value, "_", true, false)) {
        return "'" + value + "' is not an error code: A-Z, 0-9 and underscore";
    }
    return {};
}

std::string check_key(const std::string& value) {
    if (value.size() > 128 || value.find('\0') != std::string::npos) {
        return "is longer than 128 bytes, or has a NUL in it";
    }
    return {};
}

std::string check_origin(const std::string& value) {
    if (value.size() > 64 || !only(value, "._-@", true, true)) {
        return "'" + value + "' is not an origin: at most 64 letters, digits, and . _ - @";
    }
    return {};
}

/// Of what is refused nothing is repeated: it may be a secret key.
std::string check_public_key(const std::string& value) {
    return is_key(value) ? ""
                         : "is not a public key as sigmacast keygen prints it: 40 characters in "
                           "Z85";
}

std::string check_public_key_or_none(const std::string& value) {
    return value.empty() ? "" : check_public_key(value);
}

std::string check_right(const std::string& value) {
    return one_of(value, {"publish", "read"});
}

std::string check_params(const std::string& value) {
    if (value.empty()) {
        return {};
    }
    const auto parsed = parse_json(value);
    return parsed && parsed->is_object() ? "" : "is not a JSON object, as {\"limit\":50}";
}

std::string check_engine_url(const std::string& value) {
    const auto parsed = boost::urls::parse_uri(value);
    if (parsed && parsed->has_userinfo()) {  // Not to be repeated.
        return "names a user or a password, and none would be sent: leave out what is before the @";
    }
    if (!parsed || parsed->scheme() != "http" || parsed->host().empty() || parsed->has_query() ||
        parsed->has_fragment()) {
        return "'" + value + "' is not a URL as http://127.0.0.1:5000/api/v1";
    }
    return {};
}

std::string check_cors_origin(const std::string& value) {
    if (value == "*") {
        return {};
    }
    if (value.find('*') != std::string::npos) {
        return "'" + value +
               "' has a wildcard, which stands for nothing here: list each origin, or *";
    }
    const auto parsed = boost::urls::parse_uri(value);
    if (!parsed || (parsed->scheme() != "http" && parsed->scheme() != "https") ||
        !parsed->encoded_path().empty() || parsed->has_query()) {
        return "'" + value + "' is not an origin as https://nas.example or *";
    }
    return {};
}

/// A name is looked up where it is used.
std::string check_host(const std::string& value) {
    in_addr address{};
    if (!value.empty() && only(value, ".", false, false) &&
        ::inet_pton(AF_INET, value.c_str(), &address) != 1) {
        return "'" + value + "' is not an IPv4 address";
    }
    return check_not_empty(value);
}

bool is_loopback(std::string_view host) {
    if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
        host = host.substr(1, host.size() - 2);
    }
    return host == "localhost" || host == "::1" ||
           (host.substr(0, 4) == "127." && only(host, ".", false, false));
}

/// A name, an IPv4 address, or an IPv6 address in brackets: each works for the broker and for those
/// who connect to it alike.
std::string check_endpoint_host(const std::string& endpoint, std::string_view host) {
    if (host == "*") {
        return "'" + endpoint +
               "' has no address that others could connect to: write 0.0.0.0 for "
               "all of this machine's, or [::] with IPv6";
    }
    const bool brackets = host.size() > 2 && host.front() == '[' && host.back() == ']';
    const bool good = brackets ? host.find(':') != std::string_view::npos &&
                                     only(host.substr(1, host.size() - 2), ":.%", true, true)
                               : host.size() <= 253 && only(host, ".-_", true, true);
    return good ? ""
                : "'" + endpoint +
                      "' has no host: a name, an IPv4 address, or an IPv6 address in brackets";
}

std::string check_endpoint(const std::string& value) {
    constexpr std::string_view kTcp = "tcp://";
    constexpr std::string_view kIpc = "ipc://";
    if (value.rfind(kIpc, 0) == 0 && value.size() > kIpc.size()) {
        if (value.size() - kIpc.size() > kIpcPathMax) {
            return "the path is longer than " + std::to_string(kIpcPathMax) +
                   " bytes; use a shorter run folder";
        }
        return {};
    }
    const std::size_t colon = value.rfind(':');
    if (value.rfind(kTcp, 0) != 0 || colon <= kTcp.size()) {
        return "'" + value + "' is not an endpoint as tcp://127.0.0.1:12070 or ipc:///run/x/feed";
    }
    unsigned port = 0;
    const char* end = value.data() + value.size();
    const auto parsed = std::from_chars(value.data() + colon + 1, end, port);
    if (parsed.ec != std::errc() || parsed.ptr != end || port == 0 || port > 65'535) {
        return "'" + value + "' has no port from 1 to 65535";
    }
    return check_endpoint_host(value,
                               std::string_view(value).substr(kTcp.size(), colon - kTcp.size()));
}

/// Whether an endpoint, which has passed the check, can be reached from other hosts.
bool is_open(std::string_view endpoint) {
    constexpr std::string_view kTcp = "tcp://";
    return endpoint.starts_with(kTcp) &&
           !is_loopback(endpoint.substr(kTcp.size(), endpoint.rfind(':') - kTcp.size()));
}

std::vector<Field> breaker_fields(BreakerSettings& breaker) {
    return {
        {"failures", &breaker.failures, "Consecutive failures that open it.", 1, 1'000},
        {"reset", &breaker.reset, "From its opening to the next try.", 10, kYear},
    };
}

std::vector<Field> poll_fields(PollSettings& poll) {
    return {
        {"name", &poll.name, "Unique; names its reports and its breaker. Default: the method.", 0,
         0, check_name},
        {"method", &poll.method, "Of the engine.", 0, 0, check_method},
        {"params", &poll.params, "JSON text; empty: none.", 0, 0, check_params},
        {"interval", &poll.interval, "From start to start.", 20, 24 * kHour},
        {"deadline", &poll.deadline, "For an answer; at most interval + 1s.", 10,
         24 * kHour + kSecond},
        {"topic", &poll.topic, "What it feeds.", 0, 0, check_name},
        {"key", &poll.key, "Fixed key; empty: none, or the mapper's.", 0, 0, check_key},
        {"mapper", &poll.mapper, "as_is, system, jobs, agents or storage.", 0, 0, check_mapper},
        {"error_code", &poll.error_code, "What a failure is called; default NAME_FAILED.", 0, 0,
         check_code},
        {"rename", &poll.rename, "as_is: field of the answer -> field of the event.", 0, 0,
         nullptr},
        {"ignore", &poll.ignore, "as_is: fields that do not make a value new.", 0, 0, nullptr},
    };
}

std::vector<Field> role_fields(RoleSettings& role) {
    return {
        {"name", &role.name, "As the token has it.", 0, 0, check_not_empty},
        {"topics", &role.topics, "What it may see: [\"system.status\", \"agent.*\"]; \"*\" is all.",
         0, 0, check_pattern},
    };
}

std::vector<Field> curve_client_fields(CurveClientSettings& client) {
    return {
        {"name", &client.name, "For the broker's log.", 0, 0, check_name},
        {"public_keys", &client.public_keys,
         "As sigmacast keygen printed it there; a second one while it is being replaced.", 0, 0,
         check_public_key},
        {"may", &client.may, "\"publish\" (producers), \"read\" (edges), or both.", 0, 0,
         check_right},
        {"origins", &client.origins, "What it may publish as; empty: anything.", 0, 0,
         check_origin},
    };
}

std::vector<Section> schema(Settings& s) {
    constexpr std::int64_t kPortMax = 65'535;
    return {
        {"",
         "Configuration of Sigmacast: one file for all of its programs. Every setting has its\n"
         "default here. Durations are texts as \"250ms\", \"5s\" or \"2h45m\".",
         {{"data_dir", &s.data_dir, "Folder for the log, the origin's name and its counters.", 0, 0,
           check_not_empty}}},
        {"log", "", {{"level", &s.log_level, "debug, info, warn or error.", 0, 0, check_level}}},
        {"engine",
         "Our own engine, sigmacast-engine, which serves this machine's real figures.",
         {{"host", &s.engine.host, "Loopback alone: it has no authentication.", 0, 0, check_host},
          {"port", &s.engine.port, "0: the system chooses.", 0, kPortMax},
          {"compress_folders", &s.engine.compress_folders,
           "Below which files may be compressed, as [\"/srv/media\"]; empty: samples in data_dir.",
           0, 0, check_folder},
          {"compress_workers", &s.engine.compress_workers, "Files compressed at the same time.", 1,
           64},
          {"compress_level", &s.engine.compress_level, "Of zstd: 1 is fast, 19 is small.", 1, 19}}},
        {"producer",
         "Polls the engine and publishes what it answers.",
         {{"origin", &s.producer.origin,
           "Its name on the feed; empty: this machine's, saved at the first start.", 0, 0,
           check_origin},
          {"engine_url", &s.producer.engine_url, "Base of the engine's JSON-RPC; /rpc is added.", 0,
           0, check_engine_url},
          {"reply_bytes_max", &s.producer.reply_bytes_max, "A longer answer is a failure.", 1'024,
           64 << 20},
          {"health_interval", &s.producer.health_interval,
           "health.check while the engine cannot be reached; 0s turns it off.", 0, kHour},
          {"unsupported_retry", &s.producer.unsupported_retry,
           "When a method that the engine does not know is tried again.", 10, 24 * kHour},
          {"rpc_error_interval", &s.producer.rpc_error_interval,
           "At most one rpc_error event in this time.", 10, 24 * kHour},
          {"jitter", &s.producer.jitter, "Each poll starts up to this much later than due.", 0,
           60 * kSecond},
          {"admin_port", &s.producer.admin_port, "/livez, /readyz and /metrics on loopback.", 0,
           kPortMax}}},
        {"producer.poll_breaker", "One per poll, for its own errors.",
         breaker_fields(s.producer.poll_breaker)},
        {"producer.transport_breaker", "One for the connection to the engine.",
         breaker_fields(s.producer.transport_breaker)},
        {"broker",
         "Writes the log, and serves it. Producers and edges connect to these endpoints.",
         {{"ingest", &s.broker.ingest, "From the producers.", 0, 0, check_endpoint},
          {"feed", &s.broker.feed, "To the edges.", 0, 0, check_endpoint},
          {"repair", &s.broker.repair, "Questions of both.", 0, 0, check_endpoint},
          {"database", &s.broker.database, "File; empty: sigmacast.db in the data folder.", 0, 0,
           nullptr},
          {"retain_values", &s.broker.retain_values, "How long old values are kept.", 10,
           10 * kYear},
          {"retain_events", &s.broker.retain_events, "How long events are kept.", 10, 10 * kYear},
          {"retain_bytes", &s.broker.retain_bytes, "Size of the log beyond which both go earlier.",
           1 << 20, std::int64_t{1} << 40},
          {"admin_port", &s.broker.admin_port, "/livez, /readyz and /metrics on loopback.", 0,
           kPortMax}}},
        {"edge",
         "Fans the feed out to browsers.",
         {{"host", &s.edge.host, "Address of the WebSocket and HTTP server.", 0, 0, check_host},
          {"port", &s.edge.port, "0: the system chooses.", 0, kPortMax},
          {"tls_certificate", &s.edge.tls_certificate,
           "File with the certificate and its chain (PEM): https and wss alone; empty: no TLS.", 0,
           0, check_file},
          {"tls_key", &s.edge.tls_key,
           "File with its key (PEM, no passphrase). SIGHUP has both files read again.", 0, 0,
           check_file},
          {"topics", &s.edge.topics,
           "What it serves, the same for all edges behind one name; empty: everything.", 0, 0,
           check_name},
          {"legacy_origin", &s.edge.legacy_origin,
           "Whose state clients without a subprotocol see; empty: the first.", 0, 0, check_origin},
          {"cors_origins", &s.edge.cors_origins,
           "Pages of other origins that may connect, as [\"https://nas.example\"].", 0, 0,
           check_cors_origin},
          {"ping_interval", &s.edge.ping_interval, "Between pings to a client.", 10, kHour},
          {"pong_timeout", &s.edge.pong_timeout,
           "A client that once answered pings, and has stopped to, is closed after this.", 10,
           24 * kHour},
          {"heartbeat_interval", &s.edge.heartbeat_interval,
           "Silence after which a heartbeat is sent; old clients give up after 10s.", 10,
           9 * kSecond},
          {"handshake_timeout", &s.edge.handshake_timeout,
           "In which a request, or a handshake, has to have come; also how long a kept connection "
           "may be idle.",
           10, kHour},
          {"write_timeout", &s.edge.write_timeout,
           "A client for which something waits, and which takes nothing for so long, is closed.",
           10, 24 * kHour},
          {"io_threads", &s.edge.io_threads,
           "Threads that serve clients, each with its own share of them and its own feed of the "
           "broker's.",
           1, 64},
          {"io_uring", &s.edge.io_uring,
           "One system call for what waits for many clients: \"auto\" (where the kernel allows "
           "it), \"on\" (for few, too; where it is not allowed the edge does not start) or "
           "\"off\".",
           0, 0, check_io_uring},
          {"compression", &s.edge.compression,
           "permessage-deflate for v1 clients that offer it: each message is compressed once, for "
           "all."},
          {"flush_interval", &s.edge.flush_interval,
           "While much happens, what waits for clients leaves together, no sooner than this after "
           "the last time: less work for the edge, and so much later for them. 0: always at once.",
           0, 100},
          {"drain_notice", &s.edge.drain_notice,
           "SIGTERM: how long it is not ready and still lets clients in, so that a balancer sees "
           "it "
           "in time.",
           0, kMinute},
          {"drain_time", &s.edge.drain_time,
           "SIGTERM: in which its clients are told to leave, drain_notice included; it ends 1.3s "
           "later. Keep it 3s below the supervisor's stopwaitsecs (10 where ops/run made it).",
           0, kHour},
          {"header_bytes_max", &s.edge.header_bytes_max, "Of a request.", 1'024, 60 << 10},
          {"client_message_bytes_max", &s.edge.client_message_bytes_max,
           "The longest message that a client may send.", 1'024, 16 << 20},
          {"client_messages_per_second", &s.edge.client_messages_per_second,
           "What a client may send, pings and fragments too; two seconds' worth may come at once. "
           "0: no limit.",
           0, 1'000'000},
          {"client_subscriptions_max", &s.edge.client_subscriptions_max, "Topics of one client.", 1,
           65'536},
          {"client_answer_bytes_max", &s.edge.client_answer_bytes_max,
           "Answers (pongs, errors) that may wait for a client before it is not read from.", 1'024,
           16 << 20},
          {"client_queue_bytes_max", &s.edge.client_queue_bytes_max,
           "What may wait for a slow client before it is closed.", 64 << 10, 1 << 30},
          {"clients_max", &s.edge.clients_max, "Beyond it a client is told to try later.", 1,
           1'000'000},
          {"clients_per_address_max", &s.edge.clients_per_address_max,
           "The same for one address (of IPv6: one /64); a proxy's clients all have its own. "
           "Loopback is not counted. 0: no limit.",
           0, 1'000'000},
          {"clients_per_user_max", &s.edge.clients_per_user_max,
           "The same for one user (the `sub` of tokens). 0: no limit.", 0, 1'000'000},
          {"clients_waiting_max", &s.edge.clients_waiting_max,
           "The same for those that have to send a token yet.", 1, 1'000'000}}},
        {"auth",
         "Who may connect to an edge, and see what. Off by default: an edge is on loopback alone.",
         {{"required", &s.auth.required,
           "Nothing is told without a good token: a JWT with an expiry (exp)."},
          {"algorithm", &s.auth.algorithm, "HS256 (secret) or RS256 (public_key_file).", 0, 0,
           check_algorithm},
          {"secret", &s.auth.secret,
           "HS256: 32 bytes or more; better in SIGMAVAULT_JWT_SECRET than here.", 0, 0, nullptr},
          {"public_key_file", &s.auth.public_key_file,
           "RS256: file with the issuer's public key (PEM).", 0, 0, nullptr},
          {"issuer", &s.auth.issuer, "What `iss` has to be; empty: anything.", 0, 0, nullptr},
          {"audience", &s.auth.audience, "What `aud` has to name; empty: anything.", 0, 0, nullptr},
          {"roles_claim", &s.auth.roles_claim, "Claim that lists the roles.", 0, 0,
           check_not_empty},
          {"cookie", &s.auth.cookie, "Name of an HttpOnly cookie with the token; empty: none.", 0,
           0, check_cookie},
          {"query_token", &s.auth.query_token,
           "Accept ?token= too: for clients that cannot send it otherwise; proxies log it."},
          {"allow_anonymous_lan", &s.auth.allow_anonymous_lan,
           "Let anyone on the network read the feed: a host other than loopback needs this or\n"
           "required = true."},
          {"first_message_timeout", &s.auth.first_message_timeout,
           "For a WebSocket that brought no token, to send one as its first message.", 10,
           kMinute}}},
        {"curve",
         "Between programs on different hosts: each has a key of its own (sigmacast keygen). Off\n"
         "by default: the endpoints of [broker] are loopback or ipc.",
         {{"broker_key_file", &s.curve.broker_key_file,
           "The broker's secret key; whom it lets in is in [[curve.client]].", 0, 0, nullptr},
          {"broker_public_key", &s.curve.broker_public_key,
           "What the others expect the broker to have.", 0, 0, check_public_key_or_none},
          {"producer_key_file", &s.curve.producer_key_file, "The producer's secret key.", 0, 0,
           nullptr},
          {"edge_key_file", &s.curve.edge_key_file, "The edges' secret key.", 0, 0, nullptr},
          {"publish_key_file", &s.curve.publish_key_file, "The one of `sigmacast publish`.", 0, 0,
           nullptr}}},
    };
}

// ---------------------------------------------------------------------------------------------------------
// problems

/// Collects every problem of a file, each with its line.
class Problems {
 public:
    explicit Problems(std::string name) : name_(std::move(name)) {}

    void at(std::uint32_t line, const std::string& what) {
        const std::string where =
            name_.empty() ? "" : name_ + (line > 0 ? ":" + std::to_string(line) : "") + ": ";
        add(line, where + what);
    }
    void in_variable(const std::string& variable, const std::string& what) {
        add(kLast, "environment: " + variable + ": " + what);
    }
    [[nodiscard]] bool none() const { return all_.empty(); }

    [[nodiscard]] Error error() {
        std::stable_sort(all_.begin(), all_.end(),
                         [](const auto& a, const auto& b) { return a.first < b.first; });
        std::string text;
        for (std::size_t i = 0; i < std::min(all_.size(), kProblemsMax); ++i) {
            text += (i == 0 ? "" : "\n") + all_[i].second;
        }
        if (all_.size() > kProblemsMax) {
            text += "\nand " + std::to_string(all_.size() - kProblemsMax) + " more";
        }
        return {Errc::kInvalid, text};
    }

 private:
    static constexpr std::uint32_t kLast = std::numeric_limits<std::uint32_t>::max();

    /// One line each, whatever was quoted from the file.
    void add(std::uint32_t line, std::string text) {
        std::replace_if(
            text.begin(), text.end(), [](unsigned char c) { return c < ' ' || c == 0x7F; }, ' ');
        all_.emplace_back(line, std::move(text));
    }

    std::string name_;
    std::vector<std::pair<std::uint32_t, std::string>> all_;
};

std::size_t edit_distance(std::string_view a, std::string_view b) {
    std::vector<std::size_t> row(b.size() + 1);
    std::iota(row.begin(), row.end(), std::size_t{0});
    for (std::size_t i = 1; i <= a.size(); ++i) {
        std::size_t diagonal = std::exchange(row[0], i);
        for (std::size_t j = 1; j <= b.size(); ++j) {
            const std::size_t changed = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
            diagonal = std::exchange(row[j], std::min({row[j] + 1, row[j - 1] + 1, changed}));
        }
    }
    return row.back();
}

std::string joined(std::string_view section, std::string_view name) {
    return section.empty() ? std::string(name) : std::string(section) + "." + std::string(name);
}

/// "; did you mean x?" where one known name is near enough.
std::string suggestion(const std::string& unknown, const std::vector<std::string>& known) {
    constexpr std::size_t kLengthMax = 128;
    std::size_t best = 4;  // From this distance on it would be a guess.
    std::string nearest;
    for (const std::string& name : known) {
        if (unknown.size() > kLengthMax) {
            break;
        }
        const std::size_t distance = edit_distance(unknown, name);
        if (distance < best && distance * 2 < name.size()) {
            best = distance;
            nearest = name;
        }
    }
    return nearest.empty() ? "" : "; did you mean " + nearest + "?";
}

// ----------------------------------------------------------------------------------------------------------
// reading

std::string_view type_name(const toml::node& node) {
    switch (node.type()) {
        case toml::node_type::table:
            return "a table";
        case toml::node_type::array:
            return "a list";
        case toml::node_type::string:
            return "a text";
        case toml::node_type::integer:
            return "a whole number";
        case toml::node_type::floating_point:
            return "a fraction";
        case toml::node_type::boolean:
            return "true or false";
        default:
            return "a date or time";
    }
}

std::string wants(std::string_view what, const toml::node& node) {
    return "must be " + std::string(what) + ", not " + std::string(type_name(node));
}

std::string range_problem(std::int64_t value, const Field& field) {
    if (value >= field.min && value <= field.max) {
        return {};
    }
    return std::to_string(value) + " is out of range; allowed are " + std::to_string(field.min) +
           " to " + std::to_string(field.max);
}

std::string set_duration(const std::string& text, const Field& field, Millis& into) {
    const Result<Millis> parsed = parse_duration(text);
    if (!parsed) {
        return "'" + text + "' is not a duration as \"5s\" or \"250ms\"";
    }
    if (parsed->count() < field.min || parsed->count() > field.max) {
        return "'" + text + "' is out of range; allowed are " + format_duration(Millis(field.min)) +
               " to " + format_duration(Millis(field.max));
    }
    into = *parsed;
    return {};
}

std::string set_text(const std::string& text, const Field& field, std::string& into) {
    std::string problem = field.check == nullptr ? std::string() : field.check(text);
    if (problem.empty()) {
        into = text;
    }
    return problem;
}

std::string set_list(std::vector<std::string> values, const Field& field,
                     std::vector<std::string>& into) {
    for (const std::string& value : values) {
        if (std::string problem = field.check == nullptr ? "" : field.check(value);
            !problem.empty()) {
            return problem;
        }
    }
    into = std::move(values);
    return {};
}

/// Reads one value; each overload is one type of setting. They return what is wrong, or nothing.
class Reader {
 public:
    Reader(const toml::node& node, const Field& field) : node_(node), field_(field) {}

    std::string operator()(std::string* into) const {
        const auto text = node_.value_exact<std::string>();
        return text ? set_text(*text, field_, *into) : wants("a text in quotes", node_);
    }
    std::string operator()(bool* into) const {
        const auto value = node_.value_exact<bool>();
        if (!value) {
            return wants("true or false", node_);
        }
        *into = *value;
        return {};
    }
    template <class Number>
    std::string operator()(Number* into) const {
        const auto value = node_.value_exact<std::int64_t>();
        if (!value) {
            return wants("a whole number", node_);
        }
        std::string problem = range_problem(*value, field_);
        if (problem.empty()) {
            *into = static_cast<Number>(*value);
        }
        return problem;
    }
    std::string operator()(Millis* into) const {
        const auto text = node_.value_exact<std::string>();
        return text ? set_duration(*text, field_, *into)
                    : wants("a duration in quotes, as \"5s\"", node_);
    }
    std::string operator()(std::vector<std::string>* into) const {
        const toml::array* list = node_.as_array();
        if (list == nullptr) {
            return wants("a list of texts", node_);
        }
        std::vector<std::string> values;
        for (const toml::node& item : *list) {
            const auto text = item.value_exact<std::string>();
            if (!text) {
                return "each item " + wants("a text in quotes", item);
            }
            values.push_back(*text);
        }
        return set_list(std::move(values), field_, *into);
    }
    std::string operator()(Names* into) const {
        const toml::table* table = node_.as_table();
        if (table == nullptr) {
            return wants("a table of texts, as { old = \"new\" }", node_);
        }
        Names names;
        for (const auto& [key, value] : *table) {
            const auto text = value.value_exact<std::string>();
            if (!text || text->empty()) {
                return "each value " + wants("a text in quotes", value);
            }
            names[std::string(key.str())] = *text;
        }
        *into = std::move(names);
        return {};
    }

 private:
    const toml::node& node_;
    const Field& field_;
};

std::string read_field(const toml::node& node, const Field& field) {
    return std::visit(Reader(node, field), field.target);
}

const Field* find_field(const std::vector<Field>& fields, std::string_view name) {
    const auto it = std::find_if(fields.begin(), fields.end(),
                                 [&](const Field& field) { return field.name == name; });
    return it == fields.end() ? nullptr : &*it;
}

/// Walks a parsed file against the schema.
class FileReader {
 public:
    FileReader(Settings& settings, Problems& problems, std::vector<std::string>& notes)
        : settings_(settings), problems_(problems), notes_(notes), sections_(schema(settings)) {
        for (const Section& section : sections_) {
            if (!section.path.empty()) {
                known_.emplace_back(section.path);
            }
            for (const Field& field : section.fields) {
                known_.push_back(joined(section.path, field.name));
            }
        }
        known_.emplace_back(kPolls);
        known_.emplace_back(kRoles);
        known_.emplace_back(kClients);
    }

    void read(const toml::table& table, const std::string& path = "") {
        const Section& section = *find_section(path);
        for (const auto& [key, node] : table) {
            const std::string name = joined(path, key.str());
            const std::uint32_t line = key.source().begin.line;
            if (const Field* field = find_field(section.fields, key.str())) {
                report(line, name, read_field(node, *field));
                lines_[name] = line;
            } else if (name == kPolls) {
                settings_.producer.polls.clear();  // Rows in the file replace the default ones.
                read_rows(node, line, name, kPollsMax, &FileReader::read_poll);
            } else if (name == kRoles) {
                read_rows(node, line, name, kRolesMax, &FileReader::read_role);
            } else if (name == kClients) {
                read_rows(node, line, name, kCurveClientsMax, &FileReader::read_client);
            } else if (const char* moved = moved_to(name)) {
                read_moved(node, line, name, moved);
            } else if (find_section(name) != nullptr) {
                read_section(node, name, line);
            } else {
                problems_.at(line, name + ": unknown key" + suggestion(name, known_));
            }
        }
    }

    /// Where a key was set; 0 where it was not.
    [[nodiscard]] std::uint32_t line_of(const std::string& name) const {
        const auto it = lines_.find(name);
        return it == lines_.end() ? 0 : it->second;
    }

 private:
    static constexpr const char* kPolls = "producer.poll";
    static constexpr const char* kRoles = "auth.role";
    static constexpr const char* kClients = "curve.client";

    const Section* find_section(std::string_view path) const {
        const auto it = std::find_if(sections_.begin(), sections_.end(),
                                     [&](const Section& section) { return section.path == path; });
        return it == sections_.end() ? nullptr : &*it;
    }

    void report(std::uint32_t line, const std::string& name, const std::string& problem) {
        if (!problem.empty()) {
            problems_.at(line, name + ": " + problem);
        }
    }

    void read_section(const toml::node& node, const std::string& name, std::uint32_t line) {
        if (const toml::table* table = node.as_table()) {
            read(*table, name);
        } else {
            report(line, name, wants("a section, as [" + name + "]", node));
        }
    }

    /// Configurations that were written before [auth] was have these in [edge].
    static const char* moved_to(std::string_view name) {
        return name == "edge.jwt_secret"            ? "auth.secret"
               : name == "edge.allow_anonymous_lan" ? "auth.allow_anonymous_lan"
                                                    : nullptr;
    }

    void read_moved(const toml::node& node, std::uint32_t line, const std::string& name,
                    const std::string& now) {
        const std::size_t dot = now.find('.');
        const Section& section = *find_section(now.substr(0, dot));
        report(line, name, read_field(node, *find_field(section.fields, now.substr(dot + 1))));
        notes_.push_back(name + " is called " + now + " now");
    }

    void read_rows(const toml::node& node, std::uint32_t line, const std::string& name,
                   std::size_t most,
                   void (FileReader::*read_row)(const toml::table&, std::uint32_t)) {
        const toml::array* rows = node.as_array();
        if (rows == nullptr || rows->size() > most) {
            return report(line, name,
                          rows == nullptr ? wants("rows, each as [[" + name + "]]", node)
                                          : "more than " + std::to_string(most) + " rows");
        }
        for (const toml::node& row : *rows) {
            if (const toml::table* table = row.as_table()) {
                (this->*read_row)(*table, row.source().begin.line);
            } else {
                report(row.source().begin.line, name, wants("a table", row));
            }
        }
    }

    /// False: some of its keys are unknown or bad, which has been reported.
    bool read_keys(const toml::table& table, const std::string& path,
                   const std::vector<Field>& fields) {
        std::vector<std::string> names;
        for (const Field& field : fields) {
            names.push_back(joined(path, field.name));
        }
        bool good = true;
        for (const auto& [key, node] : table) {
            const std::string name = joined(path, key.str());
            const Field* field = find_field(fields, key.str());
            const std::string problem = field == nullptr ? "unknown key" + suggestion(name, names)
                                                         : read_field(node, *field);
            report(key.source().begin.line, name, problem);
            good = good && problem.empty();
        }
        return good;
    }

    void read_poll(const toml::table& table, std::uint32_t line) {
        PollSettings poll;
        if (read_keys(table, kPolls, poll_fields(poll))) {
            add_poll(std::move(poll), table, line);
        }
    }

    void read_role(const toml::table& table, std::uint32_t line) {
        RoleSettings role;
        if (!read_keys(table, kRoles, role_fields(role))) {
            return;
        }
        if (role.name.empty() || role.topics.empty()) {
            return report(line, joined(kRoles, role.name.empty() ? "name" : "topics"),
                          "is missing in this row");
        }
        if (role.topics.size() > kTopicPatternsMax) {
            return report(line, joined(kRoles, "topics"),
                          "more than " + std::to_string(kTopicPatternsMax));
        }
        for (const RoleSettings& other : settings_.auth.roles) {
            if (other.name == role.name) {
                return report(line, joined(kRoles, "name"),
                              "'" + role.name + "' is the name of an earlier role, too");
            }
        }
        settings_.auth.roles.push_back(std::move(role));
    }

    void read_client(const toml::table& table, std::uint32_t line) {
        CurveClientSettings client;
        if (!read_keys(table, kClients, curve_client_fields(client))) {
            return;
        }
        const char* missing = client.name.empty()          ? "name"
                              : client.public_keys.empty() ? "public_keys"
                              : client.may.empty()         ? "may"
                                                           : nullptr;
        if (missing != nullptr) {
            return report(line, joined(kClients, missing), "is missing in this row");
        }
        if (client.public_keys.size() > kCurveKeysMax) {
            return report(line, joined(kClients, "public_keys"),
                          "more than " + std::to_string(kCurveKeysMax));
        }
        for (const CurveClientSettings& other : settings_.curve.clients) {
            if (other.name == client.name) {
                return report(line, joined(kClients, "name"),
                              "'" + client.name + "' is the name of an earlier client, too");
            }
            for (const std::string& key : client.public_keys) {
                if (std::count(other.public_keys.begin(), other.public_keys.end(), key) > 0) {
                    return report(line, joined(kClients, "public_keys"),
                                  "one of them is the key of client " + other.name +
                                      ": each program needs a key of its own");
                }
            }
        }
        settings_.curve.clients.push_back(std::move(client));
    }

    void add_poll(PollSettings poll, const toml::table& table, std::uint32_t line) {
        if (poll.method.empty() || poll.topic.empty()) {
            return report(line, joined(kPolls, poll.method.empty() ? "method" : "topic"),
                          "is missing in this row");
        }
        if (poll.name.empty()) {
            poll.name = poll.method;
            if (const std::string problem = check_name(poll.name); !problem.empty()) {
                return report(line, joined(kPolls, "name"), problem);
            }
        }
        if (poll.name == kTransportBreaker) {
            return report(line, joined(kPolls, "name"),
                          "'" + poll.name + "' is the name of the transport's breaker");
        }
        const Millis most = poll.interval + kDeadlineSlack;
        if (!table.contains("deadline")) {
            poll.deadline = std::min(poll.deadline, most);
        } else if (poll.deadline > most) {
            return report(table.get("deadline")->source().begin.line, joined(kPolls, "deadline"),
                          format_duration(poll.deadline) + " is more than interval + 1s = " +
                              format_duration(most) + " (poll " + poll.name + ")");
        }
        for (const PollSettings& other : settings_.producer.polls) {
            if (other.name == poll.name) {
                return report(line, joined(kPolls, "name"),
                              "'" + poll.name + "' is the name of an earlier poll, too");
            }
            if (other.topic == poll.topic && other.key == poll.key) {
                return report(line, joined(kPolls, "topic"),
                              "'" + poll.topic + "' is fed by poll " + other.name +
                                  " already; give one of them a key of its own");
            }
        }
        settings_.producer.polls.push_back(std::move(poll));
    }

    Settings& settings_;
    Problems& problems_;
    std::vector<std::string>& notes_;
    const std::vector<Section> sections_;
    std::vector<std::string> known_;
    std::map<std::string, std::uint32_t> lines_;
};

// ------------------------------------------------------------------------------------------------------
// environment

std::vector<std::string> split_list(std::string_view text) {
    std::vector<std::string> items;
    while (!text.empty()) {
        const std::size_t comma = text.find(',');
        std::string_view item = text.substr(0, comma);
        text = comma == std::string_view::npos ? std::string_view() : text.substr(comma + 1);
        while (!item.empty() && item.front() == ' ') {
            item.remove_prefix(1);
        }
        while (!item.empty() && item.back() == ' ') {
            item.remove_suffix(1);
        }
        if (!item.empty()) {
            items.emplace_back(item);
        }
    }
    return items;
}

/// Reads a variable's text as the type of its setting; returns what is wrong, or nothing.
std::string set_from_text(const std::string& text, const Field& field) {
    if (auto* const* into = std::get_if<std::string*>(&field.target)) {
        return set_text(text, field, **into);
    }
    if (auto* const* into = std::get_if<Millis*>(&field.target)) {
        return set_duration(text, field, **into);
    }
    if (auto* const* into = std::get_if<std::vector<std::string>*>(&field.target)) {
        return set_list(split_list(text), field, **into);
    }
    if (auto* const* into = std::get_if<std::uint16_t*>(&field.target)) {
        std::int64_t value = 0;
        const char* end = text.data() + text.size();
        const auto parsed = std::from_chars(text.data(), end, value);
        if (parsed.ec != std::errc() || parsed.ptr != end) {
            return "'" + text + "' is not a whole number";
        }
        std::string problem = range_problem(value, field);
        if (problem.empty()) {
            **into = static_cast<std::uint16_t>(value);
        }
        return problem;
    }
    return "cannot be set here";
}

struct Variable {
    const char* name;
    std::string_view section;
    std::string_view field;
};

constexpr Variable kVariables[] = {
    {"SIGMAVAULT_RPC_URL", "producer", "engine_url"},
    {"SIGMAVAULT_HOST", "edge", "host"},
    {"SIGMAVAULT_PORT", "edge", "port"},
    {"SIGMAVAULT_DATA_DIR", "", "data_dir"},
    {"SIGMAVAULT_CORS_ORIGINS", "edge", "cors_origins"},
    {"SIGMAVAULT_JWT_SECRET", "auth", "secret"},
    {"SIGMAVAULT_WS_PING_INTERVAL", "edge", "ping_interval"},
    {"SIGMAVAULT_WS_PONG_TIMEOUT", "edge", "pong_timeout"},
};
constexpr const char* kRpcTimeout = "SIGMAVAULT_RPC_TIMEOUT";

/// An empty variable counts as not set.
std::string variable(const Environment& environment, const char* name) {
    const char* value = environment ? environment(name) : nullptr;
    return value == nullptr ? std::string() : std::string(value);
}

void apply_rpc_timeout(const std::string& text, Settings& settings, Problems& problems,
                       std::vector<std::string>& notes) {
    Millis timeout{0};
    const Field field{"deadline", &timeout, "", 10, 24 * kHour};
    if (const std::string problem = set_duration(text, field, timeout); !problem.empty()) {
        return problems.in_variable(kRpcTimeout, problem);
    }
    for (PollSettings& poll : settings.producer.polls) {
        poll.deadline = std::min(timeout, poll.interval + kDeadlineSlack);
        if (poll.deadline < timeout) {
            notes.push_back(std::string(kRpcTimeout) + ": " + format_duration(timeout) +
                            " is cut to " + format_duration(poll.deadline) + " for poll " +
                            poll.name + " (at most its interval + 1s)");
        }
    }
}

void apply_environment(const Environment& environment, Settings& settings, Problems& problems,
                       std::vector<std::string>& notes) {
    const std::vector<Section> sections = schema(settings);
    for (const Variable& known : kVariables) {
        const std::string text = variable(environment, known.name);
        if (text.empty()) {
            continue;
        }
        for (const Section& section : sections) {
            const Field* field =
                section.path == known.section ? find_field(section.fields, known.field) : nullptr;
            if (field == nullptr) {
                continue;
            }
            if (const std::string problem = set_from_text(text, *field); !problem.empty()) {
                problems.in_variable(known.name, problem);
            }
        }
    }
    if (const std::string text = variable(environment, kRpcTimeout); !text.empty()) {
        apply_rpc_timeout(text, settings, problems, notes);
    }
}

// -------------------------------------------------------------------------------------- rules that
// hold between keys

/// What is there by half. Whether the key is good, the edge says: the others do not need it.
void check_auth(const Settings& settings, const FileReader& file, Problems& problems,
                std::vector<std::string>& notes) {
    const AuthSettings& auth = settings.auth;
    const auto& origins = settings.edge.cors_origins;
    if (auth.required && !auth.cookie.empty() &&
        std::find(origins.begin(), origins.end(), "*") != origins.end()) {
        problems.at(file.line_of("auth.cookie"),
                    "auth.cookie: with edge.cors_origins = [\"*\"] any page on the web could use a "
                    "visitor's cookie; list the origins");
    }
    if (!auth.required && (!auth.roles.empty() || !auth.public_key_file.empty() ||
                           !auth.cookie.empty() || auth.query_token)) {
        notes.push_back(
            "auth: the rest of [auth] has no effect without required = true: everyone who "
            "connects sees everything");
    }
    if (auth.required && auth.allow_anonymous_lan) {
        notes.push_back("auth.allow_anonymous_lan has no effect with required = true");
    }
}

/// What is there by half. Whether the files can be used, each program says of its own
/// (read_curve).
void check_curve(const Settings& settings, const FileReader& file, Problems& problems) {
    const CurveSettings& curve = settings.curve;
    const auto at = [&](const std::string& key, const std::string& what) {
        problems.at(file.line_of(key), key + ": " + what);
    };
    const bool broker = !curve.broker_key_file.empty();
    const bool others = !curve.producer_key_file.empty() || !curve.edge_key_file.empty() ||
                        !curve.publish_key_file.empty();
    if (broker && curve.clients.empty()) {
        at("curve.broker_key_file",
           "no [[curve.client]] says whom the broker lets in, so nobody could connect to it");
    }
    if (!broker && !curve.clients.empty()) {
        at("curve.client",
           "whom the broker lets in has no effect without its own secret key: set "
           "curve.broker_key_file");
    }
    if (others && curve.broker_public_key.empty()) {
        at(!curve.producer_key_file.empty() ? "curve.producer_key_file"
           : !curve.edge_key_file.empty()   ? "curve.edge_key_file"
                                            : "curve.publish_key_file",
           "has no effect without curve.broker_public_key: put in what sigmacast keygen printed "
           "for the broker");
    }
    if (!others && !broker && !curve.broker_public_key.empty()) {
        at("curve.broker_public_key",
           "there is no secret key to connect with: set curve.producer_key_file, edge_key_file or "
           "publish_key_file");
    }
    for (const auto& [key, endpoint] : {std::pair{"broker.ingest", &settings.broker.ingest},
                                        std::pair{"broker.feed", &settings.broker.feed},
                                        std::pair{"broker.repair", &settings.broker.repair}}) {
        if (is_open(*endpoint) && !curve.used()) {
            at(key, "'" + *endpoint +
                        "' is open to the network, and the programs do not authenticate each "
                        "other: use 127.0.0.1 or ipc, or give each program a key in [curve]");
        }
    }
}

/// Whether they can be used, the edge says.
void check_tls(const EdgeSettings& edge, const FileReader& file, Problems& problems) {
    if (edge.tls_certificate.empty() != edge.tls_key.empty()) {
        const bool key = edge.tls_key.empty();
        problems.at(file.line_of(key ? "edge.tls_certificate" : "edge.tls_key"),
                    std::string(key ? "edge.tls_certificate: edge.tls_key"
                                    : "edge.tls_key: edge.tls_certificate") +
                        " is missing: TLS needs both files, a plain edge neither");
    }
}

void check_rules(const Settings& settings, const FileReader& file, Problems& problems,
                 std::vector<std::string>& notes) {
    const AuthSettings& auth = settings.auth;
    if (!is_loopback(settings.edge.host) && !auth.required) {
        if (auth.allow_anonymous_lan) {
            notes.push_back("edge.host: the feed is open to anyone who reaches " +
                            settings.edge.host + " (auth.allow_anonymous_lan = true)");
        } else {
            problems.at(file.line_of("edge.host"),
                        "edge.host: '" + settings.edge.host +
                            "' is open to the network, and clients are not authenticated: use "
                            "127.0.0.1, or say required = true (or allow_anonymous_lan = true) in "
                            "[auth]");
        }
    }
    check_auth(settings, file, problems, notes);
    check_tls(settings.edge, file, problems);
    check_curve(settings, file, problems);
    if (!is_loopback(settings.engine.host)) {
        problems.at(file.line_of("engine.host"),
                    "engine.host: '" + settings.engine.host +
                        "' is open to the network, and the engine has no authentication: use "
                        "127.0.0.1");
    }
}

void fill_in(Settings& settings) {
    settings.producer.engine_url = engine_base(settings.producer.engine_url);
    for (PollSettings& poll : settings.producer.polls) {
        if (poll.error_code.empty()) {
            for (const char c : poll.name) {
                poll.error_code += c >= 'a' && c <= 'z'   ? static_cast<char>(c - 'a' + 'A')
                                   : c >= '0' && c <= '9' ? c
                                                          : '_';
            }
            poll.error_code += "_FAILED";
        }
    }
}

// ----------------------------------------------------------------------------------------------------------
// writing

std::string quoted(const std::string& text) {
    std::string result = "\"";
    for (const char c : text) {
        if (c == '"' || c == '\\') {
            result += '\\';
        }
        result += c;
    }
    return result + "\"";
}

struct Writer {
    std::string operator()(const std::string* value) const {
        const bool literal =
            value->find('"') != std::string::npos && value->find('\'') == std::string::npos;
        return literal ? "'" + *value + "'" : quoted(*value);
    }
    std::string operator()(const bool* value) const { return *value ? "true" : "false"; }
    template <class Number>
    std::string operator()(const Number* value) const {
        return std::to_string(*value);
    }
    std::string operator()(const Millis* value) const { return quoted(format_duration(*value)); }
    std::string operator()(const std::vector<std::string>* value) const {
        std::string text;
        for (const std::string& item : *value) {
            text += (text.empty() ? "" : ", ") + quoted(item);
        }
        return "[" + text + "]";
    }
    std::string operator()(const Names* value) const {
        std::string text;
        for (const auto& [from, to] : *value) {
            text += (text.empty() ? " " : ", ") + quoted(from) + " = " + quoted(to);
        }
        return text.empty() ? "{}" : "{" + text + " }";
    }
};

void append_comment(std::string& out, std::string_view comment) {
    while (!comment.empty()) {
        const std::size_t end = comment.find('\n');
        out += "# " + std::string(comment.substr(0, end)) + "\n";
        comment = end == std::string_view::npos ? std::string_view() : comment.substr(end + 1);
    }
}

void append_section(std::string& out, const Section& section) {
    if (!section.path.empty()) {
        out += "\n";
    }
    append_comment(out, section.comment);
    out += section.path.empty() ? "\n" : "[" + std::string(section.path) + "]\n";
    for (const Field& field : section.fields) {
        append_comment(out, field.comment);
        out += std::string(field.name) + " = " + std::visit(Writer{}, field.target) + "\n";
    }
}

/// Only what differs from an empty row, so that eight polls can be read at a glance.
void append_polls(std::string& out, std::vector<PollSettings>& polls) {
    PollSettings empty;
    const std::vector<Field> plain = poll_fields(empty);
    out += "\n# Polls, one row each; rows here replace the default ones, which are these. Keys:\n";
    for (const Field& field : plain) {
        out += "#   " + std::string(field.name) + ": " + std::string(field.comment) + "\n";
    }
    for (PollSettings& poll : polls) {
        out += "\n[[producer.poll]]\n";
        const std::vector<Field> fields = poll_fields(poll);
        for (std::size_t i = 0; i < fields.size(); ++i) {
            const std::string value = std::visit(Writer{}, fields[i].target);
            const bool timing = fields[i].name == "interval" || fields[i].name == "deadline";
            if (timing || value != std::visit(Writer{}, plain[i].target)) {
                out += std::string(fields[i].name) + " = " + value + "\n";
            }
        }
    }
}

/// There are none by default; an example to start from.
void append_roles(std::string& out) {
    RoleSettings example{.name = "viewer", .topics = {"system.status", "agent.*"}};
    out += "\n# Roles: a token sees the topics of all its roles; without a row here it sees all.\n";
    out += "# [[auth.role]]\n";
    for (const Field& field : role_fields(example)) {
        out += "# " + std::string(field.name) + " = " + std::visit(Writer{}, field.target) +
               "  # " + std::string(field.comment) + "\n";
    }
}

void append_curve_clients(std::string& out) {
    CurveClientSettings example{.name = "edge-2",
                                .public_keys = {"Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID"},
                                .may = {"read"}};
    out += "\n# Whom the broker lets in; one row a program.\n# [[curve.client]]\n";
    for (const Field& field : curve_client_fields(example)) {
        out += "# " + std::string(field.name) + " = " + std::visit(Writer{}, field.target) +
               "  # " + std::string(field.comment) + "\n";
    }
}

/// The contract's polls; their codes are those that old clients know, and the same pattern.
std::vector<PollSettings> default_polls() {
    struct Row {
        const char* method;
        const char* params;
        const char* topic;
        const char* key;
        const char* mapper;
        const char* error_code;
    };
    constexpr Row kRows[] = {
        {"system.status", "{}", "system.status", "", "system", "SYSTEM_STATUS_FAILED"},
        {"compression.queue.running", R"({"include_pending":true,"limit":50})",
         "compression.update", "", "jobs", "COMPRESSION_JOBS_FAILED"},
        {"agents.list", "{}", "agent.status", "", "agents", "AGENT_STATUS_FAILED"},
        {"storage.pools.list", "", "storage.update", "pools", "storage", "STORAGE_POOLS_FAILED"},
        {"storage.disks.list", "", "storage.update", "disks", "storage", "STORAGE_DISKS_FAILED"},
        {"agents.scheduler.metrics", "", "scheduler.metrics", "", "as_is",
         "SCHEDULER_METRICS_FAILED"},
        {"agents.recovery.status", "", "recovery.status", "", "as_is", "RECOVERY_STATUS_FAILED"},
        {"agents.tuning.status", "", "tuning.status", "", "as_is", "TUNING_STATUS_FAILED"},
    };
    std::vector<PollSettings> polls;
    for (const Row& row : kRows) {
        PollSettings& poll = polls.emplace_back();
        poll.name = row.method;
        poll.method = row.method;
        poll.params = row.params;
        poll.topic = row.topic;
        poll.key = row.key;
        poll.mapper = row.mapper;
        poll.error_code = row.error_code;
    }
    return polls;
}

}  // namespace

Settings default_settings() {
    Settings settings;
    settings.producer.polls = default_polls();
    fill_in(settings);
    return settings;
}

Result<Settings> parse_settings(std::string_view text, const std::string& name,
                                const Environment& environment, std::vector<std::string>& notes,
                                const std::function<void(Settings&)>& command_line) {
    Settings settings = default_settings();
    Problems problems(name);
    FileReader file(settings, problems, notes);
    try {
        file.read(toml::parse(text, name));
    } catch (const toml::parse_error& error) {
        problems.at(error.source().begin.line, std::string(error.description()));
        return problems.error();  // Not TOML: nothing else can be told.
    }
    apply_environment(environment, settings, problems, notes);
    if (command_line) {
        command_line(settings);
    }
    check_rules(settings, file, problems, notes);
    if (!problems.none()) {
        return problems.error();
    }
    fill_in(settings);
    return settings;
}

Result<Settings> load_settings(const std::string& path, const Environment& environment,
                               std::vector<std::string>& notes,
                               const std::function<void(Settings&)>& command_line) {
    std::string text;
    if (!path.empty()) {
        std::ifstream file(path, std::ios::binary);
        if (file) {
            text.resize(kFileBytesMax + 1);
            file.read(text.data(), static_cast<std::streamsize>(text.size()));
            text.resize(static_cast<std::size_t>(file.gcount()));
        }
        if (!file.eof() || file.bad()) {
            return text.size() > kFileBytesMax
                       ? Error{Errc::kTooLarge, path + ": is longer than 1 MiB"}
                       : Error{Errc::kNotFound, path + ": cannot be read: " + std::strerror(errno)};
        }
    }
    return parse_settings(text, path, environment, notes, command_line);
}

std::string default_config_text() {
    Settings settings = default_settings();
    std::string out;
    for (const Section& section : schema(settings)) {
        append_section(out, section);
        if (section.path == "producer.transport_breaker") {
            append_polls(out, settings.producer.polls);
        }
    }
    append_roles(out);
    append_curve_clients(out);
    return out;
}

std::string engine_base(std::string_view url) {
    const auto trim_slashes = [&] {
        while (!url.empty() && url.back() == '/') {
            url.remove_suffix(1);
        }
    };
    trim_slashes();
    constexpr std::string_view kRpc = "/rpc";
    if (url.size() > kRpc.size() && url.substr(url.size() - kRpc.size()) == kRpc) {
        url.remove_suffix(kRpc.size());
        trim_slashes();
    }
    return std::string(url);
}

}  // namespace sigmacast
