// Time, in two kinds that the compiler keeps apart. `Mono` counts since boot (suspend included) and
// decides every timeout, order and age. `Wall` is only ever shown, stored or sent: it may jump.
// Pure code never asks for the time; it is given a `Now`. Thread safe.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "common/result.h"

namespace sigmacast {

using Millis = std::chrono::milliseconds;
using Micros = std::chrono::microseconds;
using Seconds = std::chrono::seconds;

/// CLOCK_BOOTTIME: goes on while the machine is suspended, never goes back.
struct BootClock {
    using duration = Micros;
    using rep = duration::rep;
    using period = duration::period;
    using time_point = std::chrono::time_point<BootClock>;
    static constexpr bool is_steady = true;
    static time_point now() noexcept;
};

using Mono = BootClock::time_point;
using Wall = std::chrono::sys_time<Millis>;

struct Now {
    Mono mono;
    Wall wall;
};

Now system_now() noexcept;

/// The kernel's id of this boot: a Mono of another boot means nothing here. Empty where the kernel
/// offers none.
const std::string& boot_id();

/// "2026-11-20T23:58:24.912Z"
std::string to_rfc3339(Wall wall);
Result<Wall> parse_rfc3339(std::string_view text);

/// Whole seconds since 1970, as `data.timestamp` wants them.
std::int64_t unix_seconds(Wall wall);

/// Go's notation, as configuration and the deployment's environment use it: "30s", "1.5s", "250ms",
/// "5m", "2h45m".
Result<Millis> parse_duration(std::string_view text);
std::string format_duration(Millis duration);

inline Millis elapsed(Mono since, Mono now) {
    return now > since ? std::chrono::duration_cast<Millis>(now - since) : Millis{0};
}

}  // namespace sigmacast
