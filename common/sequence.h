// The sequenced stream: order and completeness over a transport that drops. Both hops use it
// (producer to broker, broker to edge). A Sender stamps messages with contiguous positions per
// stream, keeps a bounded ring and answers ranges; a Receiver delivers in order, drops duplicates,
// finds a gap by a later position or by a head, and asks for the range until it has it or the owner
// must fall back.
//
//     sender.push(topic, key, is_event, message, bytes, now)  ->  position, to be published
//     receiver.on_item(seq, message, now)                     ->  what is deliverable now, and what
//     to ask for
//
// Pure: no socket, no thread, no clock. `T` is what is carried. The caller owns the epoch: a new
// one is a new Receiver.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <iterator>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/random.h"
#include "common/time.h"

namespace sigmacast::sequence {

/// Positions beyond this are nonsense, and ignored. (It is also the largest integer of the
/// database.)
inline constexpr std::uint64_t kSeqMax = std::numeric_limits<std::int64_t>::max();

/// Inclusive at both ends; empty where `to` is below `from`.
struct Range {
    std::uint64_t from = 0;
    std::uint64_t to = 0;
    friend bool operator==(const Range&, const Range&) = default;
};

template <class T>
struct Item {
    std::uint64_t seq = 0;
    T value;
};

/// The answer to a range: what is here, and what was superseded by a newer value of the same key
/// (which counts as received). What is in neither is lost.
template <class T>
struct RangeReply {
    Range range;
    std::vector<Item<T>> items;
    std::vector<Range> superseded;
    std::uint64_t newest = 0;  // Of the stream then: no newer value of a superseded one is beyond.
};

struct ReceiverLimits {
    std::size_t hold_back_max =
        1024;  // Items kept ahead of a gap; beyond it they are dropped, and asked for again.
    std::uint64_t ask_max = 1024;  // Positions asked for at once.
    int tries_max = 6;             // Then the owner is told to fall back.
    Millis retry_min{50};          // Doubles with each try, plus up to as much again at random.
};

template <class T>
class Receiver {
 public:
    struct Actions {
        std::vector<Item<T>> deliver;  // In order, each position once.
        std::vector<Range> lost;       // The other side has them no more.
        std::optional<Range> ask;      // Send this request now.
        bool fall_back = false;        // Asking has not helped: take a snapshot, or call skip().
    };

    /// `next`: the first position to deliver.
    explicit Receiver(std::uint64_t next = 1, ReceiverLimits limits = {})
        : next_(next), limits_(limits) {}

    Actions on_item(std::uint64_t seq, T value, Mono now, Random& random) {
        Actions actions;
        if (seq > kSeqMax) {
            return actions;
        }
        if (seq == next_) {
            deliver(std::move(value), actions);  // Most come in order: nothing is kept.
        } else {
            hold(seq, std::move(value), false);
        }
        known_ = std::max(known_, seq);
        release(actions);
        consider_asking(actions, now, random);
        return actions;
    }

    /// The sender's newest position.
    Actions on_head(std::uint64_t seq, Mono now, Random& random) {
        Actions actions;
        if (seq <= kSeqMax) {
            known_ = std::max(known_, seq);
        }
        consider_asking(actions, now, random);
        return actions;
    }

    /// A reply that does not reach `next`, or says nothing, changes nothing: the request is
    /// repeated in its time, and is then given up. So neither a late duplicate nor a sender that
    /// knows less than we do makes us ask in a circle. Of what is outside of its range it says
    /// nothing.
    Actions on_range(RangeReply<T> reply, Mono now, Random& random) {
        Actions actions;
        if (reply.range.to > kSeqMax) {
            return actions;
        }
        const std::uint64_t before = next_;
        const bool joins = reply.range.from <= next_;
        for (Item<T>& item : reply.items) {
            if (reply.range.from <= item.seq && item.seq <= reply.range.to) {
                hold(item.seq, std::move(item.value), joins);
                known_ = std::max(known_, item.seq);
            }
        }
        if (joins) {
            // What was asked for was known: of later positions a reply says nothing that could be
            // believed.
            pass_over(std::min(reply.range.to, known()), std::move(reply.superseded), actions);
        }
        if (next_ > before) {
            tries_ = 0;
            asked_until_.reset();
        }
        consider_asking(actions, now, random);
        return actions;
    }

