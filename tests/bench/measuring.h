// What the programs that load a server have in common: their clock, their figures, what they say to
// whoever started them. One thread; nothing of any protocol.
#pragma once

#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <string>
#include <vector>

namespace sigmacast::bench {

inline constexpr std::int64_t kSecondNs = 1'000'000'000;

/// The clock that nobody sets.
inline std::int64_t now_ns() {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return std::int64_t{now.tv_sec} * kSecondNs + now.tv_nsec;
}

/// One line to whoever started this.
inline void say(const std::string& json) {
    std::printf("%s\n", json.c_str());
    std::fflush(stdout);
}

/// As many descriptors as there may be; returns how many.
inline std::size_t raise_descriptor_limit() {
    rlimit files{};
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    return files.rlim_cur;
}

/// Counts of microseconds in buckets less than 1 % wide.
class Histogram {
 public:
    void add(std::int64_t us) {
        const auto value = static_cast<std::uint32_t>(std::clamp<std::int64_t>(us, 0, 0xffffffff));
        ++counts_[bucket(value)];
        ++count_;
        max_ = std::max(max_, value);
    }
    [[nodiscard]] std::uint64_t count() const { return count_; }
    /// Milliseconds, as members of a JSON object.
    [[nodiscard]] std::string members() const {
        std::array<char, 128> out{};
        std::snprintf(out.data(), out.size(), R"("p50":%.3f,"p99":%.3f,"max":%.3f)", ms(0.5),
                      ms(0.99), max_ / 1000.0);
        return out.data();
    }
    void clear() { *this = Histogram(); }

 private:
    static constexpr unsigned kBits = 7;  // 128 buckets an octave.
    static constexpr std::uint32_t kPart = 1u << kBits;

    static std::size_t bucket(std::uint32_t value) {
        if (value < kPart) {
            return value;
        }
        const unsigned shift = static_cast<unsigned>(std::bit_width(value)) - kBits - 1;
        return (shift + 1) * kPart + ((value >> shift) & (kPart - 1));
    }
    static double upper_end(std::size_t bucket) {
        if (bucket < kPart) {
            return static_cast<double>(bucket);
        }
        const std::size_t shift = bucket / kPart - 1;
        return static_cast<double>(((kPart | bucket % kPart) + 1) << shift) - 1;
    }
    [[nodiscard]] double ms(double part) const {
        const auto rank = static_cast<std::uint64_t>(part * static_cast<double>(count_));
        std::uint64_t seen = 0;
        for (std::size_t i = 0; i < counts_.size(); ++i) {
            seen += counts_[i];
            if (seen > rank) {
                return std::min(upper_end(i), double{1} * max_) / 1000.0;
            }
        }
        return max_ / 1000.0;
    }

    std::vector<std::uint64_t> counts_ = std::vector<std::uint64_t>((33 - kBits) * kPart);
    std::uint64_t count_ = 0;
    std::uint32_t max_ = 0;
};

}  // namespace sigmacast::bench
