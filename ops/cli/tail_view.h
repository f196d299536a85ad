// What `sigmacast tail` prints for each message of an edge, and what it leaves out: heartbeats,
// ticks unless asked for, and, after a reconnect, what had been printed before. Pure: text and time
// go in, a line comes out. Runs on: the loop.
#pragma once

#include <boost/json/fwd.hpp>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "common/time.h"
#include "ops/cli/format.h"

namespace sigmacast::cli {

struct TailLine {
    std::optional<std::string> text;  // Without the newline; nullopt: nothing to show.
    bool counts = false;              // A value, an event or a transition: --count counts these.
};

class TailView {
 public:
    /// Keys whose newest position is remembered, so that a reconnect does not repeat them. Beyond
    /// it repeats are shown.
    static constexpr std::size_t kSeenMax = 50'000;

    TailView(Paint paint, bool ticks, bool json) : paint_(paint), ticks_(ticks), json_(json) {}

    TailLine on_message(std::string_view message, Wall now);
    /// How long the server asked us to stay away, from its goodbye; once.
    std::optional<Millis> take_reconnect_hint();
    /// Whether a hello has come on this connection.
    [[nodiscard]] bool greeted() const { return greeted_; }
    void on_disconnect() { greeted_ = false; }

 private:
    struct Seen {
        std::string epoch;
        std::uint64_t pos = 0;
        std::string quality;
        std::string reason;
    };

    TailLine readable(std::string_view type, const boost::json::object& message, Wall now);
    std::string hello_line(const boost::json::object& message, Wall now) const;
    std::string value_line(std::string_view type, const boost::json::object& message,
                           Wall now) const;
    std::string quality_line(const boost::json::object& message, Wall now) const;
    std::string line(Wall now, const std::string& what, const AgeView& age,
                     const std::string& rest) const;
    bool is_repeat(std::string_view type, const boost::json::object& message);

    Paint paint_;
    bool ticks_;
    bool json_;
    bool greeted_ = false;
    std::optional<Millis> hint_;
    std::map<std::string, Seen> seen_;
};

}  // namespace sigmacast::cli