    Actions on_timer(Mono now, Random& random) {
        Actions actions;
        consider_asking(actions, now, random);
        return actions;
    }

    /// When on_timer() wants to be called.
    [[nodiscard]] std::optional<Mono> deadline() const { return asked_until_; }

    /// What is missing up to the newest position known is lost: delivers what is held behind it.
    Actions give_up() {
        Actions actions;
        pass_over(known(), {}, actions);
        return actions;
    }

    /// Begins again after `seq`, which was delivered; what is known of stays known.
    void go_back(std::uint64_t seq) {
        next_ = seq + 1;
        held_.clear();
        tries_ = 0;
        asked_until_.reset();
    }

    /// Goes on after `seq`: what was before is in a snapshot, or given up.
    Actions skip(std::uint64_t seq) {
        Actions actions;
        next_ = std::max(next_, seq + 1);
        known_ = std::max(known_, seq);
        held_.erase(held_.begin(), held_.lower_bound(next_));
        tries_ = 0;
        asked_until_.reset();
        release(actions);
        return actions;
    }

    /// The newest position delivered or passed over; all before it are.
    [[nodiscard]] std::uint64_t delivered() const { return next_ - 1; }
    /// The newest position heard of.
    [[nodiscard]] std::uint64_t known() const { return std::max(known_, next_ - 1); }
    [[nodiscard]] bool complete() const { return known_ < next_; }
    /// Where the current gap ends: the position before the first held item, or the newest one
    /// known.
    [[nodiscard]] std::uint64_t gap_end() const {
        return held_.empty() ? known() : held_.begin()->first - 1;
    }
    /// What to ask for, unless it is complete().
    [[nodiscard]] Range missing() const {
        return {next_, std::min(gap_end(), next_ + limits_.ask_max - 1)};
    }

 private:
    void deliver(T value, Actions& actions) {
        actions.deliver.push_back({next_++, std::move(value)});
    }

    void release(Actions& actions) {
        while (!held_.empty() && held_.begin()->first == next_) {
            deliver(std::move(held_.begin()->second), actions);
            held_.erase(held_.begin());
        }
        if (complete()) {
            tries_ = 0;
            asked_until_.reset();
        }
    }

    /// `wanted`: it is about to be delivered, so the bound on what waits does not apply.
    void hold(std::uint64_t seq, T value, bool wanted) {
        if (seq >= next_ && (wanted || held_.size() < limits_.hold_back_max)) {
            held_.emplace(seq, std::move(value));
        }
    }

    /// Delivers what is held up to `to`; a position that is neither held nor superseded is lost.
    void pass_over(std::uint64_t to, std::vector<Range> superseded, Actions& actions) {
        std::sort(superseded.begin(), superseded.end(),
                  [](const Range& a, const Range& b) { return a.from < b.from; });
        auto range = superseded.begin();
        while (true) {
            release(actions);
            if (next_ > to) {
                return;
            }
            while (range != superseded.end() && range->to < next_) {
                ++range;
            }
            const std::uint64_t hole_end =
                held_.empty() ? to : std::min(to, held_.begin()->first - 1);
            if (range == superseded.end()) {
                actions.lost.push_back({next_, hole_end});
                next_ = hole_end + 1;
            } else if (range->from <= next_) {
                next_ = std::min(range->to, hole_end) + 1;
            } else {
                const std::uint64_t lost_end = std::min(hole_end, range->from - 1);
                actions.lost.push_back({next_, lost_end});
                next_ = lost_end + 1;
            }
        }
    }

    void consider_asking(Actions& actions, Mono now, Random& random) {
        if (complete() || (asked_until_ && now < *asked_until_)) {
            return;
        }
        if (tries_ >= limits_.tries_max) {
            actions.fall_back = true;
            tries_ = 0;
            asked_until_ = now + limits_.retry_min * (1 << limits_.tries_max);
            return;
        }
        const Millis wait = limits_.retry_min * (1 << tries_);
        asked_until_ = now + wait + random.upto(wait);
        ++tries_;
        actions.ask = missing();
    }

