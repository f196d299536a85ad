// Who is connected to an edge now, over all its io threads: what its limits are about. Thread safe;
// threads that let somebody in at the same time may each let in one more than a limit says.
#pragma once

#include <atomic>
#include <cstddef>

#include "common/tally.h"

namespace sigmacast::edge {

struct Occupancy {
    std::atomic<std::size_t> clients{0};  // WebSockets and event streams.
    std::atomic<std::size_t> waiting{0};  // Those that have to send a token yet.
    Tally addresses;                      // Clients of each,
    Tally users;                          // and of each.
    Tally connections;                    // Of each address, whatever they ask for.
};

}  // namespace sigmacast::edge
