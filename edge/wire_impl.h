// What the two kinds of clients of an edge share, WebSockets (wire.cc) and event streams (sse.cc):
// their registry, limits and counters. Includes Asio: for those two alone.
// Runs on: the loop.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "common/http_upgrade.h"
#include "common/tally.h"
#include "edge/encoding.h"
#include "edge/outbox.h"
#include "edge/wire.h"

namespace sigmacast::edge {

inline constexpr std::string_view kServerName = "sigmacast";

/// One connection that carries a Session. The registry owns it, and so does each operation pending.
class Client {
 public:
    Client() = default;
    virtual ~Client() = default;
    Client(const Client&) = delete;
    Client& operator=(const Client&) = delete;

    virtual void start() = 0;
    /// Gives what waits in its session a head start with others', where it can; pump() follows.
    virtual void offer(SendBatch& batch, Now now) = 0;
    /// Sends what waits in its session, as much as the socket takes.
    virtual void pump() = 0;
    /// Each half second: time limits.
    virtual void sweep(Now now) = 0;
    /// Without ceremony; it leaves the registry later.
    virtual void abort() = 0;

    std::size_t index = 0;  // In the registry.
};

/// Gives the socket what waits, as much as it takes. No error: all of it has left; would_block: the
/// socket takes no more for now.
boost::system::error_code send_waiting(Outbox& outbox, Transport& transport,
                                       WireCounters& counters);

struct Wire::Impl {
    Impl(Loop& on, Hub& to, WireOptions with, Random from);

    void add(std::shared_ptr<Client> client);
    /// `session`: null where it has none.
    void remove(const Client& client, Session* session);
    /// Sends what was queued for anyone, now or at next_flush.
    void flush();
    void flush_touched();
    /// After everything that this turn of the loop has brought, so that answers leave together.
    void flush_later();
    void sweep_all();
    void give_back_memory();

    Loop& loop;
    Hub& hub;
    WireOptions options;
    Random random;
    WireCounters counters;
    Encoder encoder;
    std::vector<std::shared_ptr<Client>> clients;
    std::size_t most_clients = 0;  // Since memory was given back.
    std::size_t streams = 0;       // Of the clients, those that are event streams.
    Tally addresses;
    Timer sweep;
    Timer pace;
    Mono next_flush{};  // Where there is a flush_interval.
    bool flush_posted = false;
    /// What has just come from one client. Nobody keeps it: all of it is looked at, or copied,
    /// before another one is read from.
    std::array<char, 16u << 10> input;
};

}  // namespace sigmacast::edge
