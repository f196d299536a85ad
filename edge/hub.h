// Who gets what: the sessions by topic, each frame built once a dialect and shared by everyone who
// gets it.
//
//     Session& s = hub.open(Dialect::kLegacy, now);   // a client; hub.close(s) when its socket is
//     gone hub.receive(s, text, now);                      // what it sent
//     hub.apply(upstream_output.steps, now);          // what the broker sent
//     for (Session* s : hub.take_touched()) { send s->take(..) }   // once a batch: one flush a
//     client
//
// A v1 session sees values, transitions and ticks as they come. For a session without a subprotocol
// the polled state of one origin is *rendered*: at each report all the keys of that poll (jobs,
// then their summary), at once when its quality changes, and, stale, at the poll's cadence when
// reports stop. State that no poll feeds goes out as it comes. What ended while the edge itself
// missed it is looked up in the log for them; a v1 session is answered anew.
//
// Each session sees what its Grant allows, whatever it is subscribed to. One without a grant is
// sent nothing until it has sent a token; one whose grant has expired is closed.
//
// A client that says what it has (resume.h) is sent what it lacks: the state anew, and each event
// since, from the ring of recent ones or from the broker's log (history.h). It is answered once it
// is known how that can be done; what it asks the broker for is in take_requests().
//
// Pure: no socket, no clock. Runs on: the loop. One client never delays another: queueing is all
// that happens here, and a queue over its bound is emptied and the session closed.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/random.h"
#include "common/result.h"
#include "edge/cache.h"
#include "edge/history.h"
#include "edge/occupancy.h"
#include "edge/session.h"
#include "edge/upstream.h"

