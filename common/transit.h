// How long a message was on its way, so that time spent in front of a frozen or overloaded process,
// or in a network that was cut, counts in the age of what it carries.
//
// The sender stamps each message with its monotonic clock and that clock's id. Where both programs
// run under one kernel the clock is the same one, and the wait is exact. Elsewhere clocks cannot be
// compared, but waits can: the least difference seen lately between arrival and stamp is taken as
// no wait at all, and what is above it as the wait. So a link's constant delay is not counted, and
// the first message from a new machine counts as just sent.
//
// Pure; the one thread that receives.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "common/time.h"

namespace sigmacast {

/// Identifies what counts as one clock here: this boot's, in this process's time namespace.
std::uint64_t clock_id();

struct Stamp {
    std::uint64_t clock = 0;
    Mono at;

    /// A frame that no msgpack value and no name can be mistaken for.
    [[nodiscard]] std::string bytes() const;
    /// Nothing where `frame` is no stamp.
    static std::optional<Stamp> read(std::string_view frame);
};

class Transit {
 public:
    explicit Transit(std::uint64_t own_clock) : own_(own_clock) {}

    /// When a message with this stamp that arrives `now` was sent, by this machine's clock: never
    /// after `now`.
    Mono sent(Stamp stamp, Mono now);

 private:
    /// The least (arrival - stamp) of a clock, in this window and in the one before it.
    struct Least {
        Micros current;
        Micros previous;
        Mono began;  // When the current window did.
    };
    const std::uint64_t own_;
    std::unordered_map<std::uint64_t, Least> others_;  // At most kClocksMax.
};

}  // namespace sigmacast
