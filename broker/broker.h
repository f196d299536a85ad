// The broker's decisions, in one place: what arrives is ordered (ingest.h) and judged
// (freshness.h), written in one transaction with everything else that has arrived, and only then
// seen by anybody: published, in snapshots, acknowledged. At most one batch is in flight; what
// arrives meanwhile makes the next one.
//
//     on_messages / on_request  ->  pending  ->  outputs.commit(batch)  ->  on_committed  ->
//     publish, acknowledge
//
// seq (of each origin and topic) and pos (of the log) are stamped when a batch is built. While the
// database refuses, state is published at once without them, marked durable = false, events stay in
// their producers' rings, and a commit of everything in force is tried each second.
//
// An edge that was sent more than the log holds (a copy was put back, a disk lost what it had
// acknowledged) makes the log a new one: a commit gives it a new epoch, and only then is that edge
// answered.
//
// Pure: no socket, no thread, no clock. The outputs are called from within the calls below and must
// not call back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "broker/freshness.h"
#include "broker/ingest.h"
#include "common/message.h"
#include "common/protocol.h"
#include "storage/reader.h"
#include "storage/records.h"

namespace sigmacast::broker {

inline constexpr Millis kHeadInterval{1000};
/// A commit that has been out for so long holds heads and snapshots back: nobody hears of anything
/// that came since, so nothing may pass for live. Edges give the broker up 3 s after the last head.
inline constexpr Millis kCommitPatience{500};
inline constexpr Millis kHeadHeldLogInterval{60'000};
inline constexpr Millis kRetryInterval{1000};  // Between commits while the database refuses.
/// What may wait for the next commit; beyond it messages are left out, and repaired later.
inline constexpr std::size_t kPendingBytesMax = 64u << 20;
inline constexpr std::size_t kPendingMessagesMax = 20'000;
/// Keys of all state topics together; a value of one more becomes a gap.
inline constexpr std::size_t kKeysMax = 50'000;
/// Live state, kStateOverheadBytes and its names a key included; a value that would exceed it
/// becomes a gap. A snapshot is one message: with the polls' lists of keys it has to stay below the
/// 64 MiB that the bus takes.
inline constexpr std::size_t kStateBytesMax = 48u << 20;
inline constexpr std::size_t kStateOverheadBytes = 256;
inline constexpr Millis kRefusedLogInterval{60'000};
/// Keys remembered of one poll whose newest value was refused.
inline constexpr std::size_t kRefusedKeysMax = 4096;
/// Keys that a transition names; of a poll with more it names none, which means all.
inline constexpr std::size_t kTransitionKeysMax = 4096;

/// Edges that wait for a commit: of a new epoch of the log, or one that hangs; others ask again.
inline constexpr std::size_t kWaitingMax = 256;

class BrokerOutputs {
 public:
    /// To the feed, in this order.
    virtual void publish(const Message& message) = 0;
    /// To a peer on the repair socket.
    virtual void reply(const std::string& peer, protocol::Any message) = 0;
    /// To be answered with on_committed(), later.
    virtual void commit(std::shared_ptr<const storage::Batch> batch) = 0;
    virtual Result<storage::LogRange> read_range(const std::string& origin,
                                                 const std::string& topic, sequence::Range range,
                                                 Now now) = 0;
    virtual Result<storage::LogPage> read_history(std::uint64_t from, std::uint64_t to,
                                                  Now now) = 0;

 protected:
    ~BrokerOutputs() = default;
};

class Broker {
 public:
    struct Counts {
        std::uint64_t received = 0;    // Messages from producers that could be read.
        std::uint64_t unreadable = 0;  // Messages and requests that could not.
        std::uint64_t committed = 0;   // Rows.
        std::uint64_t published = 0;
        std::uint64_t batches = 0;
        std::uint64_t refused = 0;         // Batches that the database refused.
        std::uint64_t refused_values = 0;  // Beyond kKeysMax or kStateBytesMax.
        std::uint64_t left_out = 0;        // Values without room in a snapshot.
        std::uint64_t gaps = 0;            // Rows that stand for something lost.
        std::uint64_t snapshots = 0;
        std::uint64_t ranges = 0;
        std::uint64_t histories = 0;
    };

    /// `outputs` outlives this object.
    Broker(storage::Loaded loaded, BrokerOutputs& outputs, Random random);

    /// Calls everything stale that was loaded. To be called once, first.
    void start(Now now);
    /// A batch of messages from the ingest socket.
    void on_messages(std::vector<Message> batch, Now now);
    /// From the repair socket.
    void on_request(const std::string& peer, protocol::Any request, Now now);
    void on_committed(const Result<storage::Committed>& result, Now now);
    void on_timer(Now now);
    /// When on_timer() wants to be called.
    [[nodiscard]] Mono deadline() const;

    /// Nothing waits to be committed.
    [[nodiscard]] bool idle() const {
        return !in_flight_ && pending_.empty() && left_behind_.empty() &&
               !ingest_.has_positions() && next_epoch_.empty();
    }
    [[nodiscard]] bool durable() const { return !degraded_; }
    [[nodiscard]] const std::string& epoch() const { return epoch_; }
    [[nodiscard]] std::uint64_t pos() const { return committed_pos_; }
    /// As heads carry them: in the order of arrival of their origins.
    [[nodiscard]] std::vector<PollState> polls(Now now) const;
    [[nodiscard]] const std::vector<std::string>& origins() const { return ingest_.order(); }
    /// Of kStateBytesMax.
    [[nodiscard]] std::size_t state_bytes() const { return state_bytes_; }
    [[nodiscard]] const Counts& counts() const { return counts_; }
    [[nodiscard]] const Ingest::Counts& ingest_counts() const { return ingest_.counts(); }
    void count_unreadable() { ++counts_.unreadable; }

 private:
    using Name = std::pair<std::string, std::string>;  // origin, and topic or poll
    using Polls = std::map<Name, PollState>;
    struct Stream {
        std::uint64_t seq = 0;        // Stamped.
        std::uint64_t committed = 0;  // Visible.
        std::uint64_t loaded = 0;     // At the start.
        std::uint64_t flowed = 0;     // Published since, not logged.
        bool events = false;
    };
    struct Key {
        std::string poll;
        Bytes data;
    };
    /// What waits for a commit: messages in the order in which they will be published.
    struct Pending {
        std::vector<Message> messages;
        Polls polls;
        std::set<std::string> origins;
        std::size_t bytes = 0;
        [[nodiscard]] bool empty() const {
            return messages.empty() && polls.empty() && origins.empty();
        }
    };
    struct InFlight {
        std::vector<Message> messages;
        std::size_t known = 0;        // The first ones were published already, as not durable.
        std::size_t left_behind = 0;  // Those behind them.
        Polls polls;
        std::set<std::string> origins;
        std::vector<storage::Position> positions;
        std::string epoch;  // The log's new one; mostly empty.
        Mono since;
    };

    void restore_state_polls();
    void restore_missing_polls();
    [[nodiscard]] Admit admit() const;
    void take(Ingest::Actions actions, Now now);
    void take_beat(const Ingest::Beat& beat, Now now);
    void take_value(Message message, Now now);
    void refuse(const Message& message, const char* why, Now now);
    void restore_refused_polls();
    void leave_out(std::vector<Message>& values);
    void take_report(Message message, Now now);
    void take_change(const Change& change, Now now);
    void add(Message message);
    void vouch(const std::string& origin, const std::string& topic,
               const std::optional<AsOf>& as_of, Mono sent, Now now);
    void new_owner(const std::string& origin, Now now);
    [[nodiscard]] PollState with_keys(PollState poll) const;
    void add_transition(const Change& change, Now now);
    struct Touched {
        std::vector<std::string> keys;
        bool all = true;  // These are all keys of the poll.
    };
    [[nodiscard]] Touched keys_of(const Name& stream, const std::string& poll) const;

    void on_hello(const std::string& peer, const protocol::Hello& hello, Now now);
    void on_ask(const std::string& peer, const protocol::Ask& ask, Now now);
    void on_snapshot_request(const std::string& peer, const protocol::SnapshotRequest& request,
                             Now now);
    void on_history(const std::string& peer, const protocol::HistoryRequest& request, Now now);
    void answer_waiting(Now now);
    void answer_snapshot(const std::string& peer, const protocol::SnapshotRequest& request,
                         Now now);
    void adopt_epoch(std::string epoch, Now now);

    void finish(Now now);
    void flush(Now now);
    void submit(std::size_t known, Now now);
    void stamp(Message& message, const std::string& epoch);
    void make_visible(Message& message);
    void publish(const Message& message);
    void publish_head(Now now);
    [[nodiscard]] bool commit_hangs(Now now) const;
    [[nodiscard]] Flow flow_of(const Stream& stream) const { return {run_, stream.flowed}; }
    void on_refused(const Error& error, Now now);
    void flow(std::vector<Message> messages, std::size_t from);
    void flow_pending();
    std::size_t put_back_in_force(Now now);

    BrokerOutputs& outputs_;
    Ingest ingest_;
    Random random_;
    Freshness freshness_;
    std::string epoch_;
    std::string next_epoch_;    // To be committed; mostly empty.
    std::string renewed_from_;  // The epoch before a renewal in this run.
    std::map<std::string, protocol::SnapshotRequest> waiting_;  // By peer, for a commit.
    std::uint64_t pos_ = 0;                                     // Stamped.
    std::uint64_t committed_pos_ = 0;                           // Visible.
    std::map<Name, Stream> streams_;

    std::map<Name, std::map<std::string, Message>> state_;  // Committed: what a snapshot holds.
    std::map<Name, std::map<std::string, Key>> keys_;       // Delivered, committed or not.
    std::size_t key_count_ = 0;
    std::size_t state_bytes_ = 0;  // Of keys_.
    /// By poll: keys whose newest value is not held. No report is good while there are any.
    std::map<Name, std::set<std::string>> refused_;
    Mono refused_logged_{};
    std::set<std::pair<Name, std::string>> left_out_;  // From snapshots, and logged.
    /// Of those that no poll feeds, the ones that the origin's present instance has not sent.
    std::map<Name, std::set<std::string>> left_;
    Polls visible_polls_;
    std::vector<PollState> restored_polls_;

    Pending pending_;
    /// Events and gaps of instances that have ended, until they are in the log: no producer has
    /// them any more.
    std::vector<Message> left_behind_;
    std::optional<InFlight> in_flight_;
    Mono next_head_{};
    bool head_held_ = false;  // By a commit that does not return.
    std::optional<Mono> head_held_logged_;

    std::uint64_t run_ = 0;  // Of the broker, among its lives: the time of its start.
    bool degraded_ = false;
    Mono retry_at_{};
    std::map<std::pair<Name, std::string>, Message>
        overlay_;  // Published, not durable. The newest of each key.
    std::map<std::pair<Name, std::string>, Change>
        flowed_;  // Transitions that were not logged: topic, poll.
    Polls flowed_polls_;
    std::set<std::string> flowed_origins_;

    Counts counts_;
};

}  // namespace sigmacast::broker
