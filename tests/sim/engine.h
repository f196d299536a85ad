// The engine that is asked: its figures change by themselves, jobs come and end, and it answers
// well, late, with errors, with garbage, or not at all. It says of each good answer what it stated.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "common/http.h"
#include "common/settings.h"
#include "tests/sim/timeline.h"
#include "tests/sim/truth.h"

namespace sigmacast::sim {

enum class Mood {
    kWell,
    kRefuses,
    kHangs,
    kHttpError,
    kRpcError,
    kGarbage,
    kLacksMethod,
    kSlow,
    kCutsLists
};
inline constexpr int kMoods = 9;

/// The polls of a simulated producer.
std::vector<PollSettings> sim_polls();

struct Reply {
    std::optional<Result<http::Response>> response;  // None: it never comes.
    Micros delay{0};
    std::string poll;  // Of a good answer: which, and what it stated.
    std::vector<Fact> facts;
};

class Engine {
 public:
    explicit Engine(Timeline& time) : time_(time) {}

    Reply ask(std::uint64_t id, const std::string& method, const std::string& job);
    /// A little of its life: called now and then.
    void live();
    /// Its memory is new: jobs are gone without a trace, counters begin anew.
    void restart();

    Mood mood = Mood::kWell;
    std::map<std::string, Mood> method_moods;
    bool alive = true;  // False: its figures stand still (for the convergence at the end).

    [[nodiscard]] std::map<std::pair<std::string, std::string>, std::string> state() const;

 private:
    struct Job {
        std::uint64_t progress = 0;
        bool ended = false;
    };
    [[nodiscard]] Reply good(std::uint64_t id, const std::string& method, const std::string& job,
                             bool cut) const;

    Timeline& time_;
    std::uint64_t v_ = 1;
    std::uint64_t size_ = 1;
    std::uint64_t tasks_ = 1;
    std::uint64_t next_job_ = 1;
    std::map<std::string, Job> jobs_;
};

}  // namespace sigmacast::sim
