// One client without its socket: what it asked for, and what waits to be sent to it.
//
// Two queues: control (welcome, answers, errors), which goes first and is never conflated, and
// data. A client that keeps up has an empty data queue. One that falls behind kConflateBytes has
// its state conflated: a newer value takes the place of a waiting one of the same slot and moves to
// the tail, and a v1 client is told which positions were left out (`skipped`, before the next frame
// of that stream). Over bytes_max even so, it is to be closed (4102). A single frame over bytes_max
// is no fault of the client's: it is never queued.
//
// Pure. Runs on: the loop. The Hub decides who gets what; this class only queues. Bounds:
// QueueLimits; while wants_reading() is false the adapter does not read from the client, so answers
// cannot pile up either.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/message.h"
#include "common/tally.h"
#include "edge/fifo.h"
#include "edge/grant.h"
#include "edge/rate.h"
#include "edge/render.h"
#include "edge/resume.h"

namespace sigmacast::edge {

class Client;  // wire_impl.h

/// Close codes: 40xx stop and show, 41xx back off, 42xx wait the hint and resume, 43xx renew
/// something and reconnect.
inline constexpr std::uint16_t kCloseGoingAway = 1001;  // Of plain sessions.
inline constexpr std::uint16_t kCloseBadToken = 4001;
inline constexpr std::uint16_t kCloseOverCapacity = 4100;
inline constexpr std::uint16_t kCloseSlowConsumer = 4102;
inline constexpr std::uint16_t kCloseRateLimited = 4103;
inline constexpr std::uint16_t kCloseNoPong = 4104;
inline constexpr std::uint16_t kCloseDraining = 4200;
inline constexpr std::uint16_t kCloseEdgeBehind = 4201;
inline constexpr std::uint16_t kCloseAuthenticate = 4300;
inline constexpr std::uint16_t kCloseTokenExpired = 4301;

/// What the edge itself says under a topic's name.
inline bool is_of_edge(std::string_view topic) {
    return topic == "heartbeat" || topic == "connection_error";
}

inline constexpr std::size_t kNamesMax = 256;  // In one message; more are refused with an error.
inline constexpr std::size_t kTopicNameMax = 128;

/// A message of a client's, understood; or what is wrong with it.
struct ClientMessage {
    enum class Type : std::uint8_t { kBad, kPing, kSubscribe, kUnsubscribe, kAuth };
    Type type = Type::kBad;
    std::string id;  // JSON text (a number or a string) as it came in; empty without one.
    std::vector<std::string> types;
    bool resume = false;  // It wants to; without a cursor where that was not understood.
    std::optional<Cursor> cursor = {};
    std::string token = {};  // Of kAuth; not to be logged, nor kept.
    std::string problem;     // For kBad: a sentence for a person.
};

/// Accepts every shape of subscribe and unsubscribe that CONTRACT names. Never throws.
ClientMessage parse_client_message(std::string_view text);

/// Of what waits for one client, and so of one frame.
inline constexpr std::size_t kQueueBytesMax = 4u << 20;

struct QueueLimits {
    std::size_t bytes_max = kQueueBytesMax;
    std::size_t items_max = 65'536;
    std::size_t control_bytes_max = 64u << 10;  // Beyond it nothing is read from the client.
};

/// A frame for many sessions.
struct Outgoing {
    FramePtr frame;
    const Stream* stream = nullptr;
    std::uint64_t seq = 0;   // 0: no position.
    std::uint64_t slot = 0;  // What a newer frame of the same slot makes superfluous; 0: never.
    bool last = false;       // The last of its slot: nothing may take its place.
    std::uint64_t tick = 0;  // Of a value: the slot of the ticks that speak for it.
};

struct SendCounters {
    std::uint64_t messages = 0;
    std::uint64_t bytes = 0;
    std::uint64_t conflated = 0;
    std::uint64_t skipped_notes = 0;
};

class Session {
 public:
    static constexpr std::size_t kConflateBytes = 256u << 10;

    Session(std::string client_id, Dialect dialect, QueueLimits limits, SendCounters& counters,
            Now now);

