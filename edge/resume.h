// What a client says it has, and how far it has got with what it has not.
//
// A Cursor comes with a subscribe. The Hub makes a Resume of it, which lives with the session until
// the topics that it covers are live again:
//
//     asked      nothing of its topics is sent, not even live; answered as soon as it is known how
//     pending    state is answered and live; of events nothing is known yet, the broker is silent
//     catching   answered; events follow from `pos` on, and those that happen meanwhile with them
//
// Values; pure. Runs on: the loop. Bounds: kCursorEntriesMax; a topic of a session is covered by at
// most one Resume, so there are no more of them than subscriptions.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/time.h"
#include "edge/render.h"

namespace sigmacast::edge {

inline constexpr std::size_t kCursorEntriesMax = 1'024;  // Pairs of topic and origin.

/// By topic and origin: of events up to this position nothing is to be sent (again).
using Seen = std::map<std::pair<std::string, std::string>, std::uint64_t>;
[[nodiscard]] inline std::uint64_t seen_of(const Seen& seen, const Stream& stream) {
    if (seen.empty()) {
        return 0;
    }
    const auto found = seen.find({stream.topic, stream.origin});
    return found == seen.end() ? 0 : found->second;
}

struct Cursor {
    std::string epoch = {};
    std::uint64_t pos = 0;  // Everything of its topics up to here was queued to it.
    Seen seen = {};         // Beyond that.
};

struct Resume {
    enum class Phase : std::uint8_t { kAsked, kPending, kCatching };
    Phase phase = Phase::kAsked;
    std::vector<std::string> topics;  // As they were asked for; "*" is all that the session sees.
    std::vector<std::string> except = {};  // Of "*": what another Resume covers.
    std::string id = {};                   // Of the subscribe, as JSON; empty for one of our own.
    std::vector<std::string> denied = {};
    std::string epoch;
    std::uint64_t from = 0;  // Its cursor.
    std::uint64_t pos = 0;   // Everything up to here was queued, or seen before.
    std::shared_ptr<const Seen> seen;
    Mono since;
    std::uint64_t asked_after = 0;  // Answers of the broker to later requests are newer than it.
    std::map<std::pair<std::string, std::string>, std::uint64_t> lost = {};  // Told, by stream.
    std::uint64_t unreadable_to = 0;  // Told: up to here rows could not be read.
    std::unordered_map<const Stream*, bool> wanted = {};  // What covers() has said.
    /// Topics with events whose state came meanwhile: it follows once this is done.
    std::set<std::string, std::less<>> owed = {};

    [[nodiscard]] bool covers(std::string_view topic) const;
    /// Whether an event is one that the client has not been sent.
    [[nodiscard]] bool lacks(const Stream& stream, std::uint64_t event_pos) const {
        return event_pos > from && event_pos > seen_of(*seen, stream);
    }
};

}  // namespace sigmacast::edge
