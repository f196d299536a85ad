// What was asked for on the command line of `sigmacast`: one struct for each subcommand, filled and
// checked, with defaults that work. CLI11 stays in the .cc. Pure apart from the texts of --help;
// runs on: the main thread.
//
//     Parsed parsed = parse_command_line(argc, argv);
//     if (parsed.exit_code) { print parsed.text; return *parsed.exit_code; }
//     std::visit(run, parsed.command);
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "common/result.h"
#include "common/time.h"
#include "common/tls.h"

namespace sigmacast::cli {

inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;  // Not ready, not durable, not reached.
inline constexpr int kExitUsage = 2;   // The command line or the configuration is wrong.

/// Where a server is: scheme://host:port/path, taken apart. `path` begins with a slash.
struct Endpoint {
    std::string host;
    std::uint16_t port = 0;
    std::string path;
    bool tls = false;

    /// host:port, with brackets around an IPv6 address.
    [[nodiscard]] std::string authority() const;
};

/// `scheme` is ws or http, and either is taken for the other, with an s for TLS. A bare host:port
/// is completed; the port defaults to `default_port`, the path to `path`. Errors: kInvalid, naming
/// what is wrong with the URL.
Result<Endpoint> parse_endpoint(std::string_view url, std::string_view scheme,
                                std::string_view path, std::uint16_t default_port = 12080);

struct TailCommand {
    Endpoint server;
    std::string url;        // As it is shown.
    bool named = false;     // The address was given; else the instance of this machine has it.
    std::string data = {};  // Of --data: whose address it is.
    tls::Trust trust = {};  // For wss and https; so in all of them.
    std::string token_file = {};  // Empty: SIGMACAST_TOKEN, where it is set.
    std::vector<std::string> topics = {"*"};
    bool json = false;
    bool ticks = false;
    std::optional<std::uint64_t> count;
    std::optional<Millis> duration;
};

struct StateCommand {
    Endpoint server;
    std::string url;
    bool named = false;
    std::string data = {};
    std::vector<std::string> topics = {};  // Empty: all.
    std::string token_file = {};           // Empty: SIGMACAST_TOKEN, where it is set.
    tls::Trust trust = {};
    bool json = false;
};

struct StatusCommand {
    std::string config;
    std::string data = {};
    std::string token_file = {};
    // Absent: those that the instance has; of a configuration two, and those that follow.
    std::optional<std::uint16_t> edges;
    bool json = false;
};

struct LogCommand {
    std::string database;
    std::string topic;
    std::string origin;
    std::uint64_t from = 0;
    std::uint64_t to = INT64_MAX;  // The largest position that a log has.
    std::string since;             // RFC 3339, or a duration before now.
    std::string until;
    std::uint64_t limit = 1000;
    bool json = false;
};

struct PublishCommand {
    std::string config;
    std::string data_dir;
    std::string origin;  // Empty: publish@<host>.
    bool state = false;
    Millis timeout{30'000};
};

struct CompressCommand {
    std::string file;
    Endpoint engine;
    tls::Trust trust = {};
    std::string priority = "normal";
};

struct KeygenCommand {
    std::string out = ".";
    std::string show;  // A file with a secret key: no new one is made.
};

using Command = std::variant<std::monostate, TailCommand, StateCommand, StatusCommand, LogCommand,
                             PublishCommand, CompressCommand, KeygenCommand>;

struct Parsed {
    Command command;
    std::optional<int> exit_code;  // Set for --help, --version and mistakes: print `text`, end.
    std::string text;
};

Parsed parse_command_line(int argc, const char* const* argv);

/// The token to send to an edge: of that file, else of `environment` (SIGMACAST_TOKEN, may be
/// null); empty: none. Errors: kInvalid, naming the file or the variable and nothing of what is in
/// it.
Result<std::string> read_token(const std::string& file, const char* environment);

/// A time as --since and --until take it: RFC 3339, or a Go duration before `now`. Errors:
/// kInvalid.
Result<Wall> parse_moment(std::string_view text, Wall now);

}  // namespace sigmacast::cli
