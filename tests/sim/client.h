// A client that does what edge/PROTOCOL.md says, comes back to any edge with its cursor, and holds
// every message against the truth: what it believes (value, quality, as_of) must have been so, in
// order, once, and nothing may be missing that it was not told of.
#pragma once

#include <boost/json/object.hpp>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "edge/render.h"
#include "tests/sim/timeline.h"
#include "tests/sim/truth.h"

namespace sigmacast::sim {

class EdgeNode;

class ClientNode final : public Process {
 public:
    struct Options {
        edge::Dialect dialect = edge::Dialect::kV1;
        std::vector<std::string> topics;  // v1: what it subscribes to.
        std::size_t window = 32;          // Frames that its socket takes at once.
        Micros reads_for{0};              // A slow one takes so long for each.
        bool counted = true;              // Its messages are part of the run's hash.
    };

    ClientNode(Timeline& time, Truth& truth, std::string name, std::vector<EdgeNode*> edges,
               Options options);

    [[nodiscard]] std::size_t window() const { return options_.window; }
    [[nodiscard]] bool v1() const { return options_.dialect == edge::Dialect::kV1; }

    /// From the edge: a frame on its way, and the end of the connection (0: the socket broke).
    void carry(Mono when, std::uint64_t port, const edge::FramePtr& frame);
    void lost(std::uint64_t port, std::uint16_t code, std::optional<Mono> after = {});

    /// Its network swallows everything; it finds out by the silence.
    void mute();
    void disconnect();
    void lose_connection();
    /// It is slow no more.
    void hurry();
    /// P4, from time to time.
    void check_liveness() const;
    /// What it does not know although all is well again; empty: nothing.
    [[nodiscard]] std::string not_converged(
        const std::map<std::string, std::map<std::pair<std::string, std::string>, std::string>>&
            wanted) const;

    struct Counts {
        std::uint64_t messages = 0;
        std::uint64_t events = 0;
        std::uint64_t resumed = 0;
        std::uint64_t snapshots = 0;
        std::uint64_t skipped = 0;
        std::uint64_t reconnects = 0;
        std::uint64_t behind = 0;
    };
    [[nodiscard]] const Counts& counts() const { return counts_; }

 private:
    using StreamName = std::pair<std::string, std::string>;  // origin, topic
    struct Belief {
        std::string content;
        std::string poll;
        std::string quality;
        std::string reason;
        std::optional<Wall> as_of;
        std::uint64_t seq = 0;
        std::uint64_t pos = 0;
        bool outdated = false;  // A newer one could not be sent.
        Mono told{};
    };
    struct View {
        std::uint64_t last = 0;   // Newest position that it got, or was told of.
        bool fresh = true;        // After a snapshot the next may be any.
        std::uint64_t since = 0;  // Log position from which on it gets everything.
        std::map<std::uint64_t, std::uint64_t> skips;
    };

    void on_start() override;
    void on_kill() override;
    [[nodiscard]] Mono core_deadline() const override;
    void on_timer() override;

    void connect();
    void reconnect(Millis after);
    void send(const std::string& text);
    void ask_for_topics();
    void on_frame(std::uint64_t port, const edge::FramePtr& frame);
    void on_message(const boost::json::object& message);
    void on_hello(const boost::json::object& message);
    void on_subscribed(const boost::json::object& message);
    void on_bookmark(const boost::json::object& message);
    void on_tick(const boost::json::object& message);
    void on_transition(const boost::json::object& message);
    void on_skipped(const boost::json::object& message);
    void on_topic(const std::string& topic, const boost::json::object& message);
    void on_event(const StreamName& stream, const boost::json::object& message, bool replay);
    void on_value(const StreamName& stream, const boost::json::object& message, bool replay);
    void take_position(const StreamName& stream, const boost::json::object& message, bool replay);
    void check_row(const StreamName& stream, const boost::json::object& message) const;
    void check_belief(const StreamName& stream, const std::string& key, const Belief& belief,
                      const char* after) const;
    void check_age(const boost::json::object& message, Mono as_of) const;
    void check_snapshot();
    void clear_topic(const std::string& topic, bool events_too);
    [[nodiscard]] bool wants(const std::string& topic) const;
    [[noreturn]] void fail(const char* promise, const std::string& what) const;

    Truth& truth_;
    std::vector<EdgeNode*> edges_;
    Options options_;
    EdgeNode* edge_ = nullptr;
    std::optional<std::uint64_t> port_;
    bool muted_ = false;
    bool subscribed_ = false;
    Mono heard_{};
    Mono connected_at_{};

    std::map<StreamName, std::map<std::string, Belief>> beliefs_;
    std::map<StreamName, View> views_;
    // When it last heard of a poll: a value, a tick, a transition.
    std::map<std::pair<StreamName, std::string>, Mono> heard_of_;
    std::map<StreamName, std::uint64_t> newest_event_;  // Ever, in this epoch of the log.
    std::map<StreamName, std::uint64_t> seen_pos_;      // Newest log position seen of each.
    std::uint64_t subscribed_since_ = 0;  // The log's position when the subscription was answered.
    std::uint64_t checked_ = 0;           // Up to here bookmarks have been checked.
    // With how often the broker had started, where an end came that the log did not have.
    std::map<std::pair<StreamName, std::string>, std::optional<std::uint64_t>> ended_;
    std::string epoch_;
    std::uint64_t bookmark_ = 0;
    std::uint64_t hello_pos_ = 0;
    std::size_t replay_left_ = 0;
    std::vector<std::string> snapshot_topics_;
    bool resumes_ = false;           // The edge says that it can.
    bool came_with_cursor_ = false;  // It has been here before, and asks to resume.
    Counts counts_;
};

}  // namespace sigmacast::sim
