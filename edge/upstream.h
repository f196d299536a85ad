// What arrives from the broker, made whole: in order, without duplicates or holes, joined with a
// snapshot.
//
// Joining: the feed is subscribed before start() is called; start() asks for a snapshot; what
// arrives meanwhile waits (bounded); then what the snapshot holds is dropped. Afterwards one
// Receiver per (origin, topic) keeps order and asks for what is missing. A Receiver that gives up,
// or another log epoch, leads to a new snapshot. The uplink is down when no head has come for
// kUplinkSilence, or nothing of a hole: what is behind it, no report vouches for. It is up again
// when heads return and every hole is filled. A log that says a position below one that it sent
// under the same epoch has lost rows: a new snapshot, at once, and the request says how far the log
// had come, so that it gets a new epoch.
//
//     Output out = upstream.on_message(message, now);   // do out.steps in order, send out.requests
//     timer at upstream.deadline() -> upstream.on_timer(now)
//
// Pure: no socket, no clock. Runs on: the loop. Reports and polls pass after the values that were
// missing before them, or not at all where those brought something newer of the poll.
#pragma once

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
#include "common/random.h"
#include "common/sequence.h"
#include "common/time.h"

namespace sigmacast::edge {

class Upstream {
 public:
    /// Three missed heads; repair that does not answer for as long.
    static constexpr Millis kUplinkSilence{3'000};
    static constexpr std::size_t kBufferMax =
        16'384;  // While joining; more is repaired afterwards.
    static constexpr std::size_t kStreamsMax = 20'000;
    static constexpr Millis kRequestRetryMin{200};  // Doubles up to kRequestRetryMax, plus jitter.
    static constexpr Millis kRequestRetryMax{5'000};

    /// Positions of a stream that nobody has any more.
    struct Lost {
        std::string origin;
        std::string topic;
        sequence::Range range;
        std::uint64_t pos = 0;  // Of the gap's row in the log; 0: not known.
    };
    /// What one poll is known to be, from its own report or from a head.
    struct PollUpdate {
        PollState state;
        bool complete_age = true;  // False: a bare report, the quality is for the reader to infer.
    };
    struct UplinkChange {
        bool up = false;
    };
    /// Everything up to `pos` of the log has been handed over.
    struct Bookmark {
        std::uint64_t pos = 0;
    };
    /// The first origin that declared polls, in the broker's order of arrival: a head says so.
    struct FirstOrigin {
        std::string name;
    };
    using Step = std::variant<protocol::Snapshot, Message, PollUpdate, Lost, UplinkChange, Bookmark,
                              protocol::History, protocol::Range, FirstOrigin>;

    struct Output {
        std::vector<Step> steps;
        std::vector<protocol::Any> requests;
    };

    struct Counters {
        std::uint64_t snapshots = 0;
        std::uint64_t gaps = 0;  // Ranges asked for.
        std::uint64_t lost = 0;  // Positions.
        std::uint64_t overflow = 0;
        std::uint64_t unreadable = 0;  // Records of snapshots and ranges that were left out.
    };

    /// `topics`: those wanted; empty: all.
    Upstream(Random random, std::vector<std::string> topics);

    Output start(Now now);
    /// `sent`: when it left the broker, by this machine's clock; none: now. A head that waited is
    /// no sign of life of today.
    Output on_message(Message message, Now now, std::optional<Mono> sent = {});
    Output on_reply(protocol::Any reply, Now now);
    Output on_timer(Now now);
    [[nodiscard]] std::optional<Mono> deadline() const;

    /// A snapshot has been applied once.
    [[nodiscard]] bool ready() const { return joined_once_; }
    [[nodiscard]] bool uplink() const { return uplink_; }
    [[nodiscard]] const Counters& counters() const { return counters_; }

 private:
    using Name = std::pair<std::string, std::string>;  // origin, topic
    using Receiver = sequence::Receiver<Message>;
    /// How far a stream has come in what is not logged (WIRE.md, "While the disk refuses"). It
    /// cannot be repaired: where some is missing, a snapshot has it.
    struct Flowing {
        std::uint64_t after = 0;
        std::uint64_t run = 0;
        std::uint64_t taken = 0;
        std::uint64_t newest = 0;  // Known of.
    };

    /// The newest of a poll, until its stream is whole.
    struct HeldPoll {
        PollUpdate update;
        std::uint64_t known = 0;  // The stream's newest position that was known of when it came.
    };

    struct Hole {
        std::uint64_t after = 0;
        Mono since;  // Nothing of it has come since.
    };

    Flowing& flowing(const Name& name, std::uint64_t after, std::uint64_t run);
    [[nodiscard]] bool lacks(const Name& name) const;
    [[nodiscard]] bool has_state(const Name& name) const;
    [[nodiscard]] bool wanted(const std::string& topic) const;
    [[nodiscard]] std::uint64_t sent_pos() const;
    [[nodiscard]] bool goes_back(const Message& message, Now now) const;
    Receiver* receiver(const Name& name);
    void join(Output& out, Now now);
    [[nodiscard]] Mono waits_since(Mono now) const;
    void request_snapshot(Output& out, Now now);
    void apply_snapshot(protocol::Snapshot snapshot, Output& out, Now now);
    void take(Message message, Output& out, Now now);
    void take_head(const Message& message, Output& out, Now now);
    void take_poll(PollUpdate update, Output& out, Now now);
    void take_flowing(Message message, Output& out, Now now);
    void heed(const Name& name, std::uint64_t seq, const Flow& flow, Output& out, Now now);
    void heed_marks(const PollState& state, const std::string& epoch, Output& out, Now now);
    void take_range(protocol::Range range, Output& out, Now now);
    void take_history(protocol::History history, Output& out, Now now);
    void outdate_held_poll(const Message& state);
    void act(const Name& name, Receiver::Actions actions, Output& out, Now now);
    void release_waiting(const Name& name, Output& out, Now now);
    void finish(Output& out, Now now);

    Random random_;
    std::set<std::string> topics_;
    std::map<Name, Receiver> receivers_;
    std::set<Name> events_;                // Streams that have had events;
    std::set<Name> values_;                // and those with values.
    std::map<Name, Hole> incomplete_;      // Streams with a known hole.
    std::map<Name, HeldPoll> held_polls_;  // By origin and poll.
    std::vector<Message> buffer_;
    std::optional<Message> newest_head_;  // While joining.
    std::map<Name, Flowing> flowing_;
    std::vector<Message> waiting_;  // Not logged, and what is logged before it is still to come.
    std::uint64_t snapshot_pos_ = 0;
    Mono snapshot_at_{};
    std::uint64_t feed_pos_ = 0;  // The highest that the feed has brought in this epoch.
    std::string epoch_;
    bool joining_ = false;
    Mono joining_since_{};
    bool joined_once_ = false;
    bool uplink_ = false;
    bool fall_back_ = false;
    std::optional<Mono> last_head_;
    std::uint64_t head_pos_ = 0;
    std::uint64_t bookmark_ = 0;
    std::uint64_t request_id_ = 0;
    std::uint64_t join_first_id_ = 0;
    int request_tries_ = 0;
    std::optional<Mono> request_again_;
    Counters counters_;
};

}  // namespace sigmacast::edge
