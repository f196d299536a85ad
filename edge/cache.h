// The newest value of every key that this edge knows, and how far each can be trusted. Data becomes
// JSON text once, here; everything that is sent later is spliced from it.
//
// A value's own age is what its message, its poll's reports and the broker's transitions said.
// While the uplink is down effective() overrides that: the value is kept and called stale, because
// nobody can tell.
//
// Pure. Runs on: the loop. Bounds: kEntriesMax values, kBytesMax of data (as JSON and as msgpack),
// kPollsMax polls, kStreamsMax streams; what is beyond them still passes through to the clients,
// but is not kept.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/message.h"
#include "common/protocol.h"
#include "edge/render.h"

namespace sigmacast::edge {

class Cache {
 public:
    static constexpr std::size_t kEntriesMax = 100'000;
    static constexpr std::size_t kBytesMax = 256u << 20;
    static constexpr std::size_t kPollsMax = 10'000;
    static constexpr std::size_t kStreamsMax = 20'000;

    explicit Cache(std::size_t bytes_max = kBytesMax) : bytes_max_(bytes_max) {}

    /// One poll and what is known of it.
    struct Poll {
        PollState state;
        const Stream* stream = nullptr;
        std::uint64_t transition_slot = 0;  // For conflation, as Value::slot.
        std::uint64_t tick_slot = 0;
        std::optional<Mono> ticked;  // When clients were last told that its values are no older.

        /// No poll at all: heads vouch for this state (common/WIRE.md).
        [[nodiscard]] bool is_state() const { return is_state_poll(state.report.poll); }
    };
    using Entries = std::map<std::string, std::shared_ptr<Value>>;  // By key: "" (a summary) first.

    /// Takes a value or an event. A state value is kept; a final one ends its key; nullptr for one
    /// that is older than what is kept. Errors: kInvalid, kTooLarge where the data cannot become
    /// JSON; the value before it stays, and is stale from then on.
    Result<std::shared_ptr<const Value>> put(const Message& message);

    /// A transition of the broker's. Returns its poll (nullptr where nothing is known of it) and
    /// the keys that it calls live and the poll's lists do not name.
    struct TransitionChange {
        const Poll* poll = nullptr;
        std::vector<std::string> left;
    };
    TransitionChange transition(const Message& message);

    /// A newer state of a poll. Values that a good report names are as new as the report.
    /// Returns the poll (nullptr for one without a name or a topic), whether quality, reason or
    /// source differ from what was known, whether a value's do though the poll's do not, whether a
    /// good report says more than the values that came before it, and which keys were live and are
    /// vouched for no more, or are again.
    struct PollChange {
        Poll* poll = nullptr;
        bool quality_changed = false;
        bool values_changed = false;
        bool new_report = false;
        bool confirms = false;
        std::vector<std::string> left;
        std::vector<std::string> back;
    };
    PollChange poll(const PollState& state);
    /// Quality and why; not since when.
    [[nodiscard]] static bool same_quality(const Age& a, const Age& b) {
        return a.quality == b.quality && a.reason == b.reason && a.source == b.source;
    }

    /// A list that names a key less often than this, and the poll's interval, says nothing of it.
    static constexpr Millis kUnlistedMax{2'000};
    /// The keys of a poll by whether it vouches for them: of state that no poll feeds, what an
    /// earlier instance left; of a poll, what its good lists have not named for so long.
    struct Keys {
        std::vector<std::string> vouched;
        std::vector<std::string> left;
    };
    [[nodiscard]] Keys keys_of(const Poll& poll) const;
    /// The age of those that are left, without the time.
    [[nodiscard]] static Age left_age(const Poll& poll);

    /// Replaces everything by a snapshot, polls too: pointers to them end here. Values that came
    /// after it are kept where the epoch is the same. Returns those that the snapshot lacks.
    std::vector<std::shared_ptr<const Value>> replace(const protocol::Snapshot& snapshot);

    /// As it is told to clients, without being kept. Errors as of put().
    Result<std::shared_ptr<Value>> make_value(const Message& message);

    void set_uplink(bool up) { uplink_ = up; }
    [[nodiscard]] bool uplink() const { return uplink_; }
    /// `age` as it is to be told: stale, BROKER_UNREACHABLE while the uplink is down.
    [[nodiscard]] Age effective(Age age) const;

    [[nodiscard]] const std::vector<std::unique_ptr<Poll>>& polls() const { return polls_; }
    [[nodiscard]] const Poll* find_poll(std::string_view origin, std::string_view poll) const;
    /// Every value of a topic, origins one after the other.
    void each_of_topic(std::string_view topic,
                       const std::function<void(const Value&)>& visit) const;
    void each_topic(const std::function<void(const std::string&)>& visit) const;
    /// The values of one (origin, topic); nullptr where there are none.
    [[nodiscard]] const Entries* find(std::string_view origin, std::string_view topic) const;
    [[nodiscard]] const Value* find(std::string_view origin, std::string_view topic,
                                    std::string_view key) const;
    /// Whether anything was ever heard of this topic.
    [[nodiscard]] bool knows(std::string_view topic) const;
    /// The stable name of a stream; nullptr beyond kStreamsMax.
    const Stream* stream(std::string_view origin, std::string_view topic);
    /// nullptr where nothing was heard of it.
    [[nodiscard]] const Stream* find_stream(std::string_view origin, std::string_view topic) const;

    [[nodiscard]] const std::string& epoch() const { return epoch_; }
    [[nodiscard]] std::uint64_t pos() const { return pos_; }
    void set_pos(std::uint64_t pos) { pos_ = pos > pos_ ? pos : pos_; }
    [[nodiscard]] std::size_t entries() const { return entries_; }
    [[nodiscard]] std::size_t bytes() const { return bytes_; }
    /// Values that were passed on and not kept, for want of room.
    [[nodiscard]] std::uint64_t not_kept() const { return not_kept_; }

 private:
    using Origins = std::map<std::string, Entries, std::less<>>;

    [[nodiscard]] Value* entry(std::string_view origin, std::string_view topic,
                               std::string_view key) const;
    void keep(std::shared_ptr<Value> value);
    void erase(const Stream& stream, const std::string& key);
    Poll* make_poll(PollState state);
    bool apply_report(const Report& report, const std::string& origin);
    void apply_quality(PollChange& change);

    const std::size_t bytes_max_;
    std::map<std::string, Origins, std::less<>> topics_;
    std::map<std::pair<std::string, std::string>, std::unique_ptr<Stream>, std::less<>> streams_;
    std::set<std::string, std::less<>> topic_names_;
    std::vector<std::unique_ptr<Poll>> polls_;
    std::map<std::pair<std::string, std::string>, Poll*> poll_index_;  // (origin, poll)
    std::string epoch_;
    std::uint64_t pos_ = 0;
    std::uint64_t next_slot_ = 1;
    std::size_t entries_ = 0;
    std::size_t bytes_ = 0;
    std::uint64_t not_kept_ = 0;
    bool uplink_ = false;
};

}  // namespace sigmacast::edge
