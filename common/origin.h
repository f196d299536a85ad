// The producer's side of the bus: everything that publishes through the broker (sigmacast-producer,
// `sigmacast publish`) is an Origin. It stamps messages with their position, keeps what may be
// asked for again, says hello until it is welcomed, syncs and sends a head each second, answers
// ranges, and stops for good where another instance owns its name (common/EVENTS.md, "The
// producer").
//
//     Origin origin({.name = "nas", .instance = random.hex(8), .epoch = epoch}, io);
//     origin.start(now);  origin.push(message, now);  origin.on_protocol(any, now);
//     origin.on_timer(now);
//
// Pure: no socket, no thread, no clock; what is to be done goes out through Origin::Io, called from
// within these calls, which must not call back. Values go out under one epoch: raising it restamps
// what is asked for again.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "common/message.h"
#include "common/protocol.h"
#include "common/sequence.h"

namespace sigmacast {

struct OriginOptions {
    std::string name;
    std::string instance;     // Random, new at each start.
    std::uint64_t epoch = 1;  // Raised and synced before this object is made (state_file.h).
    std::vector<protocol::DeclaredPoll> polls;
    sequence::SenderLimits limits;
    Millis every{1000};  // Heads, hellos and syncs.
};

class Origin {
 public:
    /// What an Origin asks of its owner; all calls are on the owner's thread.
    class Io {
     public:
        /// To the ingest socket.
        virtual void publish(Message message) = 0;
        /// To the repair socket.
        virtual void send(protocol::Any message) = 0;
        /// Writes the epoch so that it survives a power cut, before this returns. On an error the
        /// origin is fenced.
        virtual Result<> save_epoch(std::uint64_t epoch) = 0;

     protected:
        ~Io() = default;
    };

    enum class State {
        kJoining,  // No broker has answered yet; messages go out all the same.
        kJoined,
        kConflict,  // Another instance owns the name: nothing goes out any more.
    };

    /// `io` outlives this object.
    Origin(OriginOptions options, Io& io);

    /// Sends the first hello. To be called once, before the first push().
    void start(Now now);

    /// Stamps origin, epoch and seq, keeps the message and publishes it. kind is kValue, kEvent or
    /// kReport; `at` is set to now. Returns its position; nullopt where an event finds the ring
    /// full of events that are not durable yet (wait for on_protocol() to make room, or lose()),
    /// and after a conflict.
    std::optional<std::uint64_t> push(Message message, Now now);
    /// Gives an event up: its position is consumed, and the broker will write a gap. Returns the
    /// position.
    std::uint64_t lose(const std::string& topic);

    /// What came from the repair socket. Returns the welcome's live keys each time that the broker
    /// welcomes.
    std::optional<std::vector<protocol::LiveKey>> on_protocol(const protocol::Any& message,
                                                              Now now);
    void on_timer(Now now);
    /// When on_timer() wants to be called.
    [[nodiscard]] Mono deadline() const { return next_beat_; }
    /// Publishes a head now, so that what was pushed last is known to be the last (before a clean
    /// end).
    void send_head(Now now);

    [[nodiscard]] State state() const { return state_; }
    [[nodiscard]] std::uint64_t epoch() const { return options_.epoch; }
    [[nodiscard]] const std::string& name() const { return options_.name; }
    /// Positions that the broker has not made durable yet, all streams together.
    [[nodiscard]] std::uint64_t undurable() const { return sender_.undurable(); }
    /// Newest position that the broker has made durable, of one stream.
    [[nodiscard]] std::uint64_t durable(const std::string& topic) const;
    [[nodiscard]] std::size_t ring_bytes() const { return sender_.bytes(); }
    [[nodiscard]] std::uint64_t asks_answered() const { return asks_answered_; }

 private:
    void hello();
    void on_conflict(const protocol::Conflict& conflict, Now now);
    void on_durable(const std::vector<Mark>& marks, Now now);
    void answer(const protocol::Ask& ask);
    void stamp(Message& message) const;

    OriginOptions options_;
    Io& io_;
    sequence::Sender<Message> sender_;
    std::map<std::string, std::uint64_t> durable_;
    State state_ = State::kJoining;
    bool first_hello_ = true;
    Mono next_beat_{};
    std::uint64_t asks_answered_ = 0;
};

}  // namespace sigmacast
