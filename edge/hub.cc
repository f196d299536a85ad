#include "edge/hub.h"

#include <algorithm>
#include <array>
#include <set>
#include <utility>

#include "common/codec.h"
#include "common/log.h"
#include "edge/ahead.h"

namespace sigmacast::edge {
namespace {

constexpr std::array<std::string_view, 8> kDefaultSubscriptions = {
    "system.status", "storage.update", "agent.status",     "compression.update",
    "notification",  "rpc_error",      "connection_error", "heartbeat"};

/// Names that clients may ask for before anything was published under them.
constexpr std::array<std::string_view, 30> kKnownTopics = {"system.status",
                                                           "storage.update",
                                                           "agent.status",
                                                           "compression.update",
                                                           "notification",
                                                           "rpc_error",
                                                           "connection_error",
                                                           "heartbeat",
                                                           "scheduler.metrics",
                                                           "recovery.status",
                                                           "tuning.status",
                                                           "breaker.status",
                                                           "circuit_breaker.open",
                                                           "circuit_breaker.closed",
                                                           "circuit_breaker.half_open",
                                                           "agent.started",
                                                           "agent.stopped",
                                                           "agent.restarted",
                                                           "agent.task_assigned",
                                                           "agent.task_completed",
                                                           "agent.task_failed",
                                                           "agent.recovery_started",
                                                           "agent.recovery_success",
                                                           "agent.recovery_failed",
                                                           "agent.health_check",
                                                           "task.queued",
                                                           "task.dispatched",
                                                           "dead_letter.queued",
                                                           "dead_letter.retried",
                                                           "dead_letter.discarded"};

template <class List>
bool contains(const List& list, std::string_view name) {
    return std::find(list.begin(), list.end(), name) != list.end();
}

void drop(std::vector<Session*>& sessions, const Session* session) {
    const auto at = std::find(sessions.begin(), sessions.end(), session);
    if (at != sessions.end()) {
        *at = sessions.back();
        sessions.pop_back();
    }
}

/// State that no poll feeds is told of by its keys: one transition does not cover another.
std::uint64_t slot_of(const Cache::Poll& poll) {
    return poll.is_state() ? 0 : poll.transition_slot;
}

bool is_same_key(const Value& value, const Message& message) {
    return value.key == message.key && value.stream->topic == message.topic &&
           value.stream->origin == message.origin;
}

/// A complete list may lack a key whose end has not been told yet: of that the answer says nothing.
bool names_all(const Cache::Poll& poll, const Cache& cache) {
    const Report& report = poll.state.report;
    const std::set<std::string_view> named(report.keys->begin(), report.keys->end());
    const Cache::Entries* entries = cache.find(poll.state.origin, report.topic);
    return entries == nullptr ||
           std::all_of(entries->begin(), entries->end(), [&](const auto& entry) {
               return entry.second->poll != report.poll || named.contains(entry.first);
           });
}

/// When a grant ends, by a clock that nobody sets. The wall clock is looked at, too, each time.
std::optional<Mono> end_of(const Grant& grant, Now now) {
    return grant.expires ? std::optional(now.mono + std::max(*grant.expires - now.wall, Millis{0}))
                         : std::nullopt;
}

}  // namespace

Hub::Hub(HubOptions options, Random random)
    : options_(std::move(options)),
      random_(random),
      legacy_origin_(options_.legacy_origin),
      history_(std::move(random), options_.ring_bytes_max) {}

Hub::~Hub() = default;

FramePtr Hub::make(std::string_view payload, Bytes data) {
    ++counters_.encodes;
    return frame(payload, std::move(data));
}

FramePtr Hub::make_value(const Value& value, Now now, bool replay) {
    FramePtr made = make(
        render_value(value, cache_.effective(value.age), Dialect::kV1, now, replay), value.data);
    if (made->size() <= options_.queue.bytes_max) {
        return made;
    }
    ++counters_.too_large;
    if (!too_large_logged_ || now.mono - *too_large_logged_ >= kTooLargeLogInterval) {
        too_large_logged_ = now.mono;
        log_warn("a message is too large for clients and was not sent; REST serves its value",
                 {{"topic", value.stream->topic},
                  {"origin", value.stream->origin},
                  {"key", value.key},
                  {"bytes", made->size()},
                  {"limit", options_.queue.bytes_max}});
    }
    return nullptr;
}

// --- Sessions ---------------------------------------------------------------------------------

Session& Hub::open(Dialect dialect, Now now, std::optional<Grant> grant) {
    auto made =
        std::make_unique<Session>(random_.uuid(), dialect, options_.queue, counters_.sent, now);
    Session& session = *made;
    session.number = ++arrivals_;
    sessions_.emplace_hint(sessions_.end(), session.number, std::move(made));
    session.grant = std::move(grant);
    session.rate = RateLimit(options_.messages_per_second);
    if (session.grant) {
        greet(session, now);
    } else {
        ++options_.occupancy->waiting;
        session.ends = now.mono + options_.first_message_timeout;
    }
    return session;
}

void Hub::greet(Session& session, Now now) {
    session.ends = end_of(*session.grant, now);
    if (session.v1()) {
        hello(session, now);
    } else {
        welcome(session, now);
    }
}

void Hub::close(Session& session) {
    for (const std::string& topic : std::set<std::string>(session.subscriptions())) {
        remove(session, topic);
    }
    drop(everything_, &session);
    drop(touched_, &session);
    drop(resuming_, &session);
    options_.occupancy->waiting -= session.grant ? 0u : 1u;
    sessions_.erase(session.number);
}

void Hub::welcome(Session& session, Now now) {
    std::string data = "{";
    append_member(data, "client_id", session.client_id());
    append_member(data, "message",
                  "Connected to SigmaVault WebSocket. You are subscribed to all core events.");
    data += ",\"subscriptions\":[";
    std::vector<std::string> topics;
    for (const std::string_view topic : kDefaultSubscriptions) {
        if (!session.grant->allows(topic)) {
            continue;
        }
        if (data.back() != '[') {
            data += ',';
        }
        append_json_string(data, topic);
        topics.emplace_back(topic);
        add(session, topics.back());
    }
    data += "]}";
    push_control(session, render_plain("notification", {}, data, {}, now));
    push_state(session, topics, now);
}

/// The current state of these topics, for a session without a subprotocol; it may go beyond the
/// bound of the queue, as the client asked for it.
void Hub::push_state(Session& session, const std::vector<std::string>& topics, Now now) {
    std::vector<Outgoing> frames;
    std::size_t bytes = 0;
    for (const std::string& topic : topics) {
        for (const Value* value : state_of(session, topic)) {
            if (FramePtr made = make_value(*value, now)) {
                bytes += made->size();
                frames.push_back({std::move(made), value->stream, value->seq, value->slot});
            }
        }
    }
    session.allow(bytes);
    for (const Outgoing& frame : frames) {
        push(session, frame, now);
    }
}

std::vector<Source> Hub::sources(const Grant& grant) const {
    std::vector<Source> sources;
    for (const auto& poll : cache_.polls()) {
        if (!poll->is_state() && grant.allows(poll->state.report.topic)) {
            sources.push_back({poll->state.origin, poll->state.report.poll,
                               poll->state.report.topic, cache_.effective(poll->state.age)});
        }
    }
    return sources;
}

void Hub::hello(Session& session, Now now) {
    std::string data = "{";
    append_member(data, "protocol", std::uint64_t{1});
    append_member(data, "epoch", cache_.epoch());
    append_member(data, "pos", bookmark_);
    append_member(data, "server_time", to_rfc3339(now.wall));
    append_member(data, "ping_ms", static_cast<std::uint64_t>(options_.heartbeat_interval.count()));
    append_member(data, "client_id", session.client_id());
    append_member(data, "version", SIGMACAST_VERSION);
    append_member(data, "uplink", cache_.uplink() ? "up" : "down");
    if (session.grant->expires) {
        append_member(data, "expires", to_rfc3339(*session.grant->expires));
    }
    if (!options_.topics.empty()) {
        data += ",\"topics\":[";
        for (const std::string& topic : options_.topics) {
            data += data.back() == '[' ? "" : ",";
            append_json_string(data, topic);
        }
        data += ']';
    }
    data +=
        ",\"features\":[\"resume\",\"skipped\",\"tick\",\"transition\",\"wildcard\"],\"sources\":[";
    for (const Source& source : sources(*session.grant)) {
        if (data.back() != '[') {
            data += ',';
        }
        append_source(data, source, now);
    }
    data += "]}";
    push_control(session, render_plain("hello", {}, data, {}, now));
}

// --- Tokens -------------------------------------------------------------------------------------

/// The first message of a session that waits for one, or a fresh one on a live session.
void Hub::authenticate(Session& session, const ClientMessage& message, Now now) {
    Result<Grant> grant = options_.verify ? options_.verify(message.token, now.wall) : Grant{};
    const bool first = !session.grant;
    if (grant && !first && options_.verify && grant->subject != session.grant->subject) {
        grant = Error{Errc::kInvalid, "the token is another subject's: open a connection for it"};
    }
    if (!grant) {
        const bool expired = grant.error().code == Errc::kTimeout;
        const std::uint16_t code = expired ? kCloseTokenExpired : kCloseBadToken;
        const std::string_view name = expired ? "token_expired" : "bad_token";
        if (first) {
            send_away(session, {code, std::string(name)}, message.id, grant.error().message, now);
        } else {  // The one that it has is as good as it was.
            ++counters_.unauthorized;
            push_control(session,
                         render_error(message.id, code, name, grant.error().message, false, now));
        }
        return;
    }
    if (first && !has_room_for(*grant)) {
        ++counters_.users_refused;
        push_control(session, render_error(message.id, kCloseOverCapacity, "over_capacity",
                                           "your user has too many connections", true, now));
        session.close({kCloseOverCapacity, "over_capacity"});
        return;
    }
    if (first) {
        session.seat = seat_for(*grant);
        --options_.occupancy->waiting;
        session.grant = std::move(*grant);
        greet(session, now);
    } else if (options_.verify) {
        change_grant(session, std::move(*grant), message.id, now);
    }
    if (session.v1()) {
        std::string data = "{";
        if (session.grant->expires) {
            append_member(data, "expires", to_rfc3339(*session.grant->expires));
        }
        data += '}';
        push_control(session, render_plain("authenticated", message.id, data, {}, now));
    }
}

/// What a fresh token does not allow any more ends, and is told.
void Hub::change_grant(Session& session, Grant grant, std::string_view id, Now now) {
    const bool same =
        grant.everything == session.grant->everything && grant.topics == session.grant->topics;
    session.grant = std::move(grant);
    session.ends = end_of(*session.grant, now);
    for (const auto& resume : session.resumes) {
        resume->wanted.clear();
    }
    for (const std::string& topic : std::set<std::string>(session.subscriptions())) {
        if (topic != "*" && !session.grant->allows(topic)) {
            end_resumes(session, {topic}, false, now);
            remove(session, topic);
            deny(session, id, topic, now);
        }
    }
    if (session.everything && !same) {
        answer_subscribe(session, {}, {"*"}, "access", now);
    }
}

void Hub::deny(Session& session, std::string_view id, const std::string& topic, Now now) {
    push_control(session, render_error(id, 4003, "denied", "your token does not allow " + topic,
                                       false, now, topic));
}

/// Twice a second: sessions that have not sent a token in time, and those whose token has expired.
void Hub::check_grants(Now now) {
    for (const auto& [number, each] : sessions_) {
        Session& session = *each;
        if (!session.ends || session.closing()) {
            continue;
        }
        const bool over = *session.ends <= now.mono;
        if (!session.grant && over) {
            send_away(session, {kCloseAuthenticate, "authenticate and reconnect"}, {},
                      "no token came in time", now);
        } else if (session.grant && (over || *session.grant->expires <= now.wall)) {
            ++counters_.expired;
            say_goodbye(session, {kCloseTokenExpired, "token_expired"}, now);
        }
    }
}

/// One that has no grant: told why, and closed.
void Hub::send_away(Session& session, Session::Close why, std::string_view id,
                    std::string_view message, Now now) {
    ++counters_.unauthorized;
    push_control(session, render_error(id, why.code,
                                       why.code == kCloseAuthenticate ? "authenticate" : why.reason,
                                       message, false, now));
    session.close(std::move(why));
}

/// Closed once what waits for it has been sent; a v1 client is told when to come back.
void Hub::say_goodbye(Session& session, Session::Close why, Now now, Millis hint_max) {
    if (session.v1() && session.grant) {
        const Millis hint = kReconnectHintMin + random_.upto(hint_max);
        push_control(session, render_goodbye(why.code, why.reason, hint, now));
    }
    session.close(std::move(why));
    touch(session);
}

// --- What clients ask for -----------------------------------------------------------------------

void Hub::flood(Session& session, Now now) {
    if (!session.closing()) {
        ++counters_.floods;
        say_goodbye(session, {kCloseRateLimited, "rate_limited"}, now);
    }
}

void Hub::count_frames(Session& session, std::size_t frames, Now now) {
    for (; frames > 0; --frames) {
        if (session.rate.take(now.mono) == RateLimit::Verdict::kFlood) {
            flood(session, now);
            return;
        }
    }
}

void Hub::drop_slow(Session& session, Now now) {
    if (!session.closing()) {
        ++counters_.not_read;
        say_goodbye(session, {kCloseSlowConsumer, "slow_consumer"}, now);
    }
}

void Hub::receive(Session& session, std::string_view text, Now now, std::string_view problem) {
    const RateLimit::Verdict verdict = session.rate.take(now.mono);
    if (verdict == RateLimit::Verdict::kFlood) {
        flood(session, now);
        return;
    }
    ClientMessage message = problem.empty() ? parse_client_message(text) : ClientMessage{};
    if (!problem.empty()) {
        message.problem = problem;
    }
    if (!session.grant && message.type != ClientMessage::Type::kAuth) {
        send_away(session, {kCloseAuthenticate, "authenticate and reconnect"}, message.id,
                  "the first message has to bring a token: "
                  "{\"type\":\"auth\",\"data\":{\"token\":\"..\"}}",
                  now);
        return;
    }
    if (verdict == RateLimit::Verdict::kOver) {
        ++counters_.over_rate;
        push_control(session,
                     render_error(message.id, kCloseRateLimited, "rate_limited",
                                  "more than " + std::to_string(options_.messages_per_second) +
                                      " messages a second; this one was not carried out",
                                  true, now));
        return;
    }
    switch (message.type) {
        case ClientMessage::Type::kPing: {
            std::string rest;
            const auto pos = told_pos(session);
            if (session.v1() && !session.data_waiting() && pos) {
                append_member(rest, "pos", *pos);  // All up to here was queued before this.
                append_member(rest, "epoch", cache_.epoch());
            }
            push_control(session,
                         render_plain("pong", session.v1() ? message.id : "", {}, rest, now));
            break;
        }
        case ClientMessage::Type::kSubscribe:
            subscribe(session, message, now);
            break;
        case ClientMessage::Type::kUnsubscribe:
            unsubscribe(session, message, now);
            break;
        case ClientMessage::Type::kAuth:
            authenticate(session, message, now);
            break;
        case ClientMessage::Type::kBad:
            ++counters_.client_errors;
            push_control(session, render_error(message.id, 4000, "bad_request", message.problem,
                                               false, now));
            break;
    }
    tell_dropped(now);
}

bool Hub::known_topic(std::string_view topic) const {
    return contains(kKnownTopics, topic) || cache_.knows(topic);
}

bool Hub::serves(std::string_view topic) const {
    return options_.topics.empty() || topic == "*" || is_of_edge(topic) ||
           contains(options_.topics, topic);
}

std::string Hub::topic_name(std::string_view name) const {
    std::string dotted(name);
    if (known_topic(dotted)) {
        return dotted;
    }
    for (auto at = dotted.find('_'); at != std::string::npos; at = dotted.find('_', at + 1)) {
        dotted[at] = '.';
        if (known_topic(dotted)) {
            return dotted;
        }
        dotted[at] = '_';
    }
    std::replace(dotted.begin(), dotted.end(), '_', '.');
    return known_topic(dotted) ? dotted : std::string(name);
}

void Hub::add(Session& session, const std::string& topic) {
    if (!session.subscriptions().insert(topic).second) {
        return;
    }
    if (session.v1() && topic == "*") {
        session.everything = true;
        for (const std::string& other : session.subscriptions()) {
            const auto of = by_topic_.find(other);
            if (of != by_topic_.end()) {
                drop(of->second.v1, &session);
            }
        }
        everything_.push_back(&session);
        return;
    }
    if (!session.everything) {
        Subscribers& of = by_topic_[topic];
        (session.v1() ? of.v1 : of.legacy).push_back(&session);
    }
}

void Hub::remove(Session& session, const std::string& topic) {
    if (session.subscriptions().erase(topic) == 0) {
        return;
    }
    if (session.everything && topic == "*") {
        session.everything = false;
        drop(everything_, &session);
        for (const std::string& other : session.subscriptions()) {
            by_topic_[other].v1.push_back(&session);
        }
        return;
    }
    const auto of = by_topic_.find(topic);
    if (of != by_topic_.end()) {
        drop(session.v1() ? of->second.v1 : of->second.legacy, &session);
        if (of->second.v1.empty() && of->second.legacy.empty()) {
            by_topic_.erase(of);
        }
    }
}

void Hub::subscribe(Session& session, const ClientMessage& message, Now now) {
    std::vector<std::string> topics;
    std::vector<std::string> denied;  // As they were asked for: what is known is not told either.
    for (const std::string& type : message.types) {
        const std::string topic = type == "*" ? type : topic_name(type);
        if (contains(topics, topic)) {
            continue;
        }
        if (topic != "*" && !session.grant->allows(topic)) {
            if (!session.v1()) {
                deny(session, message.id, type, now);
            } else if (!contains(denied, type)) {
                denied.push_back(type);
            }
            continue;
        }
        const bool is_new = session.subscriptions().count(topic) == 0;
        if (is_new && session.subscriptions().size() >= options_.subscriptions_max) {
            ++counters_.subscriptions_refused;
            push_control(session,
                         render_error(message.id, 4005, "limit_policy",
                                      "more than " + std::to_string(options_.subscriptions_max) +
                                          " subscriptions; " + topic + " was not added",
                                      false, now));
            break;
        }
        add(session, topic);
        if (is_new || session.v1()) {
            topics.push_back(topic);
        }
    }
    if (session.v1() && message.resume) {
        start_resume(session, message, std::move(topics), std::move(denied), now);
        return;
    }
    if (session.v1()) {
        end_resumes(session, topics, contains(topics, "*"), now);
        answer_subscribe(session, message.id, topics, "", now, denied);
        return;
    }
    push_state(session, topics, now);
}

void Hub::unsubscribe(Session& session, const ClientMessage& message, Now now) {
    for (const std::string& type : message.types) {
        const std::string topic = type == "*" ? type : topic_name(type);
        end_resumes(session, {topic}, false, now);
        remove(session, topic);
    }
}

std::vector<const Value*> Hub::state_of(const Session& session, const std::string& topic) {
    std::vector<const Value*> values;
    const auto visit = [&](const Value& value) {
        if (session.v1() || is_legacy_origin(value.stream->origin)) {
            values.push_back(&value);
        }
    };
    if (topic == "*" && session.v1()) {
        cache_.each_topic([&](const std::string& each) {
            if (session.grant->allows(each)) {
                cache_.each_of_topic(each, visit);
            }
        });
    } else {
        cache_.each_of_topic(topic, visit);
    }
    return values;
}

/// `subscribed`, and then exactly the frames that it counts: they cannot be conflated with later
/// ones.
void Hub::answer_subscribe(Session& session, std::string_view id,
                           const std::vector<std::string>& topics, std::string_view cause, Now now,
                           const std::vector<std::string>& denied, const Events* events) {
    std::vector<Outgoing> frames;
    std::vector<Outgoing> left_out;  // Notes of what is too large to be among them.
    std::size_t bytes = 0;
    std::string data = "{\"topics\":{";
    for (const std::string& topic : topics) {
        const bool of_state =
            !events || !events->state_was_answered || events->lost.contains(topic);
        const auto values = of_state ? state_of(session, topic) : std::vector<const Value*>{};
        const std::size_t first = frames.size();
        for (const Value* value : values) {
            if (FramePtr made = make_value(*value, now, true)) {
                bytes += made->size();
                frames.push_back({std::move(made), value->stream, value->seq, 0});
            } else {
                left_out.push_back({make(render_skipped(*value->stream, value->seq, value->seq,
                                                        "too_large", now, &value->key)),
                                    nullptr, 0, 0});
                bytes += left_out.back().frame->size();
            }
        }
        append_answer(data, topic, cause,
                      values.empty() ? std::nullopt : std::optional(frames.size() - first), events);
    }
    for (const std::string& topic : denied) {
        data += data.back() == '{' ? "" : ",";
        append_json_string(data, topic);
        data += ":{\"result\":\"denied\"}";
    }
    data += "}}";
    const FramePtr answer = make(render_plain("subscribed", id, data, {}, now));
    session.allow(bytes + answer->size());
    push(session, {answer, nullptr, 0, 0}, now);
    frames.insert(frames.end(), left_out.begin(), left_out.end());
    for (const Outgoing& item : frames) {
        push(session, item, now);
    }
}

// --- What the broker sent -----------------------------------------------------------------------

void Hub::apply(std::vector<Upstream::Step> steps, Now now) {
    for (Upstream::Step& each : steps) {
        std::visit([&](auto& of) { step(of, now); }, each);
    }
    tell_dropped(now);
}

void Hub::step(protocol::Snapshot& snapshot, Now now) {
    const bool same = snapshot_seen_ && snapshot.epoch == cache_.epoch();
    const std::string_view cause = !snapshot_seen_ ? "joined" : same ? "repaired" : "new_epoch";
    const std::uint64_t before = bookmark_;
    std::shared_ptr<Seen> delivered = std::make_shared<Seen>();
    for (const auto& [stream, pos] : same ? reached_ : decltype(reached_){}) {
        if (event_streams_.contains(stream)) {
            (*delivered)[{stream->topic, stream->origin}] = pos;
        }
    }
    renderings_.clear();
    auto gone = cache_.replace(snapshot);
    const std::string shown = std::exchange(legacy_origin_, options_.legacy_origin);
    for (const auto& poll : cache_.polls()) {
        if (legacy_origin_.empty() && !poll->is_state()) {  // Chosen anew, from what there is now.
            legacy_origin_ = poll->state.origin;
        }
    }
    snapshot_seen_ = true;
    bookmark_ = cache_.pos();
    renew_history(snapshot, same);
    render_legacy_origin(now);
    seek_ends(std::move(gone), shown, snapshot, same, now);
    for (const auto& [number, session] : sessions_) {
        if (!session->v1() || session->subscriptions().empty()) {
            continue;
        }
        std::vector<std::string> topics;
        for (const std::string& topic : session->subscriptions()) {
            const bool asked = std::any_of(
                session->resumes.begin(), session->resumes.end(), [&](const auto& resume) {
                    return resume->phase == Resume::Phase::kAsked && resume->covers(topic);
                });
            if (!asked && (!session->everything || topic == "*")) {
                topics.push_back(topic);  // What was asked for is answered in its time.
            }
        }
        const Events events{.from = before, .to = std::max(bookmark_, newest_)};
        if (same) {
            resume_repaired(*session, before, delivered);
        }
        if (!topics.empty()) {
            answer_subscribe(*session, {}, topics, cause, now, {}, same ? &events : nullptr);
        }
    }
    work(now);
}

void Hub::step(Message& message, Now now) {
    if (message.pos != 0) {
        newest_ = std::max(newest_, message.pos);
        if (const Stream* stream = cache_.stream(message.origin, message.topic)) {
            std::uint64_t& reached = reached_[stream];
            reached = std::max(reached, message.pos);
            if (message.kind == Kind::kEvent) {
                event_streams_.insert(stream);
                event_topics_.insert(message.topic);
            }
        }
    }
    if (message.kind == Kind::kTransition) {
        on_transition(message, now);
    } else if (message.kind == Kind::kValue || message.kind == Kind::kEvent) {
        on_value(message, now);
    }
}

void Hub::on_value(const Message& message, Now now) {
    const auto put = cache_.put(message);
    if (!put) {
        ++counters_.not_encodable;
        tell_skipped(message, "not_encodable", now);
        return;
    }
    if (!*put) {
        tell_skipped(message, "superseded", now);
        return;
    }
    const Value& value = **put;
    if (value.final && is_legacy_origin(message.origin)) {  // It is told to them below.
        std::erase_if(gone_, [&](const Gone& each) { return is_same_key(*each.last, message); });
    }
    const bool state = value.kind == Kind::kValue;
    const std::uint64_t event_pos = state ? 0 : value.pos;
    const bool v1 = has_listeners(message.topic, Dialect::kV1);
    const bool rendered_at_report = state && !value.final && !is_state_poll(value.poll) &&
                                    cache_.find_poll(message.origin, value.poll) != nullptr;
    const bool legacy = !rendered_at_report && (!state || is_legacy_origin(message.origin)) &&
                        has_listeners(message.topic, Dialect::kLegacy);
    if (event_pos == 0 && !v1 && !legacy) {
        return;
    }
    const FramePtr made = make_value(value, now);  // One for all, and for those who come back.
    if (event_pos != 0) {
        history_.add(entry_of(value, made, true, now));
    }
    if (v1 && made) {
        const Cache::Poll* poll = cache_.find_poll(message.origin, value.poll);
        push_topic(
            message.topic, Dialect::kV1,
            {made, value.stream, value.seq, value.slot, value.final, poll ? poll->tick_slot : 0},
            now, event_pos);
    } else if (v1) {
        tell_skipped(message, "too_large", now);
    }
    if (legacy && made) {
        push_topic(message.topic, Dialect::kLegacy,
                   {made, value.stream, value.seq, value.slot, value.final}, now);
    }
}

void Hub::tell_skipped(const Message& message, std::string_view why, Now now) {
    const Stream* stream = cache_.stream(message.origin, message.topic);
    const bool withheld = message.kind == Kind::kValue && why != "superseded";
    if (stream && message.kind == Kind::kEvent && message.pos != 0 && why == "not_encodable") {
        history_.add({message.pos, message.seq, stream,
                      make(render_skipped(*stream, message.seq, message.seq, why, now))});
    }
    if (stream && (withheld || message.seq != 0)) {
        push_topic(message.topic, Dialect::kV1,
                   {make(render_skipped(*stream, message.seq, message.seq, why, now,
                                        withheld ? &message.key : nullptr)),
                    stream, message.seq, 0},
                   now, message.kind == Kind::kEvent ? message.pos : 0);
    }
}

void Hub::send_legacy(const Value& value, Now now) {
    if (!has_listeners(value.stream->topic, Dialect::kLegacy)) {
        return;
    }
    if (FramePtr made = make_value(value, now)) {
        push_topic(value.stream->topic, Dialect::kLegacy,
                   {std::move(made), value.stream, value.seq, value.slot, value.final}, now);
    }
}

void Hub::on_transition(const Message& message, Now now) {
    const Stream* stream = cache_.stream(message.origin, message.topic);
    Cache::TransitionChange change = cache_.transition(message);
    const Cache::Poll* poll = change.poll;
    if (!stream) {
        return;
    }
    const Transition transition{.stream = stream,
                                .poll = message.poll,
                                .keys = message.keys,
                                .epoch = message.epoch,
                                .seq = message.seq,
                                .pos = message.pos,
                                .age = cache_.effective(message.age)};
    tell_transition(transition, poll ? slot_of(*poll) : 0, now);
    if (!change.left.empty()) {
        tell_keys(*poll, std::move(change.left), Cache::left_age(*poll), 0, now);
    }
    if (poll && is_legacy_origin(message.origin)) {
        render_due(*poll, now.mono + kRenderDelay);
    }
}

/// A poll's quality as it is now, where no transition of the broker's has said it.
void Hub::tell_quality(const Cache::Poll& poll, Now now) {
    Cache::Keys keys = cache_.keys_of(poll);
    if (keys.left.empty()) {
        keys.vouched.clear();  // All.
    }
    if (keys.left.empty() || !keys.vouched.empty()) {
        tell_keys(poll, std::move(keys.vouched), poll.state.age, slot_of(poll), now);
    }
    if (!keys.left.empty()) {
        tell_keys(poll, std::move(keys.left), Cache::left_age(poll), 0, now);
    }
}

void Hub::tell_keys(const Cache::Poll& poll, std::vector<std::string> keys, Age age,
                    std::uint64_t slot, Now now) {
    tell_transition({.stream = poll.stream,
                     .poll = poll.state.report.poll,
                     .keys = std::move(keys),
                     .epoch = {},
                     .age = cache_.effective(std::move(age))},
                    slot, now);
}

void Hub::tell_transition(const Transition& transition, std::uint64_t slot, Now now) {
    if (has_listeners(transition.stream->topic, Dialect::kV1)) {
        push_topic(
            transition.stream->topic, Dialect::kV1,
            {make(render_transition(transition, now)), transition.stream, transition.seq, slot},
            now);
    }
}

void Hub::step(Upstream::PollUpdate& update, Now now) {
    const Cache::Poll* known = cache_.find_poll(update.state.origin, update.state.report.poll);
    if (!update.complete_age) {
        const Report& report = update.state.report;
        update.state.age = known ? known->state.age : Age{};
        update.state.age.as_of = report.as_of ? report.as_of : update.state.age.as_of;
        if (report.ok) {
            update.state.age = Age{};
            update.state.age.quality = Quality::kLive;
            update.state.age.as_of = report.as_of;
        }
    }
    const bool is_new = known == nullptr;
    const Cache::PollChange change = cache_.poll(update.state);
    if (!change.poll) {
        return;
    }
    Cache::Poll& poll = *change.poll;
    tell_ends(now);
    // The broker's own transition was not logged, or is lost: what it would have said is said here.
    // So is what it had no reason to say: a value came, the report of its answer did not, and the
    // poll fails as before.
    const bool untold = (change.quality_changed || change.values_changed) && !is_new;
    if (untold) {
        tell_quality(poll, now);
    } else {
        if (!change.left.empty()) {
            tell_keys(poll, change.left, Cache::left_age(poll), 0, now);
        }
        if (!change.back.empty()) {
            tell_keys(poll, change.back, poll.state.age, 0, now);
        }
    }
    if (change.new_report) {
        // Values say how new they are themselves; a tick speaks for those that did not change. How
        // many keys a head vouches for is not known here.
        if (poll.state.report.ok && (poll.is_state() || change.confirms)) {
            tell_tick(poll, now);
        }
    }
    const bool due = untold || (!poll.is_state() && (change.new_report || is_new));
    if (due && is_legacy_origin(poll.state.origin)) {
        render_poll(poll, now);
    }
}

void Hub::tell_tick(Cache::Poll& poll, Now now) {
    // Heads vouch each second; so often nobody needs to be told.
    const bool early = poll.is_state() && poll.ticked &&
                       elapsed(*poll.ticked, now.mono) < options_.heartbeat_interval;
    if (early || !has_listeners(poll.stream->topic, Dialect::kV1)) {
        return;
    }
    poll.ticked = now.mono;
    const Report& report = poll.state.report;
    const bool partial =
        report.keys && (poll.is_state() || !report.complete || !names_all(poll, cache_));
    const Source source{poll.state.origin, report.poll, report.topic,
                        cache_.effective(poll.state.age)};
    push_topic(poll.stream->topic, Dialect::kV1,
               {make(render_tick(source, partial ? &*report.keys : nullptr, now)), nullptr, 0,
                poll.tick_slot},
               now);
}

void Hub::step(Upstream::Lost& lost, Now now) {
    const Stream* stream = cache_.stream(lost.origin, lost.topic);
    if (!stream) {
        return;
    }
    // Where in the log it was is known of a gap's row. Else it is told where no cursor is yet: the
    // hole has held the bookmark back.
    const bool of_events = event_streams_.contains(stream);
    const std::uint64_t event_pos =
        !of_events      ? 0
        : lost.pos != 0 ? lost.pos
                        : std::max({newest_, bookmark_ + 1, history_.ring_start() + 1});
    newest_ = std::max(newest_, lost.pos);
    const FramePtr note =
        make(render_skipped(*stream, lost.range.from, lost.range.to, "lost", now));
    if (event_pos != 0) {
        history_.add({event_pos, lost.range.to, stream, note});
    }
    push_topic(lost.topic, Dialect::kV1, {note, stream, lost.range.to, 0}, now, event_pos);
}

void Hub::step(Upstream::UplinkChange& change, Now now) {
    std::vector<Age> before;
    for (const auto& poll : cache_.polls()) {
        before.push_back(cache_.effective(poll->state.age));
    }
    cache_.set_uplink(change.up);
    for (std::size_t i = 0; i < before.size(); ++i) {
        const Cache::Poll& poll = *cache_.polls()[i];
        if (!Cache::same_quality(before[i], cache_.effective(poll.state.age))) {
            tell_quality(poll, now);
        }
        if (is_legacy_origin(poll.state.origin)) {
            render_due(poll, now.mono);
        }
    }
    if (change.up) {
        history_.start_over();
    } else {
        for (const Gone& each : gone_) {  // How they ended, nobody can say for now.
            if (is_gone(*each.last)) {
                send_legacy(*each.last, now);
            }
        }
    }
    work(now);
    on_timer(now);
}

void Hub::step(Upstream::Bookmark& bookmark, Now now) {
    bookmark_ = std::max(bookmark_, bookmark.pos);
    cache_.set_pos(bookmark_);
    work(now);
}

/// Where the snapshot knew none. Not the first that is heard here: every edge has to choose the
/// same.
void Hub::step(Upstream::FirstOrigin& first, Now now) {
    if (legacy_origin_.empty()) {
        legacy_origin_ = std::move(first.name);
        render_legacy_origin(now);
    }
}

// --- Renderings for clients without a subprotocol -----------------------------------------------

bool Hub::is_legacy_origin(std::string_view origin) const {
    return !origin.empty() && origin == legacy_origin_;
}

void Hub::render_legacy_origin(Now now) {
    for (const auto& poll : cache_.polls()) {
        if (is_legacy_origin(poll->state.origin)) {
            render_due(*poll, now.mono);
        }
    }
}

void Hub::render_due(const Cache::Poll& poll, Mono when) {
    Rendering& next = renderings_.emplace(&poll, Rendering{when, true}).first->second;
    next.due = std::min(next.due, when);
    next.forced = true;
}

/// When it is due without a further report; never where it has no cadence.
void Hub::render_again(const Cache::Poll& poll, Millis slack, Now now) {
    const Millis interval = poll.state.report.interval;
    if (interval > Millis{0}) {
        renderings_[&poll] = {now.mono + std::max(interval, Millis{100}) + slack, false};
    } else {
        renderings_.erase(&poll);
    }
}

/// Every key of the poll, the summary last; nothing where there never was a value.
void Hub::render_poll(const Cache::Poll& poll, Now now) {
    // A report that is a little late is no reason to repeat the value before it.
    render_again(poll, std::max(poll.state.report.interval / 4, Millis{50}), now);
    const std::string& topic = poll.stream->topic;
    if (!has_listeners(topic, Dialect::kLegacy)) {
        return;
    }
    const Cache::Entries* entries = cache_.find(poll.state.origin, topic);
    if (!entries) {
        return;
    }
    for (const auto& [key, value] : *entries) {
        if (!key.empty() && value->poll == poll.state.report.poll) {
            send_legacy(*value, now);
        }
    }
    const auto summary = entries->find("");
    if (summary != entries->end() && summary->second->poll == poll.state.report.poll) {
        send_legacy(*summary->second, now);
    }
}

/// Clients without a subprotocol are told nothing by a snapshot: of a key that it lacks they would
/// never hear again. How it ended is in the log, in what this edge has missed.
void Hub::seek_ends(std::vector<std::shared_ptr<const Value>> gone, const std::string& origin,
                    const protocol::Snapshot& snapshot, bool same, Now now) {
    for (auto& last : gone) {
        if (last->key.empty() || last->stream->origin != origin ||
            !has_listeners(last->stream->topic, Dialect::kLegacy)) {
            continue;
        }
        // What had no place in the log, or was in another one, may be on its way.
        const bool ended = same && last->seq != 0 && snapshot.unreadable == 0;
        if (gone_.size() < kGoneMax) {
            gone_.push_back({std::move(last), ended});
        } else if (ended) {
            tell_unknown_end(*last, now);
        }
    }
    gone_since_ = now.mono;
    if (gone_.empty()) {
        return;
    }
    for (const StreamHead& head : snapshot.streams) {
        const Stream* stream = cache_.find_stream(head.origin, head.topic);
        std::uint64_t from = head.seq + 1;
        for (const Gone& each : gone_) {
            if (each.last->stream == stream && each.last->seq != 0 &&
                each.last->epoch == snapshot.epoch) {
                from = std::min(from, each.last->seq + 1);
            }
        }
        constexpr std::uint64_t kPage = sequence::ReceiverLimits{}.ask_max;
        if (from <= head.seq) {
            from = std::max(from, head.seq - std::min(head.seq, kPage) + 1);
            requests_.emplace_back(protocol::Ask{0, head.origin, head.topic, {from, head.seq}});
        }
    }
}

/// What this edge has asked the log for. Of a key that has ended twice the later end counts.
void Hub::step(protocol::Range& answer, Now now) {
    for (auto item = answer.items.rbegin(); item != answer.items.rend(); ++item) {
        const auto of = std::find_if(gone_.begin(), gone_.end(), [&](const Gone& each) {
            return is_same_key(*each.last, *item) && each.last->epoch == item->epoch &&
                   each.last->seq < item->seq;
        });
        if (!item->final || of == gone_.end()) {
            continue;
        }
        if (const auto end = cache_.make_value(*item)) {
            (*end)->slot = of->last->slot;
            send_legacy(**end, now);
            gone_.erase(of);
        }
    }
}

/// Not what lives after all, nor what is of an origin that they see no more.
bool Hub::is_gone(const Value& last) const {
    const Stream& of = *last.stream;
    return is_legacy_origin(of.origin) && !cache_.find(of.origin, of.topic, last.key);
}

/// Where the log has not said how it ended, nobody knows.
void Hub::tell_ends(Now now) {
    if (gone_.empty() || legacy_origin_.empty() || elapsed(gone_since_, now.mono) < kAnswerMax) {
        return;
    }
    std::erase_if(gone_, [&](const Gone& each) {
        const Value& last = *each.last;
        if (!is_gone(last)) {
            return true;
        }
        const Cache::Poll* poll = cache_.find_poll(last.stream->origin, last.poll);
        const Report* report = poll && !poll->is_state() ? &poll->state.report : nullptr;
        // A list from before the value says nothing of it: a broker that starts again knows that
        // one.
        const bool later =
            report && report->as_of && last.age.as_of && report->as_of->mono > last.age.as_of->mono;
        const bool lacked = later && report->ok && report->complete && report->keys &&
                            !contains(*report->keys, last.key);
        const bool ended = each.ended || lacked;
        if (ended) {
            tell_unknown_end(last, now);
        }
        return ended;
    });
}

/// As the producer says it where the engine does not know (EVENTS.md).
void Hub::tell_unknown_end(const Value& last, Now now) {
    Value end = last;
    end.final = true;
    end.epoch.clear();
    end.seq = end.pos = 0;  // The log has it nowhere,
    end.durable = true;     // and that is no matter of a disk.
    end.age.quality = Quality::kStale;
    end.age.reason = "BROKER_UNREACHABLE";
    end.age.source = "uplink";
    end.age.retry_at.reset();
    if (has_member(*last.json, {"status"})) {
        std::string json = without_members(*last.json, {"status"});
        json.pop_back();
        append_member(json, "status", "unknown");
        json += '}';
        end.json = std::make_shared<const std::string>(std::move(json));
        end.data = nullptr;
    }
    send_legacy(end, now);
}

void Hub::on_timer(Now now) {
    std::vector<std::pair<const Cache::Poll*, bool>> due;
    for (const auto& [poll, next] : renderings_) {
        if (next.due <= now.mono) {
            due.emplace_back(poll, next.forced);
        }
    }
    for (const auto& [poll, forced] : due) {
        // Until the broker calls it silent, a poll that is late is not told again: nothing new is
        // known.
        if (forced || cache_.effective(poll->state.age).quality != Quality::kLive) {
            render_poll(*poll, now);
        }
        render_again(*poll, Millis{0}, now);
    }
    if (work_at_ && *work_at_ <= now.mono) {
        work(now);
    }
    if (next_heartbeat_check_ <= now.mono) {
        next_heartbeat_check_ =
            now.mono + std::min(kHeartbeatCheck, options_.heartbeat_interval / 4);
        heartbeats(now);
        if (options_.verify) {
            check_grants(now);
        }
    }
    tell_dropped(now);
    drain_some(now);
}

Mono Hub::deadline() const {
    Mono next = drain_ ? std::min(next_heartbeat_check_, drain_->next) : next_heartbeat_check_;
    for (const auto& [poll, rendering] : renderings_) {
        next = std::min(next, rendering.due);
    }
    return work_at_ ? std::min(next, *work_at_) : next;
}

// --- Sending ------------------------------------------------------------------------------------

void Hub::touch(Session& session) {
    if (!session.touched) {
        session.touched = true;
        touched_.push_back(&session);
    }
}

std::vector<Session*> Hub::take_touched() {
    for (Session* session : touched_) {
        session->touched = false;
    }
    return std::exchange(touched_, {});
}

void Hub::push_control(Session& session, std::string_view payload) {
    session.send_control(make(payload));
    touch(session);
}

void Hub::push(Session& session, const Outgoing& item, Now now) {
    touch(session);
    if (session.send_data(item)) {
        return;
    }
    ++counters_.slow_closed;
    dropped_.push_back(session.client_id());
    say_goodbye(session, {kCloseSlowConsumer, "slow_consumer"}, now);
}

bool Hub::has_listeners(std::string_view topic, Dialect dialect) const {
    if (dialect == Dialect::kV1 && !everything_.empty()) {
        return true;
    }
    const auto of = by_topic_.find(std::string(topic));
    return of != by_topic_.end() &&
           !(dialect == Dialect::kV1 ? of->second.v1 : of->second.legacy).empty();
}

void Hub::push_topic(std::string_view topic, Dialect dialect, const Outgoing& item, Now now,
                     std::uint64_t event_pos) {
    const auto of = by_topic_.find(std::string(topic));
    if (of != by_topic_.end()) {
        const auto& all = dialect == Dialect::kV1 ? of->second.v1 : of->second.legacy;
        for (std::size_t i = 0; i < all.size(); ++i) {
            fetch_ahead(all, i);
            Session* const session = all[i];
            if (session->resumes.empty() || !withheld(*session, topic, item.stream, event_pos)) {
                push(*session, item, now);
            }
        }
    }
    if (dialect == Dialect::kV1) {
        for (Session* session : everything_) {
            const bool allowed = session->grant->everything || session->grant->allows(topic);
            if (allowed &&
                (session->resumes.empty() || !withheld(*session, topic, item.stream, event_pos))) {
                push(*session, item, now);
            }
        }
    }
}

/// The others hear of a client that was dropped. Telling may drop more: each once, so this ends.
void Hub::tell_dropped(Now now) {
    while (!dropped_.empty()) {
        const std::string client = std::move(dropped_.back());
        dropped_.pop_back();
        std::string data = "{";
        append_member(data, "client_id", client);
        append_member(data, "reason", "buffer_full");
        append_member(data, "error_code", "CONNECTION_DROP");
        append_member(data, "timestamp", static_cast<std::uint64_t>(unix_seconds(now.wall)));
        data += '}';
        const FramePtr told = make(render_plain("connection_error", {}, data, {}, now));
        push_topic("connection_error", Dialect::kLegacy, {told, nullptr, 0, 0}, now);
        push_topic("connection_error", Dialect::kV1, {told, nullptr, 0, 0}, now);
    }
}

void Hub::heartbeats(Now now) {
    FramePtr legacy;
    FramePtr v1;
    for (const auto& [number, session] : sessions_) {
        const bool quiet = elapsed(session->last_sent(), now.mono) >= options_.heartbeat_interval;
        if (!quiet || !session->grant || !session->idle() || session->closing() ||
            (!session->v1() && session->subscriptions().count("heartbeat") == 0)) {
            continue;  // What waits is younger than a heartbeat would be.
        }
        const auto pos = told_pos(*session);
        if (session->v1() && !pos) {
            continue;  // It is about to be answered.
        }
        FramePtr own;  // Where it has not got as far as the others.
        FramePtr& shared = !session->v1() ? legacy : *pos == bookmark_ ? v1 : own;
        if (!shared) {
            std::string data = "{";
            append_member(data, "server_time", static_cast<std::uint64_t>(unix_seconds(now.wall)));
            std::string rest;
            if (session->v1()) {
                append_member(data, "uplink", cache_.uplink() ? "up" : "down");
                append_member(rest, "pos", *pos);
                append_member(rest, "epoch", cache_.epoch());
            }
            data += '}';
            shared = make(render_plain("heartbeat", {}, data, rest, now));
        }
        session->send_control(shared);
        touch(*session);
    }
}

// --- The end ------------------------------------------------------------------------------------

void Hub::drain(Mono from, Millis over, Now now) {
    drain_ = Drain{
        .from = from,
        .until = from + over,
        .next = from,
        .hint_max = std::max(kReconnectHintMax,
                             kReconnectHintEach * static_cast<int>(options_.occupancy->clients))};
    drain_some(now);
}

/// Those whose turn has come: the same number at each step, of those that are left; who came first
/// goes first.
void Hub::drain_some(Now now) {
    if (!drain_ || drain_->next > now.mono) {
        return;
    }
    std::vector<Session*> left;
    for (const auto& [number, session] : sessions_) {
        if (!session->closing()) {
            left.push_back(session.get());
        }
    }
    const auto steps = static_cast<std::size_t>(elapsed(now.mono, drain_->until) / kDrainStep) + 1;
    left.resize((left.size() + steps - 1) / steps);
    for (Session* session : left) {
        const auto why = session->v1() ? Session::Close{kCloseDraining, "draining"}
                                       : Session::Close{kCloseGoingAway, "shutting_down"};
        say_goodbye(*session, why, now, drain_->hint_max);
    }
    drain_->next = now.mono + kDrainStep;
}

}  // namespace sigmacast::edge
