// The producer: decides when each poll is made, what its answer means, and what is published of it.
//
//     due poll -> breakers -> call -> judge -> map -> differ -> values, events, one report
//
// Polls are independent: each has its own schedule, deadline and breaker, and one that hangs delays
// no other. One more breaker, named `engine`, is for the transport. What each poll's end publishes
// is in common/EVENTS.md; which failure counts where is in README.md.
//
// Pure: replies, repair messages and the time go in; calls and messages come out through
// Producer::Io, from within these calls, which must not call back. Bounds: one call in flight a
// poll, kFollowUpsInFlight follow-ups, kEndsMax keys whose end is being asked for, kKeysMax keys of
// a poll. Runs on: the loop.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "common/http.h"
#include "common/origin.h"
#include "common/protocol.h"
#include "common/random.h"
#include "common/settings.h"
#include "producer/breaker.h"
#include "producer/differ.h"
#include "producer/lifecycle.h"
#include "producer/mapping.h"
#include "producer/rpc.h"

namespace sigmacast::producer {

inline constexpr std::size_t kFollowUpsInFlight = 4;
inline constexpr std::size_t kEndsMax =
    1'000;  // Beyond it a key's end is told as `unknown` at once.
inline constexpr int kFollowUpTries = 3;
inline constexpr std::size_t kKeysMax =
    100'000;  // Live keys of a poll; the oldest lists' are forgotten beyond it.
inline constexpr std::string_view kTransportBreaker = "engine";
inline constexpr std::string_view kBreakerTopic = "breaker.status";

/// A request to the engine; its reply comes back through on_reply() with the same id, or not at all
/// after `deadline`.
struct Call {
    std::uint64_t id = 0;
    std::string body;
    Mono deadline;
};

struct ProducerOptions {
    ProducerSettings settings;
    std::string origin;
    std::string instance;
    std::uint64_t epoch = 1;
};

/// One line of /readyz.
struct PollStatus {
    std::string name;
    std::string topic;
    bool ended_once = false;  // Has answered, failed, or been reported as not made.
    bool ok = false;
    bool unsupported = false;
    std::string code;
    std::string message;
    std::uint32_t failures = 0;
    std::optional<AsOf> as_of;
};

class Producer final : private Origin::Io {
 public:
    class Io : public Origin::Io {
     public:
        virtual void call(Call call) = 0;
        /// For metrics: a call of this poll has ended. `result`: ok, unsupported, own or transport.
        virtual void on_poll_ended(const std::string& poll, std::string_view result,
                                   Millis latency) = 0;

     protected:
        ~Io() = default;
    };

    /// `io` outlives this object.
    Producer(ProducerOptions options, Io& io, Random random);
    Producer(const Producer&) = delete;
    Producer& operator=(const Producer&) = delete;

    /// Says hello, publishes the breakers, and makes each poll once.
    void start(Now now);
    /// A reply, or why there is none. An id that is not waited for (any more) is ignored.
    void on_reply(std::uint64_t id, const Result<http::Response>& reply, Now now);
    void on_protocol(const protocol::Any& message, Now now);
    void on_timer(Now now);
    /// When on_timer() wants to be called.
    [[nodiscard]] Mono deadline() const;

    [[nodiscard]] const Origin& origin() const { return origin_; }
    /// The transport's, then each poll's.
    [[nodiscard]] std::vector<const Breaker*> breakers() const;
    [[nodiscard]] std::vector<PollStatus> polls() const;
    /// Whether each poll has answered or failed once, and the name is ours.
    [[nodiscard]] bool ready() const;

 private:
    struct Poll {
        PollSettings settings;
        Breaker breaker;
        Mono due{};    // On the schedule; never moved by an answer.
        Mono start{};  // `due` and the jitter.
        std::optional<std::uint64_t> in_flight;
        std::optional<Mono> failed_call;  // When the newest call was made, where that failed.
        std::optional<Mono> retry_unsupported;
        std::optional<Mono> last_rpc_error;
        std::set<std::string> live_keys;  // Whose end is to be told; at most kKeysMax.
        std::optional<std::vector<std::string>>
            reported_keys;  // Of the newest good answer, as is `complete`.
        bool complete = true;
        std::uint64_t newest_seq = 0;  // Of this poll's values.
        PollStatus status;

        Poll(PollSettings poll_settings, BreakerSettings breaker_settings);
    };

