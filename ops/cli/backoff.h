// How long to wait before the next try: doubling up to a most, half of it at random, so that a
// thousand clients of an edge that died do not come back at once. Pure; one user, one thread.
#pragma once

#include <algorithm>

#include "common/random.h"
#include "common/time.h"

namespace sigmacast::cli {

class Backoff {
 public:
    static constexpr Millis kFirst{500};
    static constexpr Millis kMost{15'000};

    /// The next wait: between half of the current step and all of it.
    Millis next(Random& random) {
        const Millis step = step_;
        step_ = std::min(step_ * 2, kMost);
        return step / 2 + random.upto(step / 2);
    }
    void reset() { step_ = kFirst; }

 private:
    Millis step_ = kFirst;
};

}  // namespace sigmacast::cli
