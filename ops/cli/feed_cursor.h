// Where a client of the feed is: the bookmark that the edge last told it, and what it has seen
// beyond it, as a subscribe resumes from after a lost connection (edge/PROTOCOL.md, Resume).
//
//     cursor.on_message(message);              // each one
//     subscribe["resume"] = *cursor.resume();  // on the next connection, where it is there
//
// A bookmark comes with the hello of the first connection, heartbeats and pongs: who hears no
// heartbeat has to ping. Pure. Bounds: kSeenMax pairs of topic and origin; of further ones an event
// may come twice.
#pragma once

#include <boost/json/fwd.hpp>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>

namespace sigmacast::cli {

class FeedCursor {
 public:
    static constexpr std::size_t kSeenMax = 1'000;

    void on_message(const boost::json::object& message);
    /// nullopt: there is nothing to resume from.
    [[nodiscard]] std::optional<boost::json::value> resume() const;

 private:
    void reach(std::string epoch, std::uint64_t pos);

    std::string epoch_;  // Empty: none.
    std::uint64_t pos_ = 0;
    std::map<std::pair<std::string, std::string>, std::uint64_t> seen_;  // Of (topic, origin).
};

}  // namespace sigmacast::cli
