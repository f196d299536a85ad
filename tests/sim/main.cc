// The whole system in one test, in virtual time, from a seed. See README.md.
#include <boost/json.hpp>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include <unistd.h>

#include "common/log.h"
#include "tests/sim/world.h"

namespace sigmacast::sim {
namespace {

constexpr const char* kUsage =
    R"(usage: sigmacast-sim [--seeds N] [--first N] [--seconds N] [--seed N [--trace]] [--kept FILE] [--twice]
  --seeds N    run N seeds (default 1000), after those of --kept
  --first N    the first of them (default 1)
  --seconds N  stop after so long, however many that were
  --seed N     run one
  --trace      say what happens, message by message
  --kept FILE  seeds that once failed, one a line; # begins a comment
  --keep-going go on after a seed that failed
  --twice      run each seed twice: both runs must be the same
)";

struct Arguments {
    std::uint64_t seeds = 1000;
    std::uint64_t first = 1;
    std::uint64_t seconds = 0;
    std::optional<std::uint64_t> seed;
    bool trace = false;
    bool twice = false;
    bool keep_going = false;
    std::string kept;
};

std::optional<Arguments> read_arguments(int argc, char** argv) {
    Arguments arguments;
    const auto number = [&](int& i) {
        return std::strtoull(i + 1 < argc ? argv[++i] : "", nullptr, 10);
    };
    for (int i = 1; i < argc; ++i) {
        const std::string name = argv[i];
        if (name == "--seeds") {
            arguments.seeds = number(i);
        } else if (name == "--first") {
            arguments.first = number(i);
        } else if (name == "--seconds") {
            arguments.seconds = number(i);
        } else if (name == "--seed") {
            arguments.seed = number(i);
        } else if (name == "--trace") {
            arguments.trace = true;
        } else if (name == "--twice") {
            arguments.twice = true;
        } else if (name == "--keep-going") {
            arguments.keep_going = true;
        } else if (name == "--kept" && i + 1 < argc) {
            arguments.kept = argv[++i];
        } else {
            return std::nullopt;
        }
    }
    return arguments;
}

std::vector<std::uint64_t> kept_seeds(const std::string& path) {
    std::vector<std::uint64_t> seeds;
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
        if (!line.empty() && line.front() != '#') {
            seeds.push_back(std::strtoull(line.c_str(), nullptr, 10));
        }
    }
    return seeds;
}

class Runner {
 public:
    explicit Runner(Arguments arguments) : arguments_(std::move(arguments)) {
        const std::filesystem::path memory = "/dev/shm";
        const auto base =
            std::filesystem::is_directory(memory) ? memory : std::filesystem::temp_directory_path();
        folder_ = (base / ("sigmacast-sim-" + std::to_string(getpid()))).string();
    }
    ~Runner() {
        std::error_code ignored;
        std::filesystem::remove_all(folder_, ignored);
    }
    Runner(const Runner&) = delete;
    Runner& operator=(const Runner&) = delete;

    int run() {
        if (arguments_.seed) {
            (void)one(*arguments_.seed);
            return summary();
        }
        for (const std::uint64_t seed : kept_seeds(arguments_.kept)) {
            if (!one(seed) && !arguments_.keep_going) {
                return summary();
            }
        }
        for (std::uint64_t i = 0; i < arguments_.seeds && !over(); ++i) {
            if (!one(arguments_.first + i) && !arguments_.keep_going) {
                break;
            }
        }
        return summary();
    }

 private:
    [[nodiscard]] bool over() const {
        return arguments_.seconds > 0 && std::chrono::steady_clock::now() - began_ >=
                                             std::chrono::seconds(arguments_.seconds);
    }

    bool one(std::uint64_t seed) {
        Outcome outcome = run_seed(seed, folder_, arguments_.trace);
        if (outcome.ok && arguments_.twice) {
            const Outcome again = run_seed(seed, folder_, false);
            if (again.hash != outcome.hash) {
                outcome.ok = false;
                outcome.promise = "deterministic";
                outcome.problem = "deterministic: a second run of the seed went another way";
            }
        }
        ++runs_;
        total_.rows += outcome.rows;
        total_.messages += outcome.messages;
        total_.events += outcome.events;
        total_.resumed += outcome.resumed;
        total_.snapshots += outcome.snapshots;
        total_.skipped += outcome.skipped;
        total_.reconnects += outcome.reconnects;
        total_.faults += outcome.faults;
        total_.virtual_time += outcome.virtual_time;
        hash_ = (hash_ ^ outcome.hash) * 0x100000001b3ULL;
        if (!outcome.ok) {
            ++failed_;
            ++by_promise_[outcome.promise];
            std::printf("seed %llu fails after %.3f s: %s\n", static_cast<unsigned long long>(seed),
                        static_cast<double>(outcome.virtual_time.count()) / 1000.0,
                        outcome.problem.c_str());
            std::fflush(stdout);
        }
        return outcome.ok;
    }

    int summary() {
        const double took =
            std::chrono::duration<double>(std::chrono::steady_clock::now() - began_).count();
        std::printf(
            "%llu seeds in %.1f s, %llu failed; %.0f virtual hours, %llu faults, %llu rows, "
            "%llu messages to clients (%llu events), %llu connections, %llu snapshots, %llu "
            "topics resumed, %llu skipped; hash %016llx\n",
            static_cast<unsigned long long>(runs_), took, static_cast<unsigned long long>(failed_),
            static_cast<double>(total_.virtual_time.count()) / 3'600'000.0,
            static_cast<unsigned long long>(total_.faults),
            static_cast<unsigned long long>(total_.rows),
            static_cast<unsigned long long>(total_.messages),
            static_cast<unsigned long long>(total_.events),
            static_cast<unsigned long long>(total_.reconnects),
            static_cast<unsigned long long>(total_.snapshots),
            static_cast<unsigned long long>(total_.resumed),
            static_cast<unsigned long long>(total_.skipped),
            static_cast<unsigned long long>(hash_));
        for (const auto& [promise, count] : by_promise_) {
            std::printf("  %s: %llu\n", promise.c_str(), static_cast<unsigned long long>(count));
        }
        return failed_ == 0 ? 0 : 1;
    }

    Arguments arguments_;
    std::string folder_;
    std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
    Outcome total_;
    std::uint64_t runs_ = 0;
    std::uint64_t failed_ = 0;
    std::uint64_t hash_ = 0;
    std::map<std::string, std::uint64_t> by_promise_;
};

}  // namespace
}  // namespace sigmacast::sim

int main(int argc, char** argv) {
    const auto arguments = sigmacast::sim::read_arguments(argc, argv);
    if (!arguments) {
        std::fputs(sigmacast::sim::kUsage, stderr);
        return 2;
    }
    return sigmacast::sim::Runner(*arguments).run();
}
