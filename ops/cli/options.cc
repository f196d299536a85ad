#include "ops/cli/options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <fstream>
#include <sstream>

namespace sigmacast::cli {
namespace {

constexpr std::uint16_t kEnginePort = 5000;
constexpr std::size_t kTokenBytesMax = 8'192;  // An edge refuses longer ones.

Error invalid(std::string message) {
    return {Errc::kInvalid, std::move(message)};
}

/// An address has a scheme, a port or a path, or is an IPv4 address or localhost; all else is the
/// name of a topic, which may have dots as a host has.
bool looks_like_server(std::string_view text) {
    return text.find_first_of(":/") != std::string_view::npos || text == "localhost" ||
           (text.find('.') != std::string_view::npos &&
            text.find_first_not_of("0123456789.") == std::string_view::npos);
}

Result<std::uint16_t> parse_port(std::string_view digits, std::string_view url) {
    unsigned port = 0;
    const auto [end, ec] = std::from_chars(digits.data(), digits.data() + digits.size(), port);
    if (ec != std::errc{} || end != digits.data() + digits.size() || port == 0 || port > 65535) {
        return invalid("'" + std::string(url) + "': '" + std::string(digits) +
                       "' is not a port (1 to 65535)");
    }
    return static_cast<std::uint16_t>(port);
}

/// What the options are read into before they are checked.
struct Raw {
    std::vector<std::string> tail_arguments;
    std::vector<std::string> state_arguments;
    std::string duration;
    std::string timeout = "30s";
    std::string kind = "event";
    std::uint64_t count = 0;
    std::uint16_t edges = 0;
    TailCommand tail;
    StateCommand state;
    StatusCommand status;
    LogCommand log;
    PublishCommand publish;
    std::string engine = "http://127.0.0.1:5000/api/v1";
    CompressCommand compress;
    KeygenCommand keygen;
};

struct Commands {
    CLI::App* tail;
    CLI::App* state;
    CLI::App* status;
    CLI::App* log;
    CLI::App* publish;
    CLI::App* compress;
    CLI::App* keygen;
};

void declare_token(CLI::App& sub, std::string& file) {
    sub.add_option("--token-file", file,
                   "File with the token that the edge asks for (default: SIGMACAST_TOKEN)")
        ->type_name("FILE");
}

void declare_data(CLI::App& sub, std::string& folder) {
    sub.add_option("--data", folder,
                   "Data folder of the instance to look at, as for ops/run (default: the one that "
                   "this program belongs to)")
        ->type_name("DIR");
}

constexpr const char* kAddressThenTopics =
    "Address of an edge, as http://nas:12080 or nas:12080 (default: the first edge of this "
    "machine's instance, else 127.0.0.1:12080), then topics (default: all)";

void declare_trust(CLI::App& sub, tls::Trust& trust) {
    CLI::Option* ca =
        sub.add_option("--ca", trust.ca_file,
                       "https, wss: believe these authorities (PEM), not the system's")
            ->type_name("FILE");
    CLI::Option* pin =
        sub.add_option("--pin", trust.pin_file,
                       "https, wss: believe this certificate (PEM) alone, whatever its name")
            ->type_name("FILE")
            ->excludes(ca);
    sub.add_flag("--insecure", trust.insecure,
                 "https, wss: believe anybody; what you see, and your token, may be another's")
        ->excludes(ca)
        ->excludes(pin);
}

void declare_tail(CLI::App& sub, Raw& raw) {
    sub.add_option("arguments", raw.tail_arguments, kAddressThenTopics)
        ->type_name("[URL] [TOPIC...]");
    declare_data(sub, raw.tail.data);
    sub.add_flag("--json", raw.tail.json, "Print each message as one line of JSON, as it came");
    sub.add_flag("--ticks", raw.tail.ticks, "Show also that values were confirmed unchanged");
    sub.add_option("--count", raw.count, "End after this many values, events and transitions")
        ->check(CLI::PositiveNumber)
        ->type_name("N");
    declare_token(sub, raw.tail.token_file);
    declare_trust(sub, raw.tail.trust);
    sub.add_option("--for", raw.duration, "End after this time, as 30s or 5m")
        ->type_name("DURATION");
    sub.footer(
        "Colours are used on a terminal, unless NO_COLOR is set. Ends with 0, or with 1 where it\n"
        "was refused for good, or, with --count or --for, no edge was reached within 10 s.");
}

void declare_state(CLI::App& sub, Raw& raw) {
    sub.add_option("arguments", raw.state_arguments, kAddressThenTopics)
        ->type_name("[URL] [TOPIC...]");
    declare_data(sub, raw.state.data);
    declare_token(sub, raw.state.token_file);
    declare_trust(sub, raw.state.trust);
    sub.add_flag("--json", raw.state.json,
                 "Print the edge's answer as it came; with topics, one line for each");
}

void declare_status(CLI::App& sub, Raw& raw) {
    declare_data(sub, raw.status.data);
    sub.add_option("-c,--config", raw.status.config,
                   "Take the ports from this configuration, for what ops/run did not start")
        ->type_name("FILE");
    sub.add_option("--edges", raw.edges,
                   "How many edges there should be (default: as many as were started; with "
                   "--config 2)")
        ->check(CLI::Range(1, 64))
        ->type_name("N");
    declare_token(sub, raw.status.token_file);
    sub.add_flag("--json", raw.status.json, "Print one JSON object");
    sub.footer(
        "Without --data and --config it looks at the instance that runs: of SIGMAVAULT_DATA_DIR,\n"
        "of the project that this program was built in, of /var/lib/sigmacast; where there is\n"
        "none, at the ports of the defaults and the environment. Ends with 1 when something is\n"
        "not ready, with 2 when it was called wrongly.");
}

void declare_log(CLI::App& sub, Raw& raw) {
    sub.add_option("database", raw.log.database, "The broker's database, as data/sigmacast.db")
        ->required()
        ->type_name("DB");
    sub.add_option("--topic", raw.log.topic, "Only this topic")->type_name("TOPIC");
    sub.add_option("--origin", raw.log.origin, "Only this origin")->type_name("NAME");
    sub.add_option("--from", raw.log.from, "From this position on")->type_name("POS");
    sub.add_option("--to", raw.log.to, "Up to this position")->type_name("POS");
    sub.add_option("--since", raw.log.since,
                   "From this time on: RFC 3339, or 10m for ten minutes ago")
        ->type_name("TIME");
    sub.add_option("--until", raw.log.until, "Up to this time")->type_name("TIME");
    sub.add_option("--limit", raw.log.limit, "At most this many rows, the newest (default 1000)")
        ->check(CLI::Range(1, 1'000'000))
        ->type_name("N");
    sub.add_flag("--json", raw.log.json, "Print each row as one line of JSON");
}

void declare_publish(CLI::App& sub, Raw& raw) {
    sub.add_option("-c,--config", raw.publish.config,
                   "Configuration file, for broker and data folder")
        ->type_name("FILE");
    sub.add_option("--data-dir", raw.publish.data_dir,
                   "Folder for lock and counter (default: data_dir of --config, else "
                   "$XDG_STATE_HOME/sigmacast or ~/.local/state/sigmacast)")
        ->type_name("DIR");
    sub.add_option("--origin", raw.publish.origin, "Name to publish under (default publish@HOST)")
        ->type_name("NAME");
    sub.add_option("--kind", raw.kind,
                   "What a line is where it has no `kind` of its own (default event)")
        ->check(CLI::IsMember({"event", "state"}))
        ->type_name("event|state");
    sub.add_option("--timeout", raw.timeout, "How long the broker may take to answer (default 30s)")
        ->type_name("DURATION");
    sub.footer(
        "Reads one event a line: {\"type\":\"note\",\"key\":\"k\",\"data\":{\"text\":\"hello\"}}. "
        "Ends with 1 when a\n"
        "line was bad or not everything is durable. A second one under the same name waits.");
}

void declare_compress(CLI::App& sub, Raw& raw) {
    sub.add_option("file", raw.compress.file, "File to compress, below a folder of the engine's")
        ->required()
        ->type_name("FILE");
    sub.add_option("--engine", raw.engine, "Address of the engine (default " + raw.engine + ")")
        ->type_name("URL");
    declare_trust(sub, raw.compress.trust);
    sub.add_option("--priority", raw.compress.priority, "Which jobs go first (default normal)")
        ->check(CLI::IsMember({"low", "normal", "high", "critical"}))
        ->type_name("low|normal|high|critical");
    sub.footer(
        "The engine writes FILE.zst beside the file, which stays as it is. Ends with 0 when it is\n"
        "done; Ctrl-C cancels the job.");
}

void declare_keygen(CLI::App& sub, Raw& raw) {
    CLI::Option* out = sub.add_option("--out", raw.keygen.out,
                                      "Where to put it (default: sigmacast.key in this folder)")
                           ->type_name("FILE|DIR");
    sub.add_option("--show", raw.keygen.show,
                   "Print the public key of this file, and make no new one")
        ->excludes(out)
        ->type_name("FILE");
    sub.footer(
        "Prints the public key. The secret one is in FILE, for its owner alone, the public one in\n"
        "FILE.pub too; nothing is overwritten. Each program has a key of its own: [curve] of the\n"
        "configuration names its file.");
}

Commands declare(CLI::App& app, Raw& raw) {
    app.require_subcommand(1);
    app.set_version_flag("--version", std::string("sigmacast ") + SIGMACAST_VERSION);
    const Commands commands{
        app.add_subcommand("tail", "Follow the feed, with the age and quality of every value"),
        app.add_subcommand("state", "The newest value of every topic, as an edge knows it"),
        app.add_subcommand("status", "Which process is ready, breakers, the age of every topic"),
        app.add_subcommand("log", "Read the broker's event log"),
        app.add_subcommand("publish", "Publish events from standard input"),
        app.add_subcommand("compress", "Have the engine compress a file, and watch it"),
        app.add_subcommand("keygen", "Make a key pair, for programs on different hosts")};
    declare_tail(*commands.tail, raw);
    declare_state(*commands.state, raw);
    declare_status(*commands.status, raw);
    declare_log(*commands.log, raw);
    declare_publish(*commands.publish, raw);
    declare_compress(*commands.compress, raw);
    declare_keygen(*commands.keygen, raw);
    for (CLI::App* sub : app.get_subcommands({})) {
        sub->set_version_flag("--version", std::string("sigmacast ") + SIGMACAST_VERSION);
    }
    return commands;
}

/// [URL] [TOPIC...]: the address is taken off, where the first is one.
Result<std::optional<std::string>> take_address(std::vector<std::string>& arguments,
                                                const std::string& data) {
    if (arguments.empty() || !looks_like_server(arguments.front())) {
        return std::optional<std::string>();
    }
    if (!data.empty()) {
        return invalid("--data and the address '" + arguments.front() +
                       "' both say which edge: give one of them");
    }
    std::optional<std::string> url = std::move(arguments.front());
    arguments.erase(arguments.begin());
    return url;
}

Result<Command> finish_tail(Raw& raw) {
    TailCommand& tail = raw.tail;
    const auto given = take_address(raw.tail_arguments, tail.data);
    if (!given) {
        return given.error();
    }
    tail.named = given->has_value();
    const std::string url = given->value_or("ws://127.0.0.1:12080/ws");
    if (!raw.tail_arguments.empty()) {
        tail.topics = raw.tail_arguments;
    }
    const Result<Endpoint> server = parse_endpoint(url, "ws", "/ws");
    if (!server) {
        return server.error();
    }
    tail.server = *server;
    // Without the query, in which there may be a token.
    tail.url = (server->tls ? "wss://" : "ws://") + server->authority() +
               server->path.substr(0, server->path.find('?'));
    if (raw.count > 0) {
        tail.count = raw.count;
    }
    if (!raw.duration.empty()) {
        const Result<Millis> duration = parse_duration(raw.duration);
        if (!duration) {
            return duration.error().within("--for");
        }
        tail.duration = *duration;
    }
    return Command(tail);
}

Result<Command> finish_state(Raw& raw) {
    const auto given = take_address(raw.state_arguments, raw.state.data);
    if (!given) {
        return given.error();
    }
    raw.state.named = given->has_value();
    raw.state.topics = raw.state_arguments;
    const Result<Endpoint> server =
        parse_endpoint(given->value_or("http://127.0.0.1:12080"), "http", "/");
    if (!server) {
        return server.error();
    }
    raw.state.server = *server;
    raw.state.url = (server->tls ? "https://" : "http://") + server->authority();
    return Command(raw.state);
}

Result<Command> finish_log(const Raw& raw) {
    if (raw.log.from > raw.log.to) {
        return invalid("--from is beyond --to");
    }
    for (const std::string* moment : {&raw.log.since, &raw.log.until}) {
        if (!moment->empty()) {
            const Result<Wall> parsed = parse_moment(*moment, Wall{});
            if (!parsed) {
                return parsed.error();
            }
        }
    }
    return Command(raw.log);
}

Result<Command> finish_publish(Raw& raw) {
    const Result<Millis> timeout = parse_duration(raw.timeout);
    if (!timeout) {
        return timeout.error().within("--timeout");
    }
    if (*timeout <= Millis{0}) {
        return invalid("--timeout has to be above zero");
    }
    raw.publish.timeout = *timeout;
    raw.publish.state = raw.kind == "state";
    return Command(raw.publish);
}

Result<Command> finish_compress(Raw& raw) {
    if (raw.compress.file.empty()) {
        return invalid("FILE is empty");
    }
    const Result<Endpoint> engine = parse_endpoint(raw.engine, "http", "/api/v1", kEnginePort);
    if (!engine) {
        return engine.error().within("--engine");
    }
    raw.compress.engine = *engine;
    return Command(raw.compress);
}

Result<Command> finish(const Commands& commands, Raw& raw) {
    if (commands.tail->parsed()) {
        return finish_tail(raw);
    }
    if (commands.state->parsed()) {
        return finish_state(raw);
    }
    if (commands.status->parsed()) {
        if (!raw.status.data.empty() && !raw.status.config.empty()) {
            return invalid("--data and --config both say which ports: give one of them");
        }
        if (raw.edges > 0) {
            raw.status.edges = raw.edges;
        }
        return Command(raw.status);
    }
    if (commands.log->parsed()) {
        return finish_log(raw);
    }
    if (commands.keygen->parsed()) {
        return Command(raw.keygen);
    }
    if (commands.compress->parsed()) {
        return finish_compress(raw);
    }
    return finish_publish(raw);
}

}  // namespace

std::string Endpoint::authority() const {
    const bool v6 = host.find(':') != std::string::npos;
    return (v6 ? "[" + host + "]" : host) + ":" + std::to_string(port);
}

Result<Endpoint> parse_endpoint(std::string_view url, std::string_view scheme,
                                std::string_view path, std::uint16_t default_port) {
    const std::string shown(url);
    bool tls = false;
    std::string_view rest = url;
    if (const auto mark = rest.find("://"); mark != std::string_view::npos) {
        std::string_view given = rest.substr(0, mark);
        tls = given.ends_with('s') && given != "ws";
        given.remove_suffix(tls ? 1 : 0);
        if (given != "ws" && given != "http") {
            return invalid("'" + shown + "': expected " + std::string(scheme) + "://host:port");
        }
        rest.remove_prefix(mark + 3);
    }
    Endpoint endpoint{.host = {}, .port = default_port, .path = std::string(path), .tls = tls};
    const std::string_view authority = rest.substr(0, rest.find_first_of("/?#"));
    if (authority.size() < rest.size() && rest.substr(authority.size()) != "/") {
        endpoint.path = rest.substr(authority.size());
    }
    std::string_view port;
    if (authority.starts_with('[')) {
        const auto end = authority.find(']');
        if (end == std::string_view::npos) {
            return invalid("'" + shown + "': the bracket of the IPv6 address is not closed");
        }
        endpoint.host = authority.substr(1, end - 1);
        port = authority.substr(end + 1);
    } else {
        endpoint.host = authority.substr(0, authority.find(':'));
        port = authority.substr(endpoint.host.size());
    }
    if (endpoint.host.empty() || endpoint.host.find('@') != std::string::npos) {
        return invalid("'" + shown + "': expected " + std::string(scheme) + "://host:port");
    }
    if (!port.empty()) {
        const Result<std::uint16_t> number = parse_port(port.substr(1), url);
        if (!number) {
            return number.error();
        }
        endpoint.port = *number;
    }
    return endpoint;
}

Result<Wall> parse_moment(std::string_view text, Wall now) {
    if (const Result<Millis> ago = parse_duration(text)) {
        return now - *ago;
    }
    if (const Result<Wall> moment = parse_rfc3339(text)) {
        return *moment;
    }
    return invalid("'" + std::string(text) +
                   "' is neither a time (2026-11-20T23:58:24Z) nor a duration ago (10m)");
}

Result<std::string> read_token(const std::string& file, const char* environment) {
    std::string token = environment ? environment : "";
    if (!file.empty()) {
        std::ifstream in(file, std::ios::binary);
        token.assign(kTokenBytesMax + 1, '\0');
        in.read(token.data(), static_cast<std::streamsize>(token.size()));
        token.resize(static_cast<std::size_t>(in.gcount()));
        if (!in.eof() && token.size() <= kTokenBytesMax) {
            return invalid("--token-file: " + file + " cannot be read");
        }
    }
    const std::string where = file.empty() ? "SIGMACAST_TOKEN" : "--token-file: " + file;
    while (!token.empty() &&
           (token.back() == '\n' || token.back() == '\r' || token.back() == ' ')) {
        token.pop_back();
    }
    const bool plain = std::all_of(token.begin(), token.end(), [](char c) {
        return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
               c == '-' || c == '_' || c == '.';
    });
    if (!plain || token.size() > kTokenBytesMax || (token.empty() && !file.empty())) {
        return invalid(where + " holds no token (a JWT, on one line)");
    }
    return token;
}

Parsed parse_command_line(int argc, const char* const* argv) {
    Raw raw;
    CLI::App app("Watch, inspect and feed a Sigmacast.", "sigmacast");
    const Commands commands = declare(app, raw);
    try {
        app.parse(argc, argv);
    } catch (const CLI::Success& wanted) {  // --help and --version.
        std::ostringstream out;
        std::ostringstream err;
        return {.command = {}, .exit_code = app.exit(wanted, out, err), .text = out.str()};
    } catch (const CLI::RequiredError& problem) {
        // Of a mistyped subcommand CLI11 says only that one is missing.
        const bool unknown = argc > 1 && app.get_subcommands().empty() && argv[1][0] != '-';
        const std::string what =
            unknown ? "there is no '" + std::string(argv[1]) + "'" : problem.what();
        return {.command = {},
                .exit_code = kExitUsage,
                .text = "sigmacast: " + what + " (see --help)\n"};
    } catch (const CLI::ParseError& problem) {
        return {.command = {},
                .exit_code = kExitUsage,
                .text = "sigmacast: " + std::string(problem.what()) + " (see --help)\n"};
    }
    Result<Command> command = finish(commands, raw);
    if (!command) {
        return {.command = {},
                .exit_code = kExitUsage,
                .text = "sigmacast: " + command.error().message + "\n"};
    }
    return {.command = std::move(*command), .exit_code = std::nullopt, .text = {}};
}

}  // namespace sigmacast::cli
