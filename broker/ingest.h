// The broker's side of the ingest hop: which instance owns an origin, and one sequenced stream per
// (origin, topic) that delivers in order, once, and asks the producer for what is missing. A report
// is held back until the values it confirms have been delivered. Two origins share nothing here, so
// neither can spoil the other.
//
//     Actions a = ingest.on_message(message, Admit::kAll, now);   // a.deliver goes into the next
//     batch std::vector<Position> p = ingest.take_positions();                  // ... with these
//     ingest.acknowledge(p);       // committed: what the producers are told
//     ingest.refused(p);           // not committed: events are asked for again
//
// Pure: no socket, no thread, no clock. What a producer can no longer supply becomes a gap message
// on an event stream; on a state stream the newest value is the truth, so nothing stands for what
// was superseded.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "common/message.h"
#include "common/protocol.h"
#include "common/sequence.h"
#include "storage/records.h"

namespace sigmacast::broker {

inline constexpr std::size_t kOriginsMax = 64;  // A hello beyond it is not answered.
inline constexpr std::size_t kStreamsMax =
    4096;  // All origins together; messages beyond it are dropped.
inline constexpr std::size_t kHeldReportsMax = 256;  // An origin; one a poll, the newest.
/// Rounds of tries for events that are missing, in each of which their producer was heard on the
/// repair socket, until they are given up. While it is not heard it still has them.
inline constexpr int kGiveUpRounds = 10;

/// What may enter now.
enum class Admit {
    kAll,
    kNoEvents,  // The disk refuses: events stay in the producer's ring.
    kNothing,   // The broker is full: everything is left out, and repaired later.
};

struct Outgoing {
    std::string peer;  // Identity on the repair socket.
    protocol::Any message;
};

class Ingest {
 public:
    /// An origin showed a sign of life.
    struct Beat {
        std::string origin;
        Mono sent;                        // When it left the producer.
        std::optional<AsOf> as_of;        // When it was made; producers of old do not say.
        std::vector<std::string> topics;  // State streams that it names, and that are whole here.
    };
    struct Actions {
        std::vector<Message>
            deliver;  // Values, events, gaps and reports, in order; seq is the producer's.
        std::vector<Outgoing> send;
        std::optional<Beat> beat;
    };
    struct Greeting {
        std::variant<protocol::Welcome, protocol::Conflict> answer;  // Welcome without keys.
        bool changed = false;            // The origin is new, or has a new owner.
        std::vector<Message> left = {};  // Events of the one before, and gaps where it has told of
                                         // others: they go before whatever the new one sends.
    };
    struct Counts {
        std::uint64_t dropped =
            0;  // Of another epoch, of an unknown origin, over a limit, or not admitted.
        std::uint64_t lost = 0;  // Positions that no producer has any more.
        std::uint64_t asks = 0;
        std::uint64_t conflicts = 0;
    };

    explicit Ingest(Random random) : random_(std::move(random)) {}

    void restore(const std::vector<storage::OriginRecord>& origins,
                 const std::vector<storage::StreamRecord>& streams);

    /// nullopt: there are kOriginsMax origins already.
    std::optional<Greeting> on_hello(const std::string& peer, const protocol::Hello& hello,
                                     Now now);
    /// Durable, Conflict or Unknown.
    protocol::Any on_sync(const std::string& peer, const protocol::Sync& sync);
    Actions on_message(Message message, Admit admit, Now now);
    Actions on_range(const std::string& peer, protocol::Range range, Admit admit, Now now);
    Actions on_timer(Admit admit, Now now);
    [[nodiscard]] std::optional<Mono> deadline() const;

    /// Whether all keys of the topic were as they are here when this value was made: a repair has
    /// passed over none whose newer value is behind it.
    [[nodiscard]] bool vouches_for_all(const std::string& origin, const std::string& topic,
                                       std::uint64_t seq) const;

    /// Positions that moved since the last call.
    std::vector<storage::Position> take_positions();
    [[nodiscard]] bool has_positions() const { return !moved_.empty(); }
    /// These are in the log: returns what their producers are to be told.
    std::vector<Outgoing> acknowledge(const std::vector<storage::Position>& positions);
    /// These are not: events go back to their durable positions, and are asked for again.
    void refused(const std::vector<storage::Position>& positions);

    /// Names in the order of arrival.
    [[nodiscard]] const std::vector<std::string>& order() const { return order_; }
    [[nodiscard]] storage::OriginRecord record(const std::string& origin) const;
    [[nodiscard]] const Counts& counts() const { return counts_; }

 private:
    using Receiver = sequence::Receiver<Message>;
    struct Stream {
        std::string topic;
        storage::StreamKind kind = storage::StreamKind::kUnknown;  // Of what came last.
        bool events = false;  // Some have come: where state comes, too, they count no less.
        Receiver receiver;
        std::uint64_t durable = 0;
        std::uint64_t heard = 0;  // Origin::heard at the end of the last round of tries.
        int rounds = 0;           // In vain, for the present hole.
        bool ask_now = false;     // Its producer has just been heard.
        // Up to where the newer values are of keys whose values a repair has passed over: before
        // that is here, nothing vouches for the topic, for it would for the values before both.
        std::uint64_t replaced = 0;
        [[nodiscard]] bool is_state() const {
            return !events &&
                   (kind == storage::StreamKind::kState || kind == storage::StreamKind::kReport);
        }
        void note(storage::StreamKind newest) {
            kind = newest;
            events = events || newest == storage::StreamKind::kEvent;
        }
        [[nodiscard]] bool is_whole(std::uint64_t to) const {
            return receiver.delivered() >= std::max(to, replaced);
        }
    };
    struct Origin {
        std::string name;
        std::uint64_t epoch = 0;
        std::string instance;
        std::string peer;  // Empty until its owner was heard on the repair socket.
        std::map<std::string, Stream> streams;
        std::map<std::string, Message>
            held;                 // The newest report of a poll that waits for its values.
        std::uint64_t heard = 0;  // What its owner has sent on the repair socket.
    };
    using StreamName = std::pair<std::string, std::string>;  // origin, topic

    Origin* find(const std::string& name);
    Stream* stream_of(Origin& origin, const std::string& topic);
    [[nodiscard]] std::vector<Mark> durable_marks(const Origin& origin) const;
    static bool admits(Admit admit, const Stream& stream);
    void on_heard(Origin& origin, const std::string& peer);
    void ask(const Origin& origin, const Stream& stream, sequence::Range range, Actions& out);
    static bool gives_up(const Origin& origin, Stream& stream);
    void on_head(Origin& origin, const Message& message, Admit admit, Now now, Actions& out);
    void apply(Origin& origin, Stream& stream, Receiver::Actions actions, Now now, Actions& out);
    static void deliver(Origin& origin, Message message, Actions& out);
    void note_lost(const Origin& origin, const Stream& stream, sequence::Range lost, Now now,
                   Actions& out);
    void take_leave(Origin& origin, Now now, Greeting& greeting);
    void release_reports(Origin& origin, Actions& out);
    void heed_marks(Origin& origin, Admit admit, Now now, Actions& out);
    static bool is_due(Origin& origin, const Report& report);

    Random random_;
    std::map<std::string, Origin> origins_;
    std::vector<std::string> order_;
    std::size_t streams_ = 0;
    bool full_logged_ = false;  // Once.
    std::set<StreamName> moved_;
    std::set<StreamName> waiting_;  // Streams with a gap.
    std::uint64_t next_ask_ = 1;
    Counts counts_;
};

}  // namespace sigmacast::broker
