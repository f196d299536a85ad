// What `sigmacast tail` prints for each message of an edge: one line, as
//     01:02:15  stale       12 s  system.status     RPC_DISCONNECT: the engine cannot be reached,
//     ..
// and what it leaves out: heartbeats, ticks unless asked for, breakers that are closed when it
// connects, transitions to what a line has just said, and, after a reconnect, what had been printed
// before. Pure: text and time go in, a line comes out. Runs on: the loop.
#pragma once

#include <boost/json/fwd.hpp>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/time.h"
#include "ops/cli/feed_cursor.h"
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

    struct Options {
        bool ticks = false;
        bool json = false;
        bool everything = true;  // No topic was asked for by name: what says little is left out.
    };
    TailView(Paint paint, Options options) : paint_(paint), options_(options) {}

    TailLine on_message(std::string_view message, Wall now);
    /// How long the server asked us to stay away, from its goodbye; once.
    std::optional<Millis> take_reconnect_hint();
    /// Whether a hello has come on this connection.
    [[nodiscard]] bool greeted() const { return greeted_; }
    /// What the next connection can go on from.
    [[nodiscard]] const FeedCursor& cursor() const { return cursor_; }
    void on_disconnect() { greeted_ = false; }

 private:
    struct Seen {
        std::string epoch;
        std::uint64_t pos = 0;
        std::string quality;
        std::string reason;
    };

    TailLine readable(std::string_view type, const boost::json::object& message, Wall now);
    [[nodiscard]] std::string hello_text(const boost::json::object& message) const;
    TailLine value_line(std::string_view type, const boost::json::object& message, Wall now);
    TailLine quality_line(const boost::json::object& message, bool tick, Wall now);
    struct Columns {
        std::string quality;
        std::optional<Millis> age;
        std::string what;
        std::string rest;
    };
    [[nodiscard]] std::string line(Wall now, const Columns& columns) const;
    [[nodiscard]] std::string about(Wall now, const std::string& text) const;
    std::string name_of(const std::string& topic, const std::string& key,
                        const std::string& origin);
    bool is_repeat(std::string_view type, const boost::json::object& message);
    /// Quality and reason, as it was last shown, of a poll and of each of its keys.
    struct Said {
        std::string all;
        std::map<std::string, std::string> keys;
        bool partial = false;  // Keys are known that no value was seen of; there may be others.
    };
    static bool is_said(Said& said, const std::vector<std::string>& keys, const std::string& now);
    Said* said_of(const std::string& topic, const std::string& origin, const std::string& poll);

    Paint paint_;
    Options options_;
    FeedCursor cursor_;
    bool greeted_ = false;
    std::optional<Millis> hint_;
    std::optional<std::string> origin_;  // The first that was seen: others are named.
    std::map<std::string, Seen> seen_;
    std::map<std::string, Said> said_;
};

}  // namespace sigmacast::cli
