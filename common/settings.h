// One configuration file (TOML) for all programs, read and checked as a whole at start: unknown
// keys, wrong types and values out of range are refused by file, line and key. The environment
// names of the original deployment override the file; the command line overrides both. Every
// setting has a default that works.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "common/time.h"

namespace sigmacast {

/// A poll: one method of the engine, and what becomes of its answer.
struct PollSettings {
    std::string name;  // Unique; the `poll` of reports and breakers.
    std::string method;
    std::string params;  // JSON text; empty: no params member.
    Millis interval{5000};
    Millis deadline{3000};  // Never more than interval + 1 s (promise P4).
    std::string topic;
    std::string key;                            // Fixed key; empty: none, or the mapper's.
    std::string mapper = "as_is";               // as_is, system, jobs, agents, storage
    std::string error_code;                     // What a failure is called; default NAME_FAILED.
    std::map<std::string, std::string> rename;  // as_is: field of the answer -> field of the event.
    std::vector<std::string> ignore;            // as_is: fields that do not make a value new.
};

struct BreakerSettings {
    std::uint32_t failures = 5;  // Consecutive ones that open it.
    Millis reset{5 * 60 * 1000};
};

struct EngineSettings {  // Our own engine.
    std::string host = "127.0.0.1";
    std::uint16_t port = 5000;
    std::vector<std::string> compress_folders;  // Absolute; empty: samples in the data folder.
    std::uint32_t compress_workers = 2;
    std::uint32_t compress_level = 3;  // Of zstd.
};

struct ProducerSettings {
    std::string origin;  // Empty: the host's name, saved at the first start.
    std::string engine_url = "http://127.0.0.1:5000/api/v1";
    std::size_t reply_bytes_max = 8u << 20;
    Millis health_interval{10'000};  // While the transport breaker is open; 0 turns it off.
    Millis unsupported_retry{5 * 60 * 1000};
    Millis rpc_error_interval{30'000};
    Millis jitter{250};  // Each poll starts up to this much later than due.
    BreakerSettings poll_breaker;
    BreakerSettings transport_breaker;
    std::uint16_t admin_port = 12091;
    std::vector<PollSettings> polls;  // Default: the contract's eight.
};

struct BrokerSettings {
    std::string ingest = "tcp://127.0.0.1:12070";
    std::string feed = "tcp://127.0.0.1:12071";
    std::string repair = "tcp://127.0.0.1:12072";
    std::string database;  // Empty: sigmacast.db in the data folder.
    Millis retain_values{6 * 3600 * 1000};
    Millis retain_events{14LL * 24 * 3600 * 1000};
    std::uint64_t retain_bytes = 512u << 20;
    std::uint16_t admin_port = 12092;
};

struct EdgeSettings {
    std::string host = "127.0.0.1";
    std::uint16_t port = 12080;
    std::string tls_certificate;  // PEM, both or neither; empty: no TLS.
    std::string tls_key;
    std::vector<std::string> topics;  // Empty: all.
    std::string legacy_origin;        // Empty: the first that declared polls.
    std::vector<std::string> cors_origins;
    Millis ping_interval{30'000};
    Millis pong_timeout{60'000};
    std::uint32_t io_threads = 1;
    std::string io_uring = "auto";  // auto, on or off.
    bool compression = true;        // For v1 clients that offer it.
    Millis flush_interval{0};       // 0: at once, always.
    Millis heartbeat_interval{5'000};
    Millis handshake_timeout{30'000};
    Millis write_timeout{60'000};
    Millis drain_notice{500};
    Millis drain_time{6'000};
    std::size_t header_bytes_max = 8u << 10;
    std::size_t client_message_bytes_max = 65'536;
    std::size_t client_messages_per_second = 100;  // 0: any number, as for the two below.
    std::size_t client_subscriptions_max = 256;
    std::size_t client_answer_bytes_max = 64u << 10;
    std::size_t client_queue_bytes_max = 4u << 20;
    std::size_t clients_max = 18'000;
    std::size_t clients_per_address_max = 1'000;
    std::size_t clients_per_user_max = 100;
    std::size_t clients_waiting_max = 1'024;
};

/// What a token that names the role lets its bearer see.
struct RoleSettings {
    std::string name;
    std::vector<std::string> topics;  // Names, "agent.*" for all below agent, "*" for all.
};

struct AuthSettings {                 // Who may connect to an edge, and see what.
    bool required = false;            // The secret alone switches nothing on.
    std::string algorithm = "HS256";  // Or RS256.
    std::string secret;               // HS256; never printed, never logged.
    std::string public_key_file;      // RS256: PEM.
    std::string issuer;               // Empty: any.
    std::string audience;             // Empty: any.
    std::string roles_claim = "roles";
    std::string cookie;                // Name of an HttpOnly cookie with the token; empty: none.
    bool query_token = false;          // Whether ?token= counts.
    bool allow_anonymous_lan = false;  // P10: else an edge beyond loopback needs `required`.
    Millis first_message_timeout{5'000};
    std::vector<RoleSettings> roles;  // Empty: whoever has a good token sees everything.
};

/// A program that the broker lets in by its key.
struct CurveClientSettings {
    std::string name;                       // For the broker's log.
    std::vector<std::string> public_keys;   // Z85; two while one is being replaced.
    std::vector<std::string> may;           // publish, read
    std::vector<std::string> origins = {};  // That it may publish as; empty: any.
};

/// Between programs on different hosts; see common/curve.h. Nothing set: plain, on one host.
struct CurveSettings {
    std::string broker_key_file;    // Files with a secret key each.
    std::string broker_public_key;  // What the others expect the broker to have.
    std::string producer_key_file;
    std::string edge_key_file;
    std::string publish_key_file;
    std::vector<CurveClientSettings> clients;

    [[nodiscard]] bool used() const {
        return !(broker_key_file.empty() && broker_public_key.empty() &&
                 producer_key_file.empty() && edge_key_file.empty() && publish_key_file.empty() &&
                 clients.empty());
    }
};

struct Settings {
    std::string data_dir = "data";
    std::string log_level = "info";
    EngineSettings engine;
    ProducerSettings producer;
    BrokerSettings broker;
    EdgeSettings edge;
    AuthSettings auth;
    CurveSettings curve;
};

/// Looks an environment variable up; nullptr where it is not set.
using Environment = std::function<const char*(const char*)>;

/// The defaults, with the contract's polls.
Settings default_settings();

/// Reads and checks a file (empty path: defaults), then the environment. Every problem is found in
/// one pass; the error's message has one line each: `sigmacast.toml:12: broker.fed: unknown key;
/// did you mean broker.feed?` `notes` receives what was adjusted (a capped timeout), for the log.
/// `command_line`, where given, changes the settings last, before the rules that hold between
/// settings (P10, deadlines) are checked.
Result<Settings> load_settings(const std::string& path, const Environment& environment,
                               std::vector<std::string>& notes,
                               const std::function<void(Settings&)>& command_line = nullptr);

/// The same from text, with a name for its messages.
Result<Settings> parse_settings(std::string_view text, const std::string& name,
                                const Environment& environment, std::vector<std::string>& notes,
                                const std::function<void(Settings&)>& command_line = nullptr);

/// A commented configuration file with every default, as ops/run writes at first start.
std::string default_config_text();

/// http://host:5000/api/v1 or the same with a trailing /rpc or slash -> the base without them.
std::string engine_base(std::string_view url);

}  // namespace sigmacast