    std::uint64_t next_;
    ReceiverLimits limits_;
    std::uint64_t known_ = 0;
    std::map<std::uint64_t, T> held_;  // Behind next_, always.
    int tries_ = 0;
    std::optional<Mono> asked_until_;
};

struct SenderLimits {
    std::size_t events_max = 10'000;    // Kept at least this many events a stream ...
    Millis age_min{10 * 60 * 1000};     // ... or this long, whichever keeps more,
    std::size_t bytes_max = 64u << 20;  // within this many bytes, all streams together.
    std::size_t ends_kept = 256;  // Durable last values a stream, for a log that comes back older.
    std::size_t reply_items_max = 1024;
    std::size_t reply_bytes_max = 4u << 20;  // But one item at least; the rest is asked for again.
};

/// Stamps and keeps what was sent. Of a state stream the newest value of each key is kept; of an
/// event stream every event, until it is durable on the other side and then within the limits.
template <class T>
class Sender {
 public:
    explicit Sender(SenderLimits limits = {}) : limits_(limits) {}

    /// The position of the next push to this stream.
    [[nodiscard]] std::uint64_t next(const std::string& topic) const {
        const auto it = streams_.find(topic);
        return it == streams_.end() ? 1 : it->second.last + 1;
    }

    /// Stamps `value` and keeps it. `bytes` is what it weighs against the bound. Returns its
    /// position, or nullopt when an event finds the ring full of events that are not durable yet:
    /// wait for durable(), or call lose().
    std::optional<std::uint64_t> push(const std::string& topic, const std::string& key, bool event,
                                      T value, std::size_t bytes, Mono now) {
        Stream& stream = streams_[topic];
        if (bytes_ + bytes > limits_.bytes_max) {
            evict(limits_.bytes_max > bytes ? limits_.bytes_max - bytes : 0, now);
            if (event && bytes_ + bytes > limits_.bytes_max) {
                return std::nullopt;
            }
        }
        const std::uint64_t seq = ++stream.last;
        if (!event) {
            supersede(stream, key);
            stream.newest_of_key[key] = seq;
            stream.conflates = true;
        }
        stream.ring.emplace(seq, Entry{std::move(value), key, bytes, now, event});
        stream.events += event ? 1u : 0u;
        bytes_ += bytes;
        trim(stream, now);
        return seq;
    }

    /// The newest value of this key is its last one: it is forgotten once it is durable and
    /// `ends_kept` later ones are there, or when more than `events_max` ended keys of the stream
    /// wait for that (the oldest then counts as superseded).
    void end(const std::string& topic, const std::string& key) {
        const auto it = streams_.find(topic);
        if (it == streams_.end()) {
            return;
        }
        Stream& stream = it->second;
        const auto newest = stream.newest_of_key.find(key);
        if (newest == stream.newest_of_key.end()) {
            return;
        }
        stream.ended.insert(newest->second);
        stream.newest_of_key.erase(newest);
        forget_ended(stream);
    }

    /// Consumes a position without a message: a declared gap.
    std::uint64_t lose(const std::string& topic) { return ++streams_[topic].last; }

    /// The other side's log has nothing of this stream: of keys that have ended it need not hear.
    void forget_ends(const std::string& topic) {
        const auto it = streams_.find(topic);
        if (it != streams_.end()) {
            forget_ended(it->second, 0);
        }
    }

    /// Everything up to `seq` is in the other side's log.
    void durable(const std::string& topic, std::uint64_t seq, Mono now) {
        const auto it = streams_.find(topic);
        if (it != streams_.end()) {
            it->second.durable = std::max(it->second.durable, std::min(seq, it->second.last));
            forget_ended(it->second);
            trim(it->second, now);
        }
    }

    /// What is here of a range. It ends where this Sender's knowledge or a bound ends: a range that
    /// is empty says that none of it has been pushed.
    [[nodiscard]] RangeReply<T> answer(const std::string& topic, Range asked) const {
        asked.from = std::max<std::uint64_t>(asked.from, 1);
        const auto it = streams_.find(topic);
        if (it == streams_.end()) {
            return {.range = {asked.from, 0}, .items = {}, .superseded = {}, .newest = 0};
        }
        const Stream& stream = it->second;
        asked.to = std::min(asked.to, stream.last);
        RangeReply<T> reply{.range = asked, .items = {}, .superseded = {}, .newest = stream.last};
        std::size_t bytes = 0;
        std::uint64_t expected = asked.from;
        for (auto entry = stream.ring.lower_bound(asked.from);
             entry != stream.ring.end() && entry->first <= asked.to; ++entry) {
            note_superseded(stream, expected, entry->first - 1, reply);
            bytes += entry->second.bytes;
            if (reply.items.size() == limits_.reply_items_max ||
                (bytes > limits_.reply_bytes_max && !reply.items.empty())) {
                reply.range.to = entry->first - 1;
                return reply;
            }
            reply.items.push_back({entry->first, entry->second.value});
            expected = entry->first + 1;
        }
        note_superseded(stream, expected, asked.to, reply);
        return reply;
    }