    [[nodiscard]] const std::string& client_id() const { return client_id_; }
    [[nodiscard]] Dialect dialect() const { return dialect_; }
    [[nodiscard]] bool v1() const { return dialect_ == Dialect::kV1; }

    std::set<std::string>& subscriptions() { return subscriptions_; }
    [[nodiscard]] const std::set<std::string>& subscriptions() const { return subscriptions_; }
    bool everything = false;               // Subscribed to "*".
    std::optional<Grant> grant = Grant{};  // nullopt: it has to send a token first.
    std::optional<Mono> ends = {};         // The grant; or without one, the time to send a token.
    RateLimit rate;                        // The Hub's: of what it sends.
    Tally::Seat seat;  // Among the connections of its user, where a message has brought the token.
    std::vector<std::unique_ptr<Resume>> resumes = {};  // The Hub's: what it has yet to be sent.
    std::uint64_t number = 0;                           // The Hub's: of its arrival.
    Client* client = nullptr;                           // The Wire's: whose it is.
    bool touched = false;  // The Hub's: something was queued since the last take_touched().

    void send_control(FramePtr frame);
    /// A frame larger than the bound is left out. False: it would be over its bound. Nothing was
    /// queued, and everything that waited is gone; close it.
    [[nodiscard]] bool send_data(const Outgoing& item);
    /// The next `bytes` of data do not count against the bound: an answer that the client asked
    /// for.
    void allow(std::size_t bytes) { allowance_ = data_bytes_ + bytes + limits_.bytes_max; }

    /// What to send next, in order: at most `frames_max`, notes of what was left out among them,
    /// and at most `bytes_max` or one frame. What is left can still be conflated.
    std::vector<FramePtr> take(std::size_t frames_max, Now now, std::size_t bytes_max = SIZE_MAX);

    /// Calls, once, as soon as less than `bytes` of data wait; within take(). Not to call back.
    void await_room(std::size_t bytes, std::function<void()> on_room) {
        room_bytes_ = bytes;
        on_room_ = std::move(on_room);
    }
    [[nodiscard]] bool awaits_room() const { return on_room_ != nullptr; }

    [[nodiscard]] bool idle() const { return control_.empty() && live_items_ == 0; }
    [[nodiscard]] bool data_waiting() const { return live_items_ > 0; }
    [[nodiscard]] std::size_t data_bytes() const { return data_bytes_; }
    [[nodiscard]] bool wants_reading() const;
    [[nodiscard]] std::size_t queued_bytes() const { return data_bytes_ + control_bytes_; }
    [[nodiscard]] Mono last_sent() const { return last_sent_; }

    struct Close {
        std::uint16_t code = 0;
        std::string reason;
    };
    /// To be closed once what is queued has been sent; the first call counts. Later frames are
    /// dropped.
    void close(Close why);
    [[nodiscard]] const std::optional<Close>& closing() const { return closing_; }

 private:
    using Skips = std::map<std::uint64_t, std::uint64_t>;  // from -> to, apart from each other.

    void start_conflating();
    void give_up(Outgoing& place);
    void skip(const Stream& stream, std::uint64_t seq);
    FramePtr drop_front();
    void compact();

    std::string client_id_;
    Dialect dialect_;
    QueueLimits limits_;
    SendCounters& counters_;
    std::set<std::string> subscriptions_;
    Fifo<FramePtr> control_;
    std::size_t control_bytes_ = 0;
    Fifo<Outgoing> data_;  // A null frame: its place was taken by a newer one.
    std::size_t data_bytes_ = 0;
    std::size_t live_items_ = 0;
    std::size_t allowance_ = 0;
    std::uint64_t base_ = 0;  // The number of data_.front(), counted from the first ever.
    bool conflating_ = false;
    std::unordered_map<std::uint64_t, std::uint64_t> slots_;  // slot -> number in data_
    std::map<const Stream*, Skips> skips_;
    Mono last_sent_;
    std::size_t room_bytes_ = 0;
    std::function<void()> on_room_;
    std::optional<Close> closing_;
};

}  // namespace sigmacast::edge
