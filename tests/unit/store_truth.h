// What a Store was told and what it said, step by step; and whether a database, opened anew, can be
// what was left of that: everything that was acknowledged, of one batch that was not all or
// nothing, and nothing else. For the tests of faults and of power cuts.
//
//     Truth truth(random);
//     truth.batch(store, now);             // commits something, and notes the answer
//     truth.trim(store, now, keep);
//     EXPECT_EQ("", truth.judge(path, truth.steps()));
//
// Values; no thread of its own.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "common/random.h"
#include "storage/store.h"

namespace sigmacast::storage {

class Truth {
 public:
    explicit Truth(std::uint64_t seed);

    /// Called after each step, with the number of steps there are. A batch is two: told, and
    /// answered.
    std::function<void(std::uint64_t)> on_step;
    /// A liar of a store, to see that it is found: says yes before it has committed.
    bool acknowledge_early = false;

    void opened(const Loaded& loaded);
    bool batch(Store& store, std::size_t rows_max = 12);
    /// Removes what is older than `keep`.
    void trim(Store& store, Millis keep);
    void advance(Millis by);
    [[nodiscard]] Now now() const { return now_; }
    [[nodiscard]] const std::string& epoch() const { return epoch_now_; }
    [[nodiscard]] std::uint64_t steps() const { return steps_.size(); }

    /// What a fault may have done. kLoud: the disk gave wrong bytes, so that something may be gone
    /// or a gap if the store says so; what it does give has to be right.
    enum class Harm : std::uint8_t { kNone, kLoud };
    /// Opens the database and holds it against the first `steps` steps. Empty, or what is wrong.
    [[nodiscard]] std::string judge(const std::string& path, std::uint64_t steps,
                                    Harm harm = Harm::kNone) const;

    std::uint64_t random(std::uint64_t below);

 private:
    enum class What : std::uint8_t { kTold, kAcknowledged, kRefused, kTrim };
    struct Step {
        What what = What::kTold;
        Batch batch = {};         // kTold.
        std::int64_t cutoff = 0;  // kTrim: rows before it may go.
    };
    /// What a database may hold.
    struct Held {
        std::uint64_t pos = 0;
        std::string epoch;
        std::map<std::uint64_t, Message> rows;
        std::map<std::string, Message> values;      // By origin, topic and key.
        std::map<std::string, std::uint64_t> seqs;  // By origin and topic.
        std::map<std::string, std::uint64_t> pseqs;
        std::map<std::string, std::uint64_t> polls;  // The report's seq.
        std::set<std::uint64_t> may_be_gone;

        void add(const Batch& batch);
    };

    void step(Step step);
    [[nodiscard]] std::string find_silent(const Loaded& loaded,
                                          const std::vector<Message>& rows) const;
    Message row();
    [[nodiscard]] std::string compare(Held held, Store& store, const Loaded& loaded,
                                      const std::vector<Message>& rows) const;

    Random random_;
    Now now_{Mono{Seconds{1000}}, Wall{Seconds{1'800'000'000}}};
    std::string epoch_;  // At the beginning.
    std::string epoch_now_;
    std::uint64_t pos_ = 0;
    bool full_ = false;  // The disk was, and the store has no reserve yet.
    std::map<std::string, std::uint64_t> seqs_;
    std::map<std::string, std::uint64_t> pseqs_;
    std::vector<Step> steps_;
};

}  // namespace sigmacast::storage
