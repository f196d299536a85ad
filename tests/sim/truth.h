// What is true, kept apart from the product: what the engine answered and when, what was published,
// what the database took. Each thing that a broker or a client says is held against it.
//
// It knows the product's promises, not its code. A check that fails throws Violation.
#pragma once

#include <boost/json/object.hpp>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/protocol.h"
#include "storage/records.h"
#include "tests/sim/timeline.h"

namespace sigmacast::sim {

/// What tells one version of a value from another, from its data: topics of the simulation carry a
/// number that rises.
std::string content_of(const boost::json::object& data);
std::string content_of(const Bytes& data);
bool is_event_topic(std::string_view topic);

struct Fact {
    std::string topic;
    std::string key;
    std::string content;
};

struct PollRules {
    std::string name;
    std::string topic;
    Millis interval{0};
    Millis deadline{0};
};

class Truth {
 public:
    using StreamName = std::pair<std::string, std::string>;  // origin, topic

    struct Row {
        Kind kind = Kind::kValue;
        std::string origin;
        std::string topic;
        std::string key;
        std::string content;
        std::uint64_t seq = 0;
        std::uint64_t pos = 0;
        bool final = false;
    };
    struct Said {
        std::string content;
        AsOf at;
        std::uint64_t life = 0;
        std::uint64_t order = 0;  // Among what was said at the same time, too.
    };

    explicit Truth(Timeline& time) : time_(time) {}

    // ---- What happened ----
    void declare(const std::string& origin, const PollRules& poll) {
        polls_[{origin, poll.name}] = poll;
    }
    /// A living producer has read a good answer in time.
    void answered(const std::string& origin, const std::string& poll,
                  const std::vector<Fact>& facts, std::uint64_t life);
    /// The end of a job, told by the engine.
    void published(const Message& message, std::uint64_t life);
    void committed(const storage::Batch& batch, const Result<storage::Committed>& result);
    void restarted(const storage::Loaded& loaded);
    [[nodiscard]] std::uint64_t restarts() const { return restarts_; }
    /// A producer is told what is durable.
    void told_durable(const std::string& origin, std::uint64_t epoch,
                      const std::vector<Mark>& marks);
    /// The broker's disk refuses: what goes out has no position.
    void flows(bool on) {
        flows_ = on;
        flowed_ = time_.mono();
    }
    [[nodiscard]] bool flowed_lately() const {
        return flows_ || (flowed_ != Mono{} && elapsed(flowed_, time_.mono()) < Millis{15'000});
    }
    void life_of(const std::string& origin, std::uint64_t life) { lives_[origin] = life; }

    // ---- Faults, by hop: "producer nas", "broker", "uplink edge-1", "edge edge-1", "client c1"
    // ----
    void fault(const std::string& hop, bool on);
    /// Nothing has been wrong there for so long that what was has been overcome.
    [[nodiscard]] bool settled(const std::string& hop, Millis for_so_long) const;

    // ---- What may be asked ----
    [[nodiscard]] const Row* row(std::uint64_t pos) const;
    [[nodiscard]] std::uint64_t pos() const { return rows_.size(); }
    [[nodiscard]] const std::string& epoch() const { return epoch_; }
    [[nodiscard]] const std::vector<Row>& rows() const { return rows_; }
    /// Newest row of each key up to `pos`, without those that have ended.
    [[nodiscard]] std::map<std::pair<StreamName, std::string>, const Row*> state_at(
        std::uint64_t pos) const;
    /// Whether the key's value was this at that time. Returns the monotonic time of it.
    [[nodiscard]] std::optional<Mono> was(const std::string& origin, const std::string& topic,
                                          const std::string& key, const std::string& content,
                                          Wall as_of) const;
    /// Whether its producer has said that the key has ended.
    [[nodiscard]] bool said_final(const std::string& origin, const std::string& topic,
                                  const std::string& key) const {
        return said_final_.contains({{origin, topic}, key});
    }
    /// Whether the key had ever this value.
    [[nodiscard]] bool ever(const std::string& origin, const std::string& topic,
                            const std::string& key, const std::string& content) const;
    [[nodiscard]] const PollRules* poll(const std::string& origin, const std::string& name) const;
    /// The last good answer of a poll, or the last head of an origin (poll empty).
    [[nodiscard]] std::optional<Mono> last_good(const std::string& origin,
                                                const std::string& poll) const;
    /// When a good answer last named this key.
    [[nodiscard]] std::optional<Mono> last_named(const std::string& origin,
                                                 const std::string& topic,
                                                 const std::string& key) const;
    /// Whether the poll had a good answer at that time.
    [[nodiscard]] bool answered_at(const std::string& origin, const std::string& poll,
                                   Wall as_of) const;
    /// The first good answer after which there was none that failed.
    void failed(const std::string& origin, const std::string& poll) {
        good_since_.erase({origin, poll});
    }
    [[nodiscard]] std::optional<Mono> good_since(const std::string& origin,
                                                 const std::string& poll) const;
    /// Events of living producers that are not in the log.
    [[nodiscard]] std::size_t unlogged() const;
    [[nodiscard]] std::string unlogged_text() const;
    [[nodiscard]] std::uint64_t trimmed() const { return trimmed_; }

 private:
    struct Pushed {
        std::string data;
        Wall at;
        std::uint64_t epoch = 0;
        std::uint64_t seq = 0;
        std::uint64_t life = 0;
    };
    struct Events {
        std::vector<Pushed> pushed;
        std::size_t logged = 0;  // The index after the newest that is in the log.
    };
    struct Position {
        std::uint64_t epoch = 0;
        std::uint64_t pseq = 0;
    };
    struct Hop {
        int faults = 0;
        Mono since{};
    };
    using KeyName = std::pair<StreamName, std::string>;

    void log_event(const Message& row);
    void check_position(const storage::Position& position);
    [[nodiscard]] std::uint64_t life_now(const std::string& origin) const;

    Timeline& time_;
    std::map<StreamName, PollRules> polls_;      // origin, poll
    std::map<KeyName, std::vector<Said>> said_;  // Polled state: each good answer.
    std::map<KeyName, std::vector<Said>> told_;  // State without a poll: each change.
    std::map<std::string, std::vector<Said>> heads_;
    std::uint64_t order_ = 0;
    std::map<StreamName, Mono> last_good_;
    std::map<std::pair<std::string, std::string>, std::set<Wall>> answers_;
    std::map<StreamName, Mono> good_since_;
    std::map<std::string, std::uint64_t> lives_;
    std::map<StreamName, Events> events_;
    std::map<StreamName, Position> positions_;
    std::map<StreamName, std::uint64_t> seqs_;
    std::set<KeyName> ended_;
    std::set<KeyName> said_final_;
    bool flows_ = false;
    Mono flowed_{};
    std::vector<Row> rows_;
    std::string epoch_;
    std::map<std::string, Hop> hops_;
    std::uint64_t trimmed_ = 0;
    std::uint64_t restarts_ = 0;  // Of the broker.
};

}  // namespace sigmacast::sim