    /// Newest position of each stream.
    [[nodiscard]] std::vector<std::pair<std::string, std::uint64_t>> heads() const {
        std::vector<std::pair<std::string, std::uint64_t>> heads;
        for (const auto& [topic, stream] : streams_) {
            heads.emplace_back(topic, stream.last);
        }
        return heads;
    }

    /// Positions that are not durable yet, all streams together.
    [[nodiscard]] std::uint64_t undurable() const {
        std::uint64_t count = 0;
        for (const auto& [topic, stream] : streams_) {
            count += stream.last - stream.durable;
        }
        return count;
    }
    [[nodiscard]] std::size_t bytes() const { return bytes_; }

 private:
    struct Entry {
        T value;
        std::string key;
        std::size_t bytes = 0;
        Mono at;
        bool event = false;
    };
    struct Stream {
        std::uint64_t last = 0;
        std::uint64_t durable = 0;
        std::map<std::uint64_t, Entry> ring;
        std::size_t events = 0;  // In the ring.
        std::unordered_map<std::string, std::uint64_t> newest_of_key;
        std::set<std::uint64_t> ended;  // Last values of keys.
        bool conflates = false;         // A state stream: what is missing here was superseded.
    };

    void supersede(Stream& stream, const std::string& key) {
        const auto newest = stream.newest_of_key.find(key);
        if (newest != stream.newest_of_key.end()) {
            drop(stream, stream.ring.find(newest->second));
        }
    }

    void forget_ended(Stream& stream) { forget_ended(stream, limits_.ends_kept); }

    void forget_ended(Stream& stream, std::size_t kept) {
        while (!stream.ended.empty() &&
               ((*stream.ended.begin() <= stream.durable && stream.ended.size() > kept) ||
                stream.ended.size() > limits_.events_max)) {
            drop(stream, stream.ring.find(*stream.ended.begin()));
            stream.ended.erase(stream.ended.begin());
        }
    }

    typename std::map<std::uint64_t, Entry>::iterator drop(
        Stream& stream, typename std::map<std::uint64_t, Entry>::iterator entry) {
        if (entry == stream.ring.end()) {
            return entry;
        }
        bytes_ -= entry->second.bytes;
        stream.events -= entry->second.event ? 1u : 0u;
        return stream.ring.erase(entry);
    }

    static void note_superseded(const Stream& stream, std::uint64_t from, std::uint64_t to,
                                RangeReply<T>& reply) {
        if (from <= to && stream.conflates) {
            reply.superseded.push_back({from, to});
        }
    }

    /// Forgets durable events that are beyond both the count and the age.
    void trim(Stream& stream, Mono now) {
        auto entry = stream.ring.begin();
        while (stream.events > limits_.events_max && entry != stream.ring.end()) {
            if (!entry->second.event) {
                ++entry;  // State of the same topic stays.
                continue;
            }
            const bool young = elapsed(entry->second.at, now) < limits_.age_min;
            if (young || entry->first > stream.durable) {
                return;
            }
            entry = drop(stream, entry);
        }
    }

    /// Makes room by forgetting what is durable and no newest value: ends, and events, oldest first
    /// in each stream, whatever their age.
    void evict(std::size_t target, Mono) {
        for (auto& [topic, stream] : streams_) {
            forget_ended(stream, 0);
            auto entry = stream.ring.begin();
            while (bytes_ > target && entry != stream.ring.end() &&
                   entry->first <= stream.durable) {
                entry = entry->second.event ? drop(stream, entry) : std::next(entry);
            }
        }
    }

    SenderLimits limits_;
    std::map<std::string, Stream> streams_;
    std::size_t bytes_ = 0;
};

}  // namespace sigmacast::sequence
