// HTTP/1.1 on the loop, plain or through TLS: a small server (admin endpoints, our engine, an
// edge's REST) and a keep-alive client. Beast stays in the .cc. Limits: header and body as
// given, one time limit for each read and each answer, and one bound for all answers that wait for
// their clients.
//
// A server on loopback answers to loopback names alone (and to those of `origins`): a page whose
// name was pointed at 127.0.0.1 (DNS rebinding) is of the same origin, but says its name in Host.
// Runs on: the loop.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/loop.h"
#include "common/result.h"
#include "common/tally.h"

namespace sigmacast::tls {
class Client;
class Server;
}  // namespace sigmacast::tls

namespace sigmacast::http {

using Headers = std::vector<std::pair<std::string, std::string>>;

struct Request {
    std::string method;
    std::string path;   // Without the query, percent-encoding kept.
    std::string query;  // Without the question mark.
    Headers headers;    // Names in lower case.
    std::string body;
    std::string peer;        // The client's address.
    bool encrypted = false;  // It came through TLS that ended here.
    unsigned version = 11;   // Of HTTP: 10 or 11.

    /// The first header of this (lower-case) name, or empty.
    [[nodiscard]] std::string_view header(std::string_view name) const;
    /// Each value of a parameter of the query, in order, percent-decoded.
    [[nodiscard]] std::vector<std::string> parameters(std::string_view name) const;
};

/// "%2C" is a comma; what is no such escape stays as it is.
std::string percent_decoded(std::string_view text);

struct Response {
    int status = 200;
    std::string body = {};
    std::string content_type = "application/json";
    Headers headers = {};
};

struct Upgrade;  // http_upgrade.h: a connection that asks for another protocol, or for a stream.

/// The head of an answer whose end is the end of the connection, to be written by whoever took it
/// over. Values of headers must hold no line break.
std::string stream_head(const Response& response, std::string_view server_name);

/// What a server has turned away.
struct ServerCounters {
    std::uint64_t late = 0;                 // Requests that did not come in time: 408.
    std::uint64_t header_too_large = 0;     // 431.
    std::uint64_t turned_away = 0;          // Connections closed at once: too many in all,
    std::uint64_t address_turned_away = 0;  // or of one address.
};

/// What counts as one address: of IPv6 a /64, which one host has to itself, but on a local network
/// (link-local, unique local) the whole of it. Empty for loopback, where a proxy's clients all come
/// from, and for what is no address.
std::string address_key(std::string_view peer);

/// Several servers of one process, each on a thread of its own, may listen on one port: the system
/// gives each connection to one of them (SO_REUSEPORT).
enum class PortUse : std::uint8_t {
    kAlone,
    kFirst,  // Of several, to be started before them: fails where another program has the port.
    kAlso,
};

struct ServerOptions {
    std::string host = "127.0.0.1";
    std::uint16_t port = 0;  // 0: the system chooses; see port().
    std::string server_name = "sigmacast";
    std::size_t body_bytes_max = 1u << 20;
    std::size_t connections_max = 20'000;  // Beyond it a connection is closed at once.
    Millis idle_max{30'000};   // For the whole of a header to come, and of a body after it.
    Millis write_max{30'000};  // For the client to take the whole of an answer; then it is closed.
    /// Of answers on their way, over all connections; beyond it 503. The last eighth is kept for
    /// small ones (64 KiB), so that health and metrics answer while large ones are not read.
    std::size_t pending_bytes_max = 128u << 20;
    /// On loopback, whose hosts (without port) are accepted as Host besides loopback names: those
    /// that a proxy passes on, as https://nas.example. "*": any.
    std::vector<std::string> origins = {};
    /// Where it is there, it speaks TLS and nothing else.
    std::shared_ptr<tls::Server> tls = nullptr;
    Millis handshake_max{10'000};             // For the whole of a TLS handshake.
    std::size_t handshakes_max = 1'024;       // At the same time; beyond it the oldest is given up.
    std::size_t header_bytes_max = 8u << 10;  // Beyond it 431.
    std::size_t connections_per_address_max = 0;  // As connections_max, by address_key(); 0: any.
    Tally addresses = {};                         // What that counts; of several servers together.
    PortUse port_use = PortUse::kAlone;
    ServerCounters* counters = nullptr;  // Outlives the server; null: not counted.
    /// Paths whose GET and HEAD the UpgradeHandler is offered, too: answers without an end.
    std::vector<std::string> streams = {};
};

/// Whether Host (with or without a port) is localhost, *.localhost, 127.0.0.0/8 or [::1].
bool is_loopback_name(std::string_view host);

class Server {
 public:
    using Respond = std::function<void(Response)>;
    /// Called for each request; `respond` is to be called once, then or later, on the loop.
    using Handler = std::function<void(const Request&, Respond respond)>;
    /// Called for each request with `Upgrade: websocket` and those of ServerOptions::streams,
    /// before Handler; true: the connection was taken over.
    using UpgradeHandler = std::function<bool(Upgrade&)>;

    Server(Loop& loop, ServerOptions options, Handler handler, UpgradeHandler upgrade = nullptr);
    ~Server();
    Server(const Server&) = delete;
    Server& operator=(const Server&) = delete;

    /// Errors: kUnavailable, naming address and cause ("127.0.0.1:12080 is in use by another
    /// program").
    Result<> start();
    /// Stops accepting; connections that are idle are closed.
    void stop();
    [[nodiscard]] std::uint16_t port() const;

 private:
    struct Impl;
    std::shared_ptr<Impl> impl_;
};

struct ClientOptions {
    std::size_t connections_max = 16;  // Kept-alive, to the one address of the base URL.
    std::size_t body_bytes_max = 8u << 20;
    Headers headers = {};                        // Sent with each request; not to be logged.
    std::shared_ptr<tls::Client> tls = nullptr;  // For a base with https.
};

/// A pool of kept-alive connections to one server. Requests that are pending when it is destroyed
/// are dropped: their `done` is not called.
class Client {
 public:
    using Done = std::function<void(Result<Response>)>;

    /// `base`: http(s)://host:port/path; requests go to base + target. Throws nothing; a bad URL
    /// fails each request.
    Client(Loop& loop, std::string base, ClientOptions options = {});
    ~Client();
    Client(const Client&) = delete;
    Client& operator=(const Client&) = delete;

    /// `done` is called once, on the loop, at the latest at `deadline`. Errors: kUnavailable
    /// (refused, reset, closed in the middle), kTimeout, kTooLarge, kInvalid (not HTTP). A kept
    /// connection that the server had closed meanwhile is retried once on a new one.
    void request(std::string method, std::string target, std::string body, Mono deadline,
                 Done done);

 private:
    struct Impl;
    std::shared_ptr<Impl> impl_;
};

}  // namespace sigmacast::http
