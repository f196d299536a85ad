#include "common/transit.h"

#include <unistd.h>

#include <algorithm>
#include <functional>

namespace sigmacast {
namespace {

constexpr std::string_view kMark =
    "\xC1"
    "at ";  // 0xC1 begins no msgpack value.
constexpr std::size_t kStampBytes = kMark.size() + 16;
/// Clocks drift apart: an old least difference is forgotten after one to two of these. The window
/// changes only when a message arrives, so a long silence forgets nothing.
constexpr Micros kWindow = std::chrono::minutes(5);
constexpr std::size_t kClocksMax = 64;
/// A clock that claims to have run for longer than a hundred years is none.
constexpr Micros kUptimeMax = std::chrono::hours(24 * 366 * 100);

void append(std::string& text, std::uint64_t number) {
    for (int shift = 56; shift >= 0; shift -= 8) {
        text.push_back(static_cast<char>(number >> shift));
    }
}

std::uint64_t number_at(std::string_view text, std::size_t from) {
    std::uint64_t number = 0;
    for (const char byte : text.substr(from, 8)) {
        number = number << 8 | static_cast<unsigned char>(byte);
    }
    return number;
}

std::uint64_t make_clock_id() {
    std::string name = boot_id();
    if (name.empty()) {
        name = std::to_string(::getpid()) + to_rfc3339(system_now().wall);
    }
    char space[64];
    const auto size = ::readlink("/proc/self/ns/time", space, sizeof space);
    if (size > 0) {
        name.append(space, static_cast<std::size_t>(size));
    }
    std::uint64_t hash = 0xcbf29ce484222325;  // FNV-1a: the same in every build of every program.
    for (const char byte : name) {
        hash = (hash ^ static_cast<unsigned char>(byte)) * 0x100000001b3;
    }
    return hash;
}

}  // namespace

std::uint64_t clock_id() {
    static const std::uint64_t id = make_clock_id();
    return id;
}

std::string Stamp::bytes() const {
    std::string frame(kMark);
    frame.reserve(kStampBytes);
    append(frame, clock);
    append(frame, static_cast<std::uint64_t>(at.time_since_epoch().count()));
    return frame;
}

std::optional<Stamp> Stamp::read(std::string_view frame) {
    if (frame.size() != kStampBytes || frame.substr(0, kMark.size()) != kMark) {
        return std::nullopt;
    }
    const std::uint64_t at = number_at(frame, kMark.size() + 8);
    if (at > static_cast<std::uint64_t>(kUptimeMax.count())) {
        return std::nullopt;
    }
    return Stamp{number_at(frame, kMark.size()), Mono{Micros{at}}};
}

Mono Transit::sent(Stamp stamp, Mono now) {
    if (stamp.clock == own_) {
        return std::min(stamp.at, now);
    }
    const Micros difference = now - stamp.at;
    auto known = others_.find(stamp.clock);
    if (known == others_.end()) {
        if (others_.size() >= kClocksMax) {
            others_.erase(std::min_element(others_.begin(), others_.end(), [](auto& a, auto& b) {
                return a.second.began < b.second.began;
            }));
        }
        known = others_.emplace(stamp.clock, Least{difference, difference, now}).first;
    }
    Least& least = known->second;
    if (now - least.began >= kWindow) {
        least = {difference, least.current, now};
    }
    least.current = std::min(least.current, difference);
    return now - (difference - std::min(least.current, least.previous));
}

}  // namespace sigmacast