namespace sigmacast::edge {

struct HubOptions {
    std::string legacy_origin;             // Empty: the first that declared polls.
    std::vector<std::string> topics = {};  // Those that it serves; empty: all.
    Millis heartbeat_interval{5'000};
    QueueLimits queue;
    /// Access::verify; null: no token is needed, and one that is sent is not looked at.
    std::function<Result<Grant>(std::string_view token, Wall now)> verify = nullptr;
    Millis first_message_timeout{5'000};  // For a session without a grant.
    std::size_t messages_per_second = 0;  // Of one client, with a burst (RateLimit); 0: any number.
    std::size_t subscriptions_max = 256;  // Of one client; more are refused with an error.
    std::size_t clients_per_user_max = 0;  // Connections of one subject; 0: any number.
    /// deadline() is earlier than it was; called within receive(), and as a client takes what
    /// waits for it. Not to call back.
    std::function<void()> wake = nullptr;
    std::size_t ring_bytes_max = History::kRingBytesMax;
    /// Shared with the hubs of the edge's other threads.
    std::shared_ptr<Occupancy> occupancy = std::make_shared<Occupancy>();
};

/// Subscribes with `resume`, by how they were answered.
struct ResumeCounters {
    std::uint64_t resumed = 0;  // State anew, and all events.
    std::uint64_t too_old = 0;
    std::uint64_t new_epoch = 0;
    std::uint64_t future = 0;
    std::uint64_t bad_cursor = 0;
    std::uint64_t pending = 0;      // At first; then they are counted again.
    std::uint64_t edge_behind = 0;  // Sent away.
    std::uint64_t unavailable = 0;  // The broker did not tell.
};

struct HubCounters {
    SendCounters sent;
    std::uint64_t encodes = 0;        // Frames built; what is shared counts once.
    std::uint64_t slow_closed = 0;    // Clients closed for being too slow.
    std::uint64_t not_encodable = 0;  // Values or events that could not become JSON.
    std::uint64_t too_large = 0;      // Frames over the bound of a client's queue, not sent.
    std::uint64_t client_errors = 0;  // Bad messages of clients.
    std::uint64_t unauthorized = 0;   // Tokens in messages that were refused, or did not come.
    std::uint64_t expired = 0;        // Clients closed as their token had expired.
    std::uint64_t over_rate = 0;      // Messages refused, as there were too many.
    std::uint64_t floods = 0;         // Clients closed, as they went on.
    std::uint64_t subscriptions_refused = 0;
    std::uint64_t users_refused = 0;  // First messages whose user has too many connections.
    std::uint64_t not_read = 0;       // Clients closed as they took nothing for too long.
    ResumeCounters resumes;
};

class Hub {
 public:
    /// While draining: the hints of all spread over so much for each client, so that no more than
    /// a thousand a second come to the other edges.
    static constexpr Millis kReconnectHintEach{1};
    static constexpr Millis kDrainStep{20};
    /// How long after a transition the legacy rendering waits for the report that belongs to it.
    static constexpr Millis kRenderDelay{20};
    static constexpr Millis kHeartbeatCheck{500};
    static constexpr Millis kTooLargeLogInterval{60'000};
    static constexpr Millis kReconnectHintMin{200};
    static constexpr Millis kReconnectHintMax{2'000};
    /// For the broker to say what is in the log; then state is answered without events.
    static constexpr Millis kAnswerMax{2'000};
    /// For this edge to reach the position that a client has seen; then it is sent away.
    static constexpr Millis kBehindMax{3'000};
    /// Keys that a snapshot lacks and whose ends are sought in the log; of more it is told at once
    /// that nobody knows how they ended.
    static constexpr std::size_t kGoneMax = 1'024;
    static constexpr Millis kGather{2};  // Those who come at once are served together.
    static constexpr Millis kResumeCheck{100};
    /// Of what a client missed, this much waits for it at a time: less than is conflated.
    static constexpr std::size_t kReplayBytes = 192u << 10;
    static constexpr std::size_t kReplayTurn = 20'000;  // Frames, of all clients, at a time.

    Hub(HubOptions options, Random random);
    ~Hub();

    /// Welcome and state, or hello, are queued; without a grant nothing is, until a token has come.
    /// The session lives until close().
    Session& open(Dialect dialect, Now now, std::optional<Grant> grant = Grant{});
    void close(Session& session);
    /// `problem`: why what came could not be read as text.
    void receive(Session& session, std::string_view text, Now now, std::string_view problem = {});
    /// What a client sends besides messages: a control frame, or fragments. Counted with them.
    void count_frames(Session& session, std::size_t frames, Now now);
    /// It has taken nothing for too long.
    void drop_slow(Session& session, Now now);
    /// Whether its user may have another connection; and that connection, while the seat lives.
    [[nodiscard]] bool has_room_for(const Grant& grant) const {
        return !options_.occupancy->users.full(grant.subject, options_.clients_per_user_max);
    }
    [[nodiscard]] Tally::Seat seat_for(const Grant& grant) {
        return options_.occupancy->users.take(grant.subject);
    }
    /// This edge ends: every client is told so and is to be closed (a plain one with 1001, others
    /// with 4200), spread evenly over `over`, from `from` on; until its turn comes it is served. To
    /// be called once.
    void drain(Mono from, Millis over, Now now);
    /// It has begun; a balancer should look elsewhere.
    [[nodiscard]] bool draining() const { return drain_.has_value(); }
    /// Nobody is let in any more.
    [[nodiscard]] bool closed(Mono now) const { return drain_ && drain_->from <= now; }

    void apply(std::vector<Upstream::Step> steps, Now now);
    void on_timer(Now now);
    [[nodiscard]] Mono deadline() const;

    /// To be sent to the broker.
    std::vector<protocol::Any> take_requests() { return std::exchange(requests_, {}); }
    /// Up to where everything of its topics was queued; nullopt while it is about to be answered.
    [[nodiscard]] std::optional<std::uint64_t> told_pos(const Session& session) const;

    /// The sessions for which something was queued, or which are to be closed, since the last call.
    std::vector<Session*> take_touched();
    [[nodiscard]] bool has_touched() const { return !touched_.empty(); }

    /// What a client means by a name: underscores stand for dots only where that gives a known
    /// topic, one of them or all.
    [[nodiscard]] std::string topic_name(std::string_view name) const;
    [[nodiscard]] const Cache& cache() const { return cache_; }
    [[nodiscard]] std::size_t sessions() const { return sessions_.size(); }
    /// Of all threads.
    [[nodiscard]] Occupancy& occupancy() const { return *options_.occupancy; }
    [[nodiscard]] const HubCounters& counters() const { return counters_; }
    [[nodiscard]] std::vector<Source> sources(const Grant& grant) const;
    [[nodiscard]] bool known_topic(std::string_view topic) const;
    /// False: another edge may have it; what happens there is not known here.
    [[nodiscard]] bool serves(std::string_view topic) const;
    [[nodiscard]] const History& history() const { return history_; }
    /// Sessions that have yet to be sent something they missed.
    [[nodiscard]] std::size_t resuming() const { return resuming_.size(); }

 private:
    struct Subscribers {
        std::vector<Session*> legacy;
        std::vector<Session*> v1;
    };
    struct Drain {
        Mono from;
        Mono until;
        Mono next;
        Millis hint_max;
    };
    /// Of the polls, as they were heard of.
    struct InOrder {
        bool operator()(const Cache::Poll* a, const Cache::Poll* b) const {
            return a->transition_slot < b->transition_slot;
        }
    };
    struct Rendering {
        Mono due;
        bool forced = false;  // Something changed: render even what is live.
    };
    /// What old clients were shown and a snapshot lacks.
    struct Gone {
        std::shared_ptr<const Value> last;
        bool ended = false;  // The log says so. Else the poll's next good answer does, or does not.
    };

    void step(protocol::Snapshot& snapshot, Now now);
    void step(Message& message, Now now);
    void step(Upstream::PollUpdate& update, Now now);
    void step(Upstream::Lost& lost, Now now);
    void step(Upstream::UplinkChange& change, Now now);
    void step(Upstream::Bookmark& bookmark, Now now);
    void step(protocol::History& answer, Now now);
    void step(protocol::Range& answer, Now now);
    void step(Upstream::FirstOrigin& first, Now now);

    void on_value(const Message& message, Now now);
    void on_transition(const Message& message, Now now);
    void tell_transition(const Transition& transition, std::uint64_t slot, Now now);
    void tell_quality(const Cache::Poll& poll, Now now);
    void tell_keys(const Cache::Poll& poll, std::vector<std::string> keys, Age age,
                   std::uint64_t slot, Now now);
    void tell_skipped(const Message& message, std::string_view why, Now now);
    void tell_tick(Cache::Poll& poll, Now now);
    [[nodiscard]] bool is_legacy_origin(std::string_view origin) const;
    void render_legacy_origin(Now now);
    void render_due(const Cache::Poll& poll, Mono when);
    void render_poll(const Cache::Poll& poll, Now now);
    void render_again(const Cache::Poll& poll, Millis slack, Now now);
    void send_legacy(const Value& value, Now now);
    void seek_ends(std::vector<std::shared_ptr<const Value>> gone, const std::string& origin,
                   const protocol::Snapshot& snapshot, bool same, Now now);
    [[nodiscard]] bool is_gone(const Value& last) const;
    void tell_ends(Now now);
    void tell_unknown_end(const Value& last, Now now);

    void greet(Session& session, Now now);
    void authenticate(Session& session, const ClientMessage& message, Now now);
    void change_grant(Session& session, Grant grant, std::string_view id, Now now);
    void deny(Session& session, std::string_view id, const std::string& topic, Now now);
    void check_grants(Now now);
    void send_away(Session& session, Session::Close why, std::string_view id,
                   std::string_view message, Now now);
    void say_goodbye(Session& session, Session::Close why, Now now,
                     Millis hint_max = kReconnectHintMax);
    void drain_some(Now now);
    void flood(Session& session, Now now);
    void welcome(Session& session, Now now);
    void hello(Session& session, Now now);
    void subscribe(Session& session, const ClientMessage& message, Now now);
    void unsubscribe(Session& session, const ClientMessage& message, Now now);
    /// How the events of an answer's topics go on.
    struct Events {
        std::uint64_t from = 0;
        std::uint64_t to = 0;
        bool pending = false;
        bool state_was_answered = false;                 // Of what is not lost: events alone.
        std::map<std::string, std::uint64_t> lost = {};  // By topic: up to where.
        std::string_view lost_why = "too_old";
    };
    void answer_subscribe(Session& session, std::string_view id,
                          const std::vector<std::string>& topics, std::string_view cause, Now now,
                          const std::vector<std::string>& denied = {},
                          const Events* events = nullptr);
    void append_answer(std::string& data, const std::string& topic, std::string_view cause,
                       std::optional<std::size_t> count, const Events* events) const;

    // Resume: hub_resume.cc.
    enum class Progress : std::uint8_t { kDone, kWaits, kPage, kProbe, kRoom, kTurn };
    void start_resume(Session& session, const ClientMessage& message,
                      std::vector<std::string> topics, std::vector<std::string> denied, Now now);
    void end_resumes(Session& session, const std::vector<std::string>& topics, bool all, Now now);
    Progress advance(Session& session, Resume& resume, std::size_t& turn, Now now);
    Progress decide(Session& session, Resume& resume, Now now);
    Progress settle(Session& session, Resume& resume, std::string_view cause,
                    std::uint64_t& counter, Now now);
    Progress send_away_behind(Session& session, Resume& resume, Now now);
    void answer_resume(Session& session, Resume& resume, bool pending, Now now);
    Progress catch_up(Session& session, Resume& resume, std::size_t& turn, Now now);
    bool replay(Session& session, Resume& resume, const History::Entry& entry, Now now);
    void heed_floors(Session& session, Resume& resume, const History::Page& page, Now now);
    void give_up_history(Now now);
    void work(Now now);
    void work_by(Mono when);
    void tell_lost(const Session& session, Resume& resume, const History::Page& page,
                   Events& events) const;
    void send_owed(Session& session, const Resume& resume, Now now);
    /// Of what a client missed, this much waits for it at a time.
    [[nodiscard]] std::size_t replay_bytes() const {
        return std::min(kReplayBytes, options_.queue.bytes_max / 2);
    }
    [[nodiscard]] bool wants(const Session& session, Resume& resume, const Stream& stream) const;
    [[nodiscard]] bool reached(const Resume& resume) const;
    [[nodiscard]] bool has_events(std::string_view topic) const;
    [[nodiscard]] bool withheld(const Session& session, std::string_view topic,
                                const Stream* stream, std::uint64_t event_pos) const;
    void renew_history(const protocol::Snapshot& snapshot, bool same);
    void resume_repaired(Session& session, std::uint64_t before,
                         const std::shared_ptr<const Seen>& delivered);
    History::Entry entry_of(const Value& value, FramePtr made, bool as_live, Now now);
    void append_entries(const Message& message, History::Page& page, Now now);
    [[nodiscard]] std::vector<const Value*> state_of(const Session& session,
                                                     const std::string& topic);
    void add(Session& session, const std::string& topic);
    void remove(Session& session, const std::string& topic);

    void push(Session& session, const Outgoing& item, Now now);
    void push_state(Session& session, const std::vector<std::string>& topics, Now now);
    void push_control(Session& session, std::string_view payload);
    /// `event_pos`: of an event, or of a note in the place of one.
    void push_topic(std::string_view topic, Dialect dialect, const Outgoing& item, Now now,
                    std::uint64_t event_pos = 0);
    [[nodiscard]] bool has_listeners(std::string_view topic, Dialect dialect) const;
    void tell_dropped(Now now);
    void heartbeats(Now now);
    void touch(Session& session);
    FramePtr make(std::string_view payload, Bytes data = nullptr);
    /// Null where it is larger than what may wait for a client: it is sent to nobody.
    FramePtr make_value(const Value& value, Now now, bool replay = false);

    HubOptions options_;
    Random random_;
    Cache cache_;
    HubCounters counters_;
    /// What is walked is in an order that no address decides: the same input gives the same output.
    std::map<std::uint64_t, std::unique_ptr<Session>> sessions_;  // By Session::number.
    std::uint64_t arrivals_ = 0;
    std::unordered_map<std::string, Subscribers> by_topic_;
    std::vector<Session*> everything_;
    std::vector<Session*> touched_;
    std::vector<std::string> dropped_;  // Client ids to be told to the others.
    std::string legacy_origin_;
    std::map<const Cache::Poll*, Rendering, InOrder> renderings_;  // Of the legacy origin's polls.
    std::vector<Gone> gone_;
    Mono gone_since_{};
    std::uint64_t bookmark_ = 0;
    bool snapshot_seen_ = false;
    History history_;
    std::vector<Session*> resuming_;
    std::size_t next_resuming_ = 0;  // Whose turn it is.
    std::optional<Mono> work_at_;
    std::vector<protocol::Any> requests_;
    /// What the broker's newest answer said of its log.
    struct {
        std::uint64_t id = 0;
        std::string epoch;
        std::uint64_t pos = 0;
    } log_;
    std::set<std::string, std::less<>> event_topics_;
    std::set<const Stream*> event_streams_;
    std::unordered_map<const Stream*, std::uint64_t> reached_;   // The newest position handed over.
    std::uint64_t newest_ = 0;                                   // Of all streams.
    std::unordered_map<const Stream*, std::uint64_t> page_seq_;  // Up to the scan.
    Mono next_heartbeat_check_{};
    std::optional<Mono> too_large_logged_;
    std::optional<Drain> drain_;
};

}  // namespace sigmacast::edge
