// Randomness that is handed in, so that a test can repeat it. One generator belongs to one thread.
#pragma once

#include <cstdint>
#include <random>
#include <string>

#include "common/time.h"

namespace sigmacast {

class Random {
 public:
    explicit Random(std::uint64_t seed) : engine_(seed) {}
    /// Seeded by the operating system.
    static Random from_system();

    /// A number in [low, high].
    std::uint64_t between(std::uint64_t low, std::uint64_t high);
    /// A duration in [0, most].
    Millis upto(Millis most);
    /// `bytes` random bytes as lower-case hexadecimal.
    std::string hex(std::size_t bytes);
    /// A version 4 UUID.
    std::string uuid();

 private:
    std::mt19937_64 engine_;
};

}  // namespace sigmacast
