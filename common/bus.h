// The ZeroMQ adapter: a Node's thread owns its sockets and hands what arrives to the loop in
// batches. It decides nothing and keeps no order between sockets.
//
// Every socket has a high-water mark, a message size limit, heartbeats and a short reconnect. At a
// mark ZeroMQ drops silently: the sequenced stream (sequence.h) finds and repairs what is lost, so
// nothing here waits or retries.
//
// Each message leaves with a stamp, a last frame of its own, and arrives with the moment when it
// was sent (transit.h), however long it waited in front of a frozen process.
//
// With a key (curve.h) every socket speaks CURVE: binding ones let in the clients that are listed,
// and say of each message whose it is; connecting ones talk to the broker that they expect, to no
// other. Whoever is turned away is logged, here and there, and tries again each second.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/curve.h"
#include "common/loop.h"
#include "common/message.h"

namespace sigmacast::bus {

enum class SocketType { kPub, kSub, kXpub, kRouter, kDealer };

struct SocketOptions {
    SocketType type = SocketType::kPub;
    std::string endpoint;  // tcp://127.0.0.1:12070, ipc:///run/sigmacast/feed
    bool bind = false;
    std::vector<std::string> subscribe = {};  // SUB: prefixes of the topic frame; "" is everything.
    int high_water_mark = 10'000;             // Messages.
    std::size_t message_bytes_max = 8u << 20;
    unsigned rights = 0;  // Binding, with a key: what a client needs (Right), one of them.
};

struct Incoming {
    std::size_t socket = 0;  // Index into the options that the node was made with.
    Frames frames = {};  // ROUTER: the peer's identity comes first. XPUB: a subscription, \1 or \0
                         // and the prefix.
    Mono sent = {};      // When it was sent, on this machine's clock; never after its arrival.
    std::string client = {};  // Binding, with a key: the name of the CurveClient that sent it.
};

class Node {
 public:
    /// `on_batch` is called on the loop with 1 to 4,096 messages, of about 1 MiB at most or one
    /// alone; the loop's other tasks come between two batches. While 4,096 messages or 64 MiB wait,
    /// the bus stops reading and the peer's high-water mark fills.
    Node(Loop& loop, std::vector<SocketOptions> sockets,
         std::function<void(std::vector<Incoming>)> on_batch, Curve curve = {});
    ~Node();
    Node(const Node&) = delete;
    Node& operator=(const Node&) = delete;

    /// Binds, connects and starts the thread. Errors: kUnavailable, naming the endpoint and why.
    Result<> start();
    /// Gives what is queued up to 200 ms to leave, then ends the thread. Idempotent.
    void stop();
    /// Queues a message for a socket; from any thread. False when 65,536 are waiting: it is
    /// dropped.
    /// `encoded`: the moment for which the ages in it are right; from then on its stay here counts.
    bool send(std::size_t socket, Frames frames, Mono encoded = BootClock::now());
    /// Messages that send() dropped.
    [[nodiscard]] std::uint64_t dropped() const;
    /// Handshakes of keys that were not let in (binding), and those that failed otherwise.
    [[nodiscard]] std::uint64_t denied() const;
    [[nodiscard]] std::uint64_t handshakes_failed() const;

 private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace sigmacast::bus
