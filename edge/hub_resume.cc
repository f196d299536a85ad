// The Hub's part for clients that were away: how each is answered, and how it gets what it missed.
#include <algorithm>
#include <functional>
#include <utility>

#include "common/codec.h"
#include "common/log.h"
#include "edge/hub.h"

namespace sigmacast::edge {
namespace {

bool contains(const std::vector<std::string>& list, std::string_view name) {
    return std::find(list.begin(), list.end(), name) != list.end();
}

}  // namespace

void Hub::work_by(Mono when) {
    work_at_ = work_at_ ? std::min(*work_at_, when) : when;
}

bool Hub::has_events(std::string_view topic) const {
    return topic == "*" || event_topics_.contains(topic);
}

// --- What is asked for --------------------------------------------------------------------------

void Hub::start_resume(Session& session, const ClientMessage& message,
                       std::vector<std::string> topics, std::vector<std::string> denied, Now now) {
    end_resumes(session, topics, contains(topics, "*"), now);
    bool room = message.cursor.has_value();
    std::size_t entries = room ? message.cursor->seen.size() : 0;
    for (const auto& older : session.resumes) {
        entries += older->seen->size();
        for (const std::string& topic : topics) {
            if (contains(older->topics, "*") && !contains(older->except, topic)) {
                older->except.push_back(topic);
                older->wanted.clear();
            }
        }
        room = room && older->except.size() <= options_.subscriptions_max;
    }
    room = room && entries <= kCursorEntriesMax;
    if (!room) {
        ++counters_.resumes.bad_cursor;
        answer_subscribe(session, message.id, topics, "bad_cursor", now, denied);
        return;
    }
    auto made = std::make_unique<Resume>();
    Resume& resume = *made;
    resume.topics = std::move(topics);
    resume.denied = std::move(denied);
    resume.id = message.id;
    resume.epoch = message.cursor->epoch;
    resume.from = resume.pos = message.cursor->pos;
    resume.seen = std::make_shared<const Seen>(message.cursor->seen);
    resume.since = now.mono;
    resume.asked_after = history_.last_id();
    session.await_room(0, nullptr);  // Whatever else it takes, it is to be answered.
    session.resumes.push_back(std::move(made));
    std::size_t turn = kReplayTurn;
    if (advance(session, resume, turn, now) == Progress::kDone) {
        session.resumes.pop_back();
        return;
    }
    if (std::find(resuming_.begin(), resuming_.end(), &session) == resuming_.end()) {
        resuming_.push_back(&session);
    }
    work_by(now.mono + kGather);
    if (options_.wake) {
        options_.wake();
    }
}

/// `all`: of every topic. Who still waits for an answer gets it: without these.
void Hub::end_resumes(Session& session, const std::vector<std::string>& topics, bool all, Now now) {
    for (const auto& resume : session.resumes) {
        const bool star = contains(resume->topics, "*");
        std::erase_if(resume->topics,
                      [&](const std::string& topic) { return all || contains(topics, topic); });
        if (star && !all && contains(topics, "*")) {
            for (const std::string& left : session.subscriptions()) {
                if (!contains(topics, left) && !resume->covers(left) &&
                    !contains(resume->except, left)) {
                    resume->topics.push_back(left);  // It was named beside "*".
                }
            }
        }
        resume->wanted.clear();
        if (resume->topics.empty() && resume->phase == Resume::Phase::kAsked) {
            answer_subscribe(session, resume->id, {}, "", now, resume->denied);
        }
    }
    std::erase_if(session.resumes, [](const auto& resume) { return resume->topics.empty(); });
}

// --- How it is answered -------------------------------------------------------------------------

Hub::Progress Hub::advance(Session& session, Resume& resume, std::size_t& turn, Now now) {
    if (resume.phase == Resume::Phase::kAsked) {
        const Progress decided = decide(session, resume, now);
        if (resume.phase == Resume::Phase::kAsked || decided == Progress::kDone) {
            return decided;
        }
    }
    return catch_up(session, resume, turn, now);
}

Hub::Progress Hub::decide(Session& session, Resume& resume, Now now) {
    const Millis waited = elapsed(resume.since, now.mono);
    const bool heard = log_.id > resume.asked_after;
    const bool same_log = heard && log_.epoch == cache_.epoch();
    if (!snapshot_seen_ || resume.epoch != cache_.epoch()) {
        if (snapshot_seen_ && same_log) {
            return settle(session, resume, "new_epoch", counters_.resumes.new_epoch, now);
        }
        // Which of the two is the newer one, only the broker can tell.
        return waited >= kBehindMax ? send_away_behind(session, resume, now)
               : snapshot_seen_     ? Progress::kProbe
                                    : Progress::kWaits;
    }
    if (!reached(resume)) {
        std::uint64_t highest = resume.from;
        for (const auto& [stream, pos] : *resume.seen) {
            highest = std::max(highest, pos);
        }
        if (same_log && highest > log_.pos) {
            return settle(session, resume, "future", counters_.resumes.future, now);
        }
        return waited >= kBehindMax ? send_away_behind(session, resume, now)
               : heard              ? Progress::kWaits
                                    : Progress::kProbe;
    }
    const bool events = std::any_of(resume.topics.begin(), resume.topics.end(),
                                    [this](const std::string& topic) { return has_events(topic); });
    const bool here = resume.pos >= history_.ring_start() || history_.page_after(resume.pos);
    if (events && !here && waited < kAnswerMax) {
        return Progress::kPage;
    }
    answer_resume(session, resume, events && !here, now);
    return events ? Progress::kPage : Progress::kDone;
}

/// Whether nothing here is older than what the client has seen.
bool Hub::reached(const Resume& resume) const {
    return bookmark_ >= resume.from &&
           std::all_of(resume.seen->begin(), resume.seen->end(), [this](const auto& seen) {
               if (bookmark_ >= seen.second) {
                   return true;
               }
               const auto& [topic, origin] = seen.first;
               const auto found = reached_.find(cache_.find_stream(origin, topic));
               return found != reached_.end() && found->second >= seen.second;
           });
}

Hub::Progress Hub::settle(Session& session, Resume& resume, std::string_view cause,
                          std::uint64_t& counter, Now now) {
    ++counter;
    answer_subscribe(session, resume.id, resume.topics, cause, now, resume.denied);
    return Progress::kDone;
}

/// What it has seen is newer than what there is here: elsewhere, or later.
Hub::Progress Hub::send_away_behind(Session& session, Resume& resume, Now now) {
    ++counters_.resumes.edge_behind;
    push_control(session, render_error(resume.id, kCloseEdgeBehind, "edge_behind",
                                       "this edge has not reached your position yet", true, now));
    say_goodbye(session, {kCloseEdgeBehind, "edge_behind"}, now);
    return Progress::kDone;
}

void Hub::answer_resume(Session& session, Resume& resume, bool pending, Now now) {
    Events events{.from = resume.from, .to = std::max(bookmark_, newest_), .pending = pending};
    const History::Page* page =
        resume.pos < history_.ring_start() ? history_.page_after(resume.pos) : nullptr;
    if (page) {
        tell_lost(session, resume, *page, events);
    }
    ++(pending               ? counters_.resumes.pending
       : events.lost.empty() ? counters_.resumes.resumed
                             : counters_.resumes.too_old);
    resume.phase = pending ? Resume::Phase::kPending : Resume::Phase::kCatching;
    answer_subscribe(session, std::exchange(resume.id, {}), resume.topics, "", now,
                     std::exchange(resume.denied, {}), &events);
}

/// One topic's part of `subscribed`; `count`: of its values, where it has any.
void Hub::append_answer(std::string& data, const std::string& topic, std::string_view cause,
                        std::optional<std::size_t> count, const Events* events) const {
    const auto lost = events ? events->lost.find(topic) : decltype(events->lost.end()){};
    const bool is_lost = events && lost != events->lost.end();
    const bool of_events = events && (is_lost || has_events(topic));
    const bool pending = of_events && events->pending;
    const bool known = topic == "*" || known_topic(topic);
    const bool of_edge = is_of_edge(topic);
    const bool state = count || (events && topic != "*" && cache_.knows(topic) && !of_events);
    const bool snapshot = state || is_lost || (!events && !cause.empty());
    data += data.back() == '{' ? "" : ",";
    append_json_string(data, topic);
    data += ":{";
    if (!serves(topic)) {
        append_member(data, "result", "not_served");
        data += '}';
        return;
    }
    append_member(data, "result",
                  pending                         ? "pending"
                  : snapshot                      ? "snapshot"
                  : !known                        ? "unknown"
                  : events != nullptr && !of_edge ? "resumed"
                                                  : "live");
    if (snapshot || pending) {
        append_member(data, "count", std::uint64_t{count.value_or(0)});
    }
    const std::string_view why = !cause.empty() ? cause
                                 : is_lost      ? events->lost_why
                                 : events       ? std::string_view("conflated")
                                                : std::string_view();
    if (snapshot && !pending && !why.empty()) {
        append_member(data, "cause", why);
    }
    if (is_lost) {
        data += ",\"lost\":{";
        append_member(data, "from", events->from);
        append_member(data, "to", lost->second);
        if (topic == "*") {
            data += ",\"topics\":[";
            for (const auto& [name, to] : events->lost) {
                if (name != "*") {
                    data += data.back() == '[' ? "" : ",";
                    append_json_string(data, name);
                }
            }
            data += ']';
        }
        data += '}';
    }
    if (events && !pending && (of_events || (known && !snapshot && !of_edge))) {
        append_member(data, "from", events->from);
        append_member(data, "to", events->to);
    }
    data += '}';
}

/// What retention has taken of what this client lacks, by topic; each is told once. Where this edge
/// could not read rows, whose they were is not known: of any topic.
void Hub::tell_lost(const Session& session, Resume& resume, const History::Page& page,
                    Events& events) const {
    std::map<std::string, std::uint64_t>& lost = events.lost;
    const auto add = [&](const std::string& topic, std::uint64_t to) {
        const bool named = contains(resume.topics, topic);
        if (named || lost.size() < kNamesMax) {
            lost[topic] = std::max(lost[topic], to);
        }
        if (!named) {
            lost["*"] = std::max(lost["*"], to);
        }
    };
    for (const StreamFloor& floor : page.floors) {
        if (floor.pos <= resume.pos) {
            continue;
        }
        const std::pair<std::string, std::string> name{floor.topic, floor.origin};
        const auto seen = resume.seen->find(name);
        if (!resume.covers(floor.topic) || !session.grant->allows(floor.topic) ||
            (seen != resume.seen->end() && seen->second >= floor.pos)) {
            continue;
        }
        std::uint64_t& told = resume.lost[name];
        if (told < floor.pos) {
            told = floor.pos;
            add(floor.topic, floor.pos);
        }
    }
    if (page.unreadable > 0 && resume.unreadable_to < page.to) {
        resume.unreadable_to = page.to;
        events.lost_why = "unavailable";
        for (const std::string& topic : event_topics_) {
            if (resume.covers(topic) && session.grant->allows(topic)) {
                add(topic, page.to);
            }
        }
    }
}

/// Before what a page holds is sent: what it does not hold any more.
void Hub::heed_floors(Session& session, Resume& resume, const History::Page& page, Now now) {
    const bool pending = resume.phase == Resume::Phase::kPending;
    if (!pending && page.floors.empty() && page.unreadable == 0) {
        return;
    }
    Events events{
        .from = resume.pos, .to = std::max(bookmark_, newest_), .state_was_answered = true};
    tell_lost(session, resume, page, events);
    if (!pending && events.lost.empty()) {
        return;
    }
    if (events.lost.size() < kNamesMax) {
        events.lost.erase("*");  // All are named; an answer to "*" is followed by all state.
    }
    std::set<std::string> topics;
    for (const std::string& topic : resume.topics) {
        if (pending && has_events(topic)) {
            topics.insert(topic);
        }
    }
    for (const auto& [topic, to] : events.lost) {
        topics.insert(topic);
    }
    ++(events.lost.empty() ? counters_.resumes.resumed : counters_.resumes.too_old);
    resume.phase = Resume::Phase::kCatching;
    answer_subscribe(session, {}, {topics.begin(), topics.end()}, "", now, {}, &events);
}

// --- What is sent -------------------------------------------------------------------------------

Hub::Progress Hub::catch_up(Session& session, Resume& resume, std::size_t& turn, Now now) {
    while (!session.closing()) {
        const bool in_ring = resume.pos >= history_.ring_start();
        const History::Page* page = in_ring ? nullptr : history_.page_after(resume.pos);
        if (!in_ring && !page) {
            return session.data_bytes() < replay_bytes() / 2 ? Progress::kPage : Progress::kRoom;
        }
        if (page) {
            heed_floors(session, resume, *page, now);
        }
        // What the log has beyond the bookmark may come from the feed as well.
        const std::uint64_t limit = page ? std::min(page->to, bookmark_) : sequence::kSeqMax;
        const auto send = [&](auto from, const auto& end, const auto& entry_at) {
            for (; from != end; ++from) {
                const History::Entry& entry = entry_at(*from);
                if (entry.pos > limit) {
                    break;
                }
                if (turn == 0 && entry.pos != resume.pos) {  // A note goes with its event.
                    return Progress::kTurn;
                }
                if (!replay(session, resume, entry, now)) {
                    return Progress::kRoom;
                }
                resume.pos = entry.pos;
                turn -= turn > 0 ? 1u : 0u;
            }
            return Progress::kDone;
        };
        Progress sent = Progress::kDone;
        if (page) {
            sent = send(std::upper_bound(page->entries.begin(), page->entries.end(), resume.pos,
                                         [](std::uint64_t pos, const History::Entry& entry) {
                                             return pos < entry.pos;
                                         }),
                        page->entries.end(), std::identity());
        } else {
            sent = send(history_.ring_after(resume.pos), history_.ring().end(),
                        [](const auto& each) -> const History::Entry& { return each.second; });
        }
        if (in_ring || sent != Progress::kDone) {
            return sent;
        }
        resume.pos = std::max(resume.pos, limit);
        if (limit < page->to && resume.pos < history_.ring_start()) {
            return Progress::kWaits;  // For the bookmark.
        }
    }
    return Progress::kDone;
}

/// False: it has to take something of what waits for it first.
bool Hub::replay(Session& session, Resume& resume, const History::Entry& entry, Now now) {
    if (!wants(session, resume, *entry.stream) || !resume.lacks(*entry.stream, entry.pos)) {
        return true;
    }
    if (entry.pos != resume.pos && session.data_waiting() &&
        session.data_bytes() + entry.frame->size() > replay_bytes()) {
        return false;
    }
    if (std::exchange(entry.as_live, false)) {
        entry.frame = make(mark_replay(payload_of(*entry.frame)),
                           entry.frame->data());  // For all who come back.
    }
    push(session, {entry.frame, entry.stream, entry.seq, 0}, now);
    return true;
}

bool Hub::wants(const Session& session, Resume& resume, const Stream& stream) const {
    const auto known = resume.wanted.find(&stream);
    if (known != resume.wanted.end()) {
        return known->second;
    }
    const bool wanted = resume.covers(stream.topic) && session.grant->allows(stream.topic);
    resume.wanted.emplace(&stream, wanted);
    return wanted;
}

/// Whether something live is not for a session that is to be answered, or is catching up.
bool Hub::withheld(const Session& session, std::string_view topic, const Stream* stream,
                   std::uint64_t event_pos) const {
    for (const auto& resume : session.resumes) {
        const bool asked = resume->phase == Resume::Phase::kAsked;
        const bool state = event_pos == 0;
        if ((!asked && state && !event_topics_.contains(topic)) || !resume->covers(topic)) {
            continue;
        }
        if (!asked && state) {  // It would pass events of its own stream.
            resume->owed.emplace(topic);
            return true;
        }
        return asked || event_pos > resume->pos || !resume->lacks(*stream, event_pos);
    }
    return false;
}

/// It has caught up: now the state of topics that have events, too, where any came meanwhile.
void Hub::send_owed(Session& session, const Resume& resume, Now now) {
    std::vector<std::string> topics;
    for (const std::string& topic : resume.owed) {
        if (resume.covers(topic) && session.grant->allows(topic)) {
            topics.push_back(topic);
        }
    }
    if (!topics.empty() && !session.closing()) {
        const Events events{.from = resume.from, .to = resume.pos};
        answer_subscribe(session, {}, topics, "", now, {}, &events);
    }
}

/// Up to where everything of its topics was queued; nullopt while it is about to be answered, and
/// once it is being closed: what came since then was dropped.
std::optional<std::uint64_t> Hub::told_pos(const Session& session) const {
    if (session.closing()) {
        return std::nullopt;
    }
    std::uint64_t pos = bookmark_;
    for (const auto& resume : session.resumes) {
        if (resume->phase == Resume::Phase::kAsked) {
            return std::nullopt;
        }
        pos = std::min(pos, resume->pos);
    }
    return pos;
}

/// All who wait: what has become known is told, what is there is sent, what lacks is asked for.
void Hub::work(Now now) {
    work_at_.reset();
    std::size_t turn = kReplayTurn;
    std::vector<std::uint64_t> wanted;
    bool probe = false;
    const Session* next = nullptr;
    const std::size_t all = resuming_.size();
    for (std::size_t i = 0; i < all; ++i) {
        Session& session = *resuming_[(next_resuming_ + i) % all];
        if (session.awaits_room() && !session.closing()) {
            continue;
        }
        bool room = false;  // Whether it has any for something of what it waits for.
        for (auto it = session.resumes.begin(); it != session.resumes.end();) {
            Resume& resume = **it;
            const Progress progress =
                session.closing() ? Progress::kDone : advance(session, resume, turn, now);
            if (progress == Progress::kDone) {
                const std::unique_ptr<Resume> done = std::move(*it);
                it = session.resumes.erase(it);
                send_owed(session, *done, now);
                continue;
            }
            ++it;
            room = room || progress != Progress::kRoom;
            if (resume.phase == Resume::Phase::kAsked) {
                work_by(now.mono + kResumeCheck);
            }
            if (progress == Progress::kPage) {
                wanted.push_back(resume.pos);
            } else if (progress == Progress::kProbe) {
                probe = true;
            } else if (progress == Progress::kTurn) {
                work_by(now.mono);
                next = next ? next : &session;
            }
        }
        if (!room && !session.resumes.empty()) {
            session.await_room(replay_bytes() / 2, [this] {
                work_by(Mono{});
                if (options_.wake) {
                    options_.wake();
                }
            });
        }
    }
    std::erase_if(resuming_, [](const Session* session) { return session->resumes.empty(); });
    const auto turn_of = std::find(resuming_.begin(), resuming_.end(), next);
    next_resuming_ =
        turn_of == resuming_.end() ? 0 : static_cast<std::size_t>(turn_of - resuming_.begin());
    if (auto request = history_.aim(wanted, probe, now)) {
        requests_.emplace_back(std::move(*request));
    }
    if (history_.given_up() && cache_.uplink()) {
        give_up_history(now);
    }
    if (const auto when = history_.deadline(); when && !resuming_.empty()) {
        work_by(*when);
    }
}

/// The broker lives, and does not tell: those who wait are told so, and go on from here.
void Hub::give_up_history(Now now) {
    log_warn("the broker does not answer what its log holds; clients are told that events are lost",
             {{"waiting", resuming_.size()}});
    history_.start_over();
    for (Session* session : resuming_) {
        for (const auto& resume : session->resumes) {
            const bool here = resume->pos >= history_.ring_start() ||
                              history_.page_after(resume->pos) ||
                              resume->phase == Resume::Phase::kAsked;
            if (here) {
                continue;
            }
            Events events{.from = resume->pos, .to = std::max(bookmark_, newest_)};
            std::vector<std::string> topics;
            for (const std::string& topic : resume->topics) {
                if (has_events(topic)) {
                    topics.push_back(topic);
                    events.lost[topic] = history_.ring_start();
                }
            }
            ++counters_.resumes.unavailable;
            answer_subscribe(*session, {}, topics, "unavailable", now, {}, &events);
            resume->phase = Resume::Phase::kCatching;
            resume->pos = history_.ring_start();
        }
    }
    work_by(now.mono);
}

// --- What the broker sent -----------------------------------------------------------------------

void Hub::step(protocol::History& answer, Now now) {
    if (!history_.on_answer(answer, now)) {
        return;
    }
    log_.id = answer.id;
    log_.epoch = answer.epoch;
    log_.pos = answer.pos;
    if (snapshot_seen_ && answer.epoch == cache_.epoch() && answer.to > answer.from) {
        History::Page page;
        page.from = answer.from;
        page.to = answer.to;
        page.floors = std::move(answer.floors);
        page.unreadable = answer.unreadable;
        if (history_.scan_end() != answer.from) {
            page_seq_.clear();
        }
        for (const Message& item : answer.items) {
            if (item.pos > answer.from && item.pos <= answer.to) {
                append_entries(item, page, now);
            }
        }
        std::stable_sort(
            page.entries.begin(), page.entries.end(),
            [](const History::Entry& a, const History::Entry& b) { return a.pos < b.pos; });
        history_.add_page(std::move(page));
    }
    work(now);
}

/// `made`: its frame, as it is sent live or marked; null where it is too large.
History::Entry Hub::entry_of(const Value& value, FramePtr made, bool as_live, Now now) {
    if (!made) {
        as_live = false;
        made = make(render_skipped(*value.stream, value.seq, value.seq, "too_large", now));
    }
    return {value.pos, value.seq, value.stream, std::move(made), as_live};
}

/// A row of the log, and before it a note of what the log does not have any more.
void Hub::append_entries(const Message& message, History::Page& page, Now now) {
    const Stream* stream = cache_.stream(message.origin, message.topic);
    if (!stream) {
        return;
    }
    const auto note = [&](std::uint64_t from, std::uint64_t to, std::string_view why) {
        page.entries.push_back(
            {message.pos, to, stream, make(render_skipped(*stream, from, to, why, now))});
    };
    std::uint64_t& last = page_seq_[stream];
    if (last != 0 && message.seq > last + 1) {
        note(last + 1, message.seq - 1, "lost");
    }
    last = std::max(last, message.seq);
    if (message.kind == Kind::kGap) {
        const std::uint64_t to = std::holds_alternative<Gap>(message.detail) ? message.gap().to : 0;
        last = std::max(last, to);
        note(message.seq, std::max(message.seq, to), "lost");
    } else if (message.kind == Kind::kEvent) {
        event_streams_.insert(stream);
        event_topics_.insert(message.topic);
        if (const auto value = cache_.put(message); value && *value) {
            page.entries.push_back(entry_of(**value, make_value(**value, now, true), false, now));
        } else {
            ++counters_.not_encodable;
            note(message.seq, message.seq, "not_encodable");
        }
    }
}

/// A snapshot: of what was between, the ring has nothing.
void Hub::renew_history(const protocol::Snapshot& snapshot, bool same) {
    if (!same) {
        for (Session* session : resuming_) {
            std::erase_if(session->resumes, [](const auto& resume) {
                return resume->phase != Resume::Phase::kAsked;
            });
        }
        reached_.clear();
        event_streams_.clear();
        event_topics_.clear();
        newest_ = 0;
    }
    for (const StreamHead& head : snapshot.streams) {
        const Stream* stream = cache_.stream(head.origin, head.topic);
        if (stream && head.events) {
            event_streams_.insert(stream);
            event_topics_.insert(head.topic);
        }
    }
    newest_ = std::max(newest_, snapshot.pos);
    page_seq_.clear();
    history_.reset(snapshot.epoch, newest_);
}

/// The edge itself has missed something: nobody's events are skipped. `delivered`: what was pushed
/// to everyone beyond the bookmark of before.
void Hub::resume_repaired(Session& session, std::uint64_t before,
                          const std::shared_ptr<const Seen>& delivered) {
    auto made = std::make_unique<Resume>();
    bool star = false;  // What is named beside a "*" that catches up is for nobody else to repair.
    for (const auto& resume : session.resumes) {
        star = star || contains(resume->topics, "*");
        if (resume->phase != Resume::Phase::kAsked && resume->pos > before) {
            auto seen = std::make_shared<Seen>(*resume->seen);
            for (const auto& [name, pos] : *delivered) {
                std::uint64_t& known = (*seen)[name];
                known = std::max(known, std::min(pos, resume->pos));
            }
            resume->seen = std::move(seen);
            resume->pos = before;
        }
    }
    for (const std::string& topic : session.subscriptions()) {
        const bool covered = std::any_of(session.resumes.begin(), session.resumes.end(),
                                         [&](const auto& resume) { return resume->covers(topic); });
        if (covered) {
            made->except.push_back(topic);
        } else if (topic == "*" ||
                   ((!session.everything || star) && event_topics_.contains(topic))) {
            made->topics.push_back(topic);
        }
    }
    if (made->topics.empty()) {
        return;
    }
    made->phase = Resume::Phase::kCatching;
    made->epoch = cache_.epoch();
    made->from = made->pos = before;
    made->seen = delivered;
    session.resumes.push_back(std::move(made));
    if (std::find(resuming_.begin(), resuming_.end(), &session) == resuming_.end()) {
        resuming_.push_back(&session);
    }
}

}  // namespace sigmacast::edge