    enum class Purpose : std::uint8_t { kPoll, kFollowUp, kHealth };
    struct Pending {
        Purpose purpose = Purpose::kPoll;
        std::size_t poll = 0;
        std::string key;  // Follow-up.
        Now started{};
        Mono deadline{};
        bool probes_poll = false;       // The poll breaker's probe.
        bool probes_transport = false;  // The transport breaker's.
    };

    /// A key that a complete list lacked, until its end has been told.
    struct Ending {
        boost::json::object last_known;
        int tries = 0;
        Mono next_try{};
        bool in_flight = false;
    };
    using EndingId = std::pair<std::size_t, std::string>;  // Poll and key.

    void publish(Message message) override { io_.publish(std::move(message)); }
    void send(protocol::Any message) override { io_.send(std::move(message)); }
    Result<> save_epoch(std::uint64_t epoch) override { return io_.save_epoch(epoch); }

    void poll_due(std::size_t index, Now now);
    void probe_if_allowed(Now now);
    [[nodiscard]] bool may_call(const Poll& poll, Now now) const;
    void make_call(std::size_t index, Now now);
    void call_all_but(std::size_t index, Now now);
    void send_call(Pending pending, std::string_view method, std::string_view params);
    void expire_calls(Now now);

    void finish(const Pending& pending, Outcome outcome, Now now);
    void finish_poll(const Pending& pending, Outcome outcome, Now now);
    void finish_health(const Outcome& outcome, Now now);
    Outcome take_value(std::size_t index, Outcome outcome, Now now);
    void count_answer(std::size_t index, Now now);
    void count_failure(const Pending& pending, const Outcome& outcome, Now now);
    [[nodiscard]] bool another_answered_since(std::size_t index, Mono since) const;
    void check_health(Now now);

    // core_publish.cc
    void publish_answer(std::size_t index, const Mapped& mapped, const std::vector<Bytes>& changed,
                        Now now);
    void publish_failure(Poll& poll, const Outcome& outcome, Now now);
    void publish_unsupported(Poll& poll, Now now);
    void publish_not_made(Poll& poll, const Breaker& breaker, Now now);
    void publish_report(Poll& poll, std::optional<Wall> retry_at, Now now);
    void publish_final(const std::string& topic, const std::string& poll, const std::string& key,
                       const boost::json::object& data, const AsOf& as_of, Now now);
    void publish_lifecycle(std::vector<LifecycleEvent> events, Now now);
    void publish_event(const std::string& topic, const boost::json::object& data, Now now);
    void publish_rpc_error(Poll& poll, Now now);
    void publish_breaker(const Breaker& breaker, Now now);
    void on_transition(const Breaker& breaker, std::optional<Breaker::Transition> transition,
                       Now now);
    [[nodiscard]] std::optional<Wall> next_try(const Poll& poll, Now now) const;

    // core_ends.cc
    void note_keys(std::size_t index, const Mapped& mapped, Now now);
    void key_missing(std::size_t index, const std::string& key, Now now);
    boost::json::object take_last_known(const std::string& topic, const std::string& key);
    void take_over(const std::vector<protocol::LiveKey>& keys, Now now);
    void inherit(const PollSettings& poll, const protocol::LiveKey& key, Now now);
    void end_breaker(const protocol::LiveKey& key, Now now);
    void follow_up(Now now);
    void finish_follow_up(const Pending& pending, const Outcome& outcome, Now now);
    void tell_end(const EndingId& id, const boost::json::object* answer, Now now);
    [[nodiscard]] std::optional<Mono> next_follow_up() const;

    ProducerSettings settings_;
    Io& io_;
    Random random_;
    Origin origin_;
    std::vector<Poll> polls_;
    Breaker transport_;
    FailureRounds rounds_;
    std::vector<std::optional<Mono>> answered_at_;  // When each poll was last answered.
    std::size_t next_probe_ =
        0;  // Probes take turns, so that one bad method cannot keep the breaker open.
    bool probe_waits_ =
        false;  // The probe is allowed, and no poll could make it: the next due one does.
    std::optional<Mono> next_health_;
    Differ differ_;
    Lifecycle lifecycle_;
    std::map<std::pair<std::string, std::string>, Bytes>
        inherited_;  // (topic, key) -> the broker's last known data.
    std::map<EndingId, Ending> endings_;
    /// Ends that the broker may not have yet, and where they are in the stream: they are not told
    /// again.
    std::map<std::pair<std::string, std::string>, std::uint64_t> told_;
    std::size_t follow_ups_in_flight_ = 0;
    std::map<std::uint64_t, Pending> pending_;
    std::uint64_t next_call_ = 1;
};

}  // namespace sigmacast::producer
