// What the client of an event stream has been sent, as the opaque id that it comes back with: the
// log's epoch, a bookmark (all up to there was sent), and for each stream (topic, origin) the
// position sent beyond the bookmark.
//
//     EventId id = EventId::parse(last_event_id).value_or(EventId());
//     if (id.pass(place_of(payload))) { .. id.token() }   // each message, as it is sent
//     id.reach(epoch, pos);      // nothing waits for the client: what is there, it was sent
//
// The marks beyond a bookmark go as the next one is reached, which is each second on a client that
// keeps up. Where there is nothing that would be true token() is empty, and the client keeps the id
// that it has: before the first snapshot is complete, and while marks do not fit. It may then see
// some messages again, and misses none.
//
// Pure. Bounds: kMarksMax marks, a token of kTokenBytesMax.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "common/message.h"
#include "edge/render.h"

namespace sigmacast::edge {

class EventId {
 public:
    /// It comes back as a header, beside others, and the header of a request has 8 KiB.
    static constexpr std::size_t kTokenBytesMax = 2'048;
    static constexpr std::size_t kMarksMax = 1'024;
    static constexpr std::size_t kEpochBytes = 16;  // As it is packed: 32 hexadecimal digits.
    static constexpr std::size_t kNameBytesMax = sigmacast::kNameBytesMax;  // As of a cursor.

    EventId() = default;
    /// nullopt: token() has not made this.
    static std::optional<EventId> parse(std::string_view token);

    /// Of URL-safe characters.
    [[nodiscard]] std::string token() const;
    /// {"epoch":..,"pos":..,"topics":{TOPIC:{ORIGIN:POS}}}, as a subscribe resumes from.
    [[nodiscard]] std::string resume() const;

    /// A message is sent. True: token() has changed, and counts it.
    bool pass(const Place& place);
    /// What it was is beyond the log: it says nothing before reach().
    void forget();
    /// All of its topics up to this bookmark has been sent: nothing waits, here or at the broker.
    void reach(std::string_view epoch, std::uint64_t pos);

 private:
    using Stream = std::pair<std::string, std::string>;  // Origin, topic.
    struct Marks {
        std::map<Stream, std::uint64_t> at;
        std::uint64_t left_out = 0;  // The highest position that had no room.
    };

    static void mark(Marks& marks, const Place& place);

    std::string epoch_;  // Empty: there is no bookmark yet.
    std::uint64_t pos_ = 0;
    Marks marks_;
    /// Of another epoch than the bookmark's: they say nothing before the whole of it has been sent.
    std::string later_epoch_;
    Marks later_;
};

}  // namespace sigmacast::edge
