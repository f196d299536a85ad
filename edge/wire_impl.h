// What the two kinds of clients of an edge share, WebSockets (wire.cc) and event streams (sse.cc):
// a socket and what waits for it (client.cc), their registry, limits and counters. Includes Asio:
// for those three alone. Runs on: the loop.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/http_upgrade.h"
#include "edge/encoding.h"
#include "edge/outbox.h"
#include "edge/wire.h"

namespace sigmacast::edge {

inline constexpr std::string_view kServerName = "sigmacast";

/// One connection that carries a Session. The registry owns it, and so does each operation pending.
class Client : public std::enable_shared_from_this<Client> {
 public:
    /// `grant`: what its request has brought; null: nothing.
    Client(Wire::Impl& wire, http::Upgrade& upgrade, const Grant* grant);
    virtual ~Client() = default;
    Client(const Client&) = delete;
    Client& operator=(const Client&) = delete;

    virtual void start() = 0;
    /// Gives what waits in its session a head start with others', where it can; pump() follows.
    void offer(SendBatch& batch, Now now);
    /// Sends what waits in its session, as much as the socket takes.
    virtual void pump() = 0;
    /// Each half second: time limits.
    void sweep(Now now);
    /// Without ceremony; it leaves the registry later.
    void abort();

    std::size_t index = 0;  // In the registry.

 protected:
    /// Moves what waits in the session to the outbox, as much as has room. Whether to try again
    /// once that has left.
    virtual bool fill(Now now) = 0;
    /// The session is to be closed: whatever is left of that, once all else has been sent.
    virtual void close_when_sent(Now now) = 0;
    /// The socket has taken what it takes for now.
    virtual void on_sent() {}
    /// It took no more, and does again; what waited has been sent.
    virtual void on_room() = 0;
    /// Time limits beside those that all clients have; of one that is not being closed.
    virtual void check(Now) {}
    /// It is no client any more.
    virtual void on_finish() {}

    /// Sends as much as the socket takes; waits for room where it takes no more.
    void flush();
    void finish();
    /// From now on it has so long to take what is on its way, and to end.
    void limit_closing(Now now);

    Wire::Impl& wire_;
    Transport transport_;
    Outbox outbox_;
    Session* session_ = nullptr;
    bool shut_ = false;  // Nothing more is sent.
    bool failed_ = false;
    bool done_ = false;
    Uptake uptake_;

 private:
    void wait_for_room();

    Tally::Seat address_;
    Tally::Seat user_;
    bool waiting_ = false;  // For room in the socket.
    std::optional<Mono> close_by_;
};

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
    Timer sweep;
    Timer pace;
    Mono next_flush{};  // Where there is a flush_interval.
    bool flush_posted = false;
    /// What has just come from one client. Nobody keeps it: all of it is looked at, or copied,
    /// before another one is read from.
    std::array<char, 16u << 10> input;
};

}  // namespace sigmacast::edge
