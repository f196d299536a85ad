// What one client may send: so many frames a second.
//
// RateLimit is a token bucket, kept as the one time at which it will be full again. Within its
// burst a frame is fine; then each is over the limit, and refused; over as much again, the client
// does not stop, and is to be closed. Waiting helps at any time.
//
// Pure. Runs on: the loop.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/time.h"

namespace sigmacast::edge {

class RateLimit {
 public:
    static constexpr Micros kBurst{2'000'000};  // So many seconds' worth may come at once.

    enum class Verdict : std::uint8_t { kFine, kOver, kFlood };

    /// 0: no limit.
    explicit RateLimit(std::size_t per_second = 0)
        : cost_(per_second == 0 ? Micros{0}
                                : Micros{1'000'000 / static_cast<std::int64_t>(per_second)}) {}

    /// One more frame.
    Verdict take(Mono now) {
        if (full_at_ < now) {
            full_at_ = now;
        }
        full_at_ += cost_;
        if (full_at_ - now <= kBurst) {
            return Verdict::kFine;
        }
        return full_at_ - now <= 2 * kBurst ? Verdict::kOver : Verdict::kFlood;
    }

 private:
    Micros cost_;
    Mono full_at_{};
};

}  // namespace sigmacast::edge
