// One run: a system made from a seed, faults, healing, convergence. Which kinds of fault a seed
// has is drawn, too, so that some runs have many and others one alone, for which the bounds are
// tight.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tests/sim/client.h"
#include "tests/sim/nodes.h"
#include "tests/sim/timeline.h"
#include "tests/sim/truth.h"

namespace sigmacast::sim {

struct Outcome {
    bool ok = true;
    std::string promise;
    std::string problem;
    std::uint64_t hash = 0;
    std::uint64_t rows = 0;
    std::uint64_t messages = 0;
    std::uint64_t events = 0;
    std::uint64_t resumed = 0;
    std::uint64_t snapshots = 0;
    std::uint64_t skipped = 0;
    std::uint64_t reconnects = 0;
    std::uint64_t faults = 0;
    Millis virtual_time{0};
};

/// `folder` holds the database; it is made and removed.
Outcome run_seed(std::uint64_t seed, const std::string& folder, bool trace);

}  // namespace sigmacast::sim
