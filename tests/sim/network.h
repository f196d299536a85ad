// One direction of a connection of ZeroMQ's, as it behaves where it fails: whole messages, in
// order, each at most once; beyond the high-water mark the newest is dropped; what is under way
// when the connection breaks is lost. A publisher drops while nobody is connected (kPub); a dealer
// keeps what it could not send until it is connected again (kDealer).
//
// Harsher than life: `loss` drops messages of a connection that stands, `twice` repeats one. A cut
// network keeps what is sent, and delivers it late where it heals before the connection is given
// up.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>

#include "common/message.h"
#include "tests/sim/timeline.h"

namespace sigmacast::sim {

class Link {
 public:
    enum class Type { kPub, kDealer };
    /// Frames, and when they were sent.
    using Receive = std::function<void(const Frames&, Mono)>;

    static constexpr std::size_t kHighWaterMark = 500;

    Link(Timeline& time, Type type, Receive receive)
        : time_(time), type_(type), receive_(std::move(receive)) {}

    void send(std::shared_ptr<const Frames> frames);
    void connect();
    void disconnect();
    /// Sender or receiver has died: what it kept is gone, too.
    void forget();
    /// The sender has died. What it had written already still arrives, perhaps much later: after
    /// its successor has said hello.
    void sender_died();
    void cut(bool on);

    [[nodiscard]] bool connected() const { return connected_; }

    unsigned loss = 0;    // Of a hundred.
    unsigned twice = 0;   // Of a hundred.
    Millis slow{0};       // Up to this much later.
    std::string without;  // Messages whose first frame begins so are lost.

 private:
    struct Packet {
        std::shared_ptr<const Frames> frames;
        Mono sent;
    };
    void carry(Packet packet);

    Timeline& time_;
    Type type_;
    Receive receive_;
    bool connected_ = false;
    bool cut_ = false;
    std::uint64_t connection_ = 0;
    std::uint64_t oldest_ = 0;  // What belongs to a connection before this one is lost.
    Millis late_{0};            // What a dead sender left arrives so much later.
    std::size_t under_way_ = 0;
    Mono last_{};
    std::deque<Packet> queue_;
};

}  // namespace sigmacast::sim
