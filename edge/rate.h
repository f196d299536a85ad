// What one client may send: so many frames a second, and how a stream of bytes is counted in
// frames where nobody above sees them.
//
// RateLimit is a token bucket, kept as the one time at which it will be full again. Within its
// burst a frame is fine; then each is over the limit, and refused; over as much again, the client
// does not stop, and is to be closed. Waiting helps at any time.
//
// FragmentScan finds the frames of fragmented messages: the WebSocket library tells of whole
// messages alone, and a message may have any number of empty fragments.
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

class FragmentScan {
 public:
    /// How many frames that are not the last of their message begin in these bytes of a client's.
    std::size_t feed(const unsigned char* bytes, std::size_t size) {
        std::size_t fragments = 0;
        while (size > 0) {
            if (skip_ > 0) {
                const std::uint64_t taken = skip_ < size ? skip_ : size;
                skip_ -= taken;
                bytes += taken;
                size -= static_cast<std::size_t>(taken);
                continue;
            }
            const unsigned char byte = *bytes++;
            --size;
            if (at_ == 0) {
                fragments += byte < 0x80 ? 1u : 0u;  // RFC 6455 5.2: FIN is the first bit.
                length_ = 0;
                wide_ = 0;
            } else if (at_ == 1) {
                length_ = byte & 0x7fu;
                wide_ = length_ == 126 ? 2 : length_ == 127 ? 8 : 0;
                length_ = wide_ > 0 ? 0 : length_;
                masked_ = byte >= 0x80;
            } else {
                length_ = length_ << 8 | byte;
            }
            ++at_;
            if (at_ >= 2 && at_ == 2 + wide_) {
                skip_ = length_ + (masked_ ? 4 : 0);
                at_ = 0;
            }
        }
        return fragments;
    }

 private:
    std::size_t at_ = 0;    // Into the head of a frame.
    std::size_t wide_ = 0;  // Bytes of its length.
    std::uint64_t length_ = 0;
    std::uint64_t skip_ = 0;  // What is left of the mask and the payload.
    bool masked_ = false;
};

}  // namespace sigmacast::edge
