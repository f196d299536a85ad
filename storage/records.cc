#include "storage/records.h"

#include <algorithm>
#include <utility>

namespace sigmacast::storage {
namespace {

/// Beyond the year 9999, and a hundred years of uptime, a stamp is damage; sums with it would not
/// fit.
constexpr std::int64_t kWallMaxMs = 253'402'300'799'999;
constexpr std::int64_t kMonoMaxUs = 100LL * 366 * 24 * 3600 * 1'000'000;

bool is_possible(const Stamp& stamp) {
    return stamp.at_ms >= 0 && stamp.at_ms <= kWallMaxMs && stamp.mono_us >= 0 &&
           stamp.mono_us <= kMonoMaxUs;
}

/// The clock as it was when the row was encoded, in terms of this boot.
Now time_of(const Stamp& stamp, bool same_boot, Now now) {
    const Wall at{Millis{stamp.at_ms}};
    if (same_boot) {
        return {Mono{Micros{stamp.mono_us}}, at};
    }
    return {now.mono - std::max(now.wall - at, Millis{0}), at};
}

void mark_uncertain(Message& message) {
    message.age.uncertain = message.age.as_of.has_value();
}

}  // namespace

Stamp make_stamp(Now now, std::int64_t boot) {
    return {now.wall.time_since_epoch().count(), boot, now.mono.time_since_epoch().count()};
}

Result<Message> decode_row(std::string_view header, std::string_view body, const Stamp& stamp,
                           std::int64_t boot, Now now) {
    if (!is_possible(stamp)) {
        return Error{Errc::kCorrupt, "the row's time is none"};
    }
    const bool same_boot = stamp.boot == boot;
    Bytes bytes = body.empty() ? nullptr : std::make_shared<const std::string>(body);
    auto message = decode_record(header, std::move(bytes), time_of(stamp, same_boot, now));
    if (message && !same_boot) {
        mark_uncertain(*message);
    }
    return message;
}

Message gap_in_place_of(const Message& lost, std::string why) {
    Message gap;
    gap.kind = Kind::kGap;
    gap.topic = lost.topic;
    gap.origin = lost.origin;
    gap.epoch = lost.epoch;
    gap.seq = lost.seq;
    gap.pos = lost.pos;
    gap.at = lost.at;
    gap.detail = Gap{lost.seq, std::move(why)};
    return gap;
}

}  // namespace sigmacast::storage
