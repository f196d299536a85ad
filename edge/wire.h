// The clients of an edge: the handshake's rules, and one connection's reading and writing for each
// Session. What is said here is of WebSockets; event streams (sse.h) have the same limits.
//
// All frames for a client, those that answer it (pongs, close) and those that the Hub shares, go
// into its outbox, whole (outbox.h); what it sends is read by websocket.h. All that waits for a
// client leaves in one system call. A connection whose socket is full waits for room by itself;
// nobody else does.
//
// Runs on: the loop. It decides nothing about topics or state. Bounds: clients_max connections; an
// outbox of 64 frames and 256 KiB (or one frame) each, and 64 KiB that the kernel has not sent yet,
// beyond which frames stay in the Session, where they are conflated.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/http.h"
#include "common/loop.h"
#include "edge/access.h"
#include "edge/encoding.h"
#include "edge/hub.h"
#include "edge/send_batch.h"

namespace sigmacast::edge {

struct WireOptions {
    std::size_t clients_max = 18'000;
    std::size_t message_bytes_max = 65'536;
    Millis ping_interval{30'000};
    Millis pong_timeout{60'000};  // Only for a peer that has answered a ping before.
    Millis close_timeout{2'000};  // For the closing handshake; then the socket is closed.
    std::vector<std::string> cors_origins = {};
    const Access* access = nullptr;   // Outlives the Wire; null: everyone sees everything.
    std::size_t waiting_max = 1'024;  // Connections that have to send a token yet; then 503.
    std::size_t clients_per_address_max = 0;  // Loopback is not counted; then 503. 0: any number.
    Millis write_timeout{60'000};  // For a client to take something of what waits for it.
    /// Null: each socket is sent to by a system call of its own, as those with TLS always are.
    std::shared_ptr<SendBatch> batch = nullptr;
    std::size_t batch_min = 4;  // Fewer gain nothing by going together.
    bool compression = true;    // For a v1 client that offers permessage-deflate.
    Millis flush_interval{0};   // At least, between two flushes; 0: at once, always.
    /// Called before a client is let in, and before what one sent is looked at; may flush().
    std::function<void(Now)> before_input = nullptr;
};

struct WireCounters {
    std::uint64_t accepted = 0;          // WebSockets.
    std::uint64_t streams_accepted = 0;  // Event streams.
    std::uint64_t refused = 0;           // Of both.
    std::uint64_t flushes = 0;           // Times that a socket took something.
    std::uint64_t batched = 0;           // Of them, those that shared a system call;
    std::uint64_t batches = 0;           // and those system calls.
    std::uint64_t bytes = 0;
    std::uint64_t no_pong = 0;
    std::uint64_t too_large = 0;        // Messages of clients over message_bytes_max.
    std::uint64_t protocol_errors = 0;  // Clients that broke RFC 6455.
    std::uint64_t not_read_from = 0;    // Times that a client was not read from, for its answers.
    // Of `refused`, for a limit:
    std::uint64_t clients_full = 0;
    std::uint64_t address_full = 0;
    std::uint64_t user_full = 0;
    std::uint64_t waiting_full = 0;
};

/// Whether a page of this Origin may connect: absent, same host, or listed ("*" lists all). On
/// loopback http::Server has refused foreign hosts before, so that "same host" is ours. Where the
/// edge itself speaks TLS (`encrypted`), a page that came without it is of another origin.
bool origin_allowed(std::string_view origin, std::string_view host,
                    const std::vector<std::string>& listed, bool encrypted = false);

/// What every answer has: no sniffing, and for whom of edge.cors_origins it is.
void add_answer_headers(http::Response& response, const http::Request& request,
                        const std::vector<std::string>& listed);

/// What a request for /ws is refused with; nullopt where it may be upgraded.
std::optional<http::Response> refuse_upgrade(const http::Request& request,
                                             const WireOptions& options, std::size_t clients);

/// 503, and when to come again.
http::Response try_later(std::string_view message);

/// 401; `problem`: what is wrong with the token that came, empty where none did.
http::Response unauthorized(std::string_view problem);

class Wire {
 public:
    Wire(Loop& loop, Hub& hub, WireOptions options, Random random);
    ~Wire();
    Wire(const Wire&) = delete;
    Wire& operator=(const Wire&) = delete;

    /// An http::Server::UpgradeHandler. False: not for us, or refused; the request handler answers.
    bool accept(http::Upgrade& upgrade);
    /// What accept() has refused, or would.
    [[nodiscard]] std::optional<http::Response> refusal(const http::Request& request) const;
    /// Sends what the Hub has queued: once after each batch. Within flush_interval of the last
    /// time, at the end of that.
    void flush();
    /// Closes all that is still open, without ceremony.
    void abort_all();

    /// WebSockets and event streams, of this thread.
    [[nodiscard]] std::size_t clients() const;
    [[nodiscard]] std::size_t event_streams() const;
    [[nodiscard]] const WireCounters& counters() const;
    [[nodiscard]] const EncodeCounters& encodes() const;
    [[nodiscard]] const WireOptions& options() const;

    struct Impl;  // wire_impl.h: for wire.cc and sse.cc.

 private:
    /// Or the grant that a request may be upgraded with; none in it: a token has to follow. What is
    /// refused for a limit is counted in `counters`.
    std::optional<http::Response> refuse(const http::Request& request, std::optional<Grant>& grant,
                                         WireCounters& counters) const;

    std::unique_ptr<Impl> impl_;
};

}  // namespace sigmacast::edge
