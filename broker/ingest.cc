#include "broker/ingest.h"

#include <algorithm>
#include <utility>

#include "common/log.h"

namespace sigmacast::broker {
namespace {

using storage::StreamKind;

StreamKind kind_of(const Message& message) {
    switch (message.kind) {
        case Kind::kValue:
            return StreamKind::kState;
        case Kind::kEvent:
            return StreamKind::kEvent;
        case Kind::kReport:
            return StreamKind::kReport;
        case Kind::kTransition:
        case Kind::kHead:
        case Kind::kGap:
            break;
    }
    return StreamKind::kUnknown;
}

}  // namespace

void Ingest::restore(const std::vector<storage::OriginRecord>& origins,
                     const std::vector<storage::StreamRecord>& streams) {
    for (const storage::OriginRecord& record : origins) {
        order_.push_back(record.name);
        Origin& origin = origins_[record.name];
        origin.name = record.name;
        origin.epoch = record.epoch;
        origin.instance = record.instance;
    }
    for (const storage::StreamRecord& record : streams) {
        Origin* origin = find(record.origin);
        if (origin == nullptr) {
            continue;
        }
        // A row of an earlier epoch has no position in this one.
        const std::uint64_t durable = record.epoch == origin->epoch ? record.pseq : 0;
        Stream& stream = origin->streams[record.topic];
        stream.topic = record.topic;
        stream.note(record.kind);
        stream.receiver = Receiver(durable + 1);
        stream.durable = durable;
        ++streams_;
    }
}

// ---- Who owns an origin ----

std::optional<Ingest::Greeting> Ingest::on_hello(const std::string& peer,
                                                 const protocol::Hello& hello, Now now) {
    Origin* origin = find(hello.origin);
    if (origin == nullptr && origins_.size() >= kOriginsMax) {
        log_warn("an origin was refused: there are too many",
                 {{"origin", hello.origin}, {"limit", kOriginsMax}});
        return std::nullopt;
    }
    Greeting greeting;
    if (origin == nullptr) {
        order_.push_back(hello.origin);
        origin = &origins_[hello.origin];
        origin->name = hello.origin;
        greeting.changed = true;
    } else if (hello.epoch == origin->epoch && hello.instance == origin->instance) {
        on_heard(*origin, peer);
        greeting.answer = protocol::Welcome{origin->epoch, durable_marks(*origin), {}};
        return greeting;
    } else if (hello.epoch <= origin->epoch) {
        ++counts_.conflicts;
        greeting.answer = protocol::Conflict{origin->epoch};
        return greeting;
    }
    log_info("a producer owns its origin", {{"origin", hello.origin}, {"epoch", hello.epoch}});
    greeting.changed = true;
    take_leave(*origin, now, greeting);
    origin->epoch = hello.epoch;
    origin->instance = hello.instance;
    origin->peer = peer;
    origin->held.clear();
    for (auto& [topic, stream] : origin->streams) {
        stream.receiver = Receiver(1);
        stream.events = false;
        stream.durable = 0;
        stream.replaced = 0;
        moved_.erase({origin->name, topic});
        waiting_.erase({origin->name, topic});
    }
    greeting.answer = protocol::Welcome{origin->epoch, {}, {}};
    return greeting;
}

/// Of the instance before: nobody can be asked for its events any more.
void Ingest::take_leave(Origin& origin, Now now, Greeting& greeting) {
    Actions left;
    for (auto& [topic, stream] : origin.streams) {
        if (stream.events && !stream.receiver.complete()) {
            apply(origin, stream, stream.receiver.give_up(), now, left);
        }
    }
    greeting.left = std::move(left.deliver);
}

protocol::Any Ingest::on_sync(const std::string& peer, const protocol::Sync& sync) {
    Origin* origin = find(sync.origin);
    if (origin == nullptr || sync.epoch > origin->epoch) {
        return protocol::Unknown{};
    }
    if (sync.epoch < origin->epoch || sync.instance != origin->instance) {
        ++counts_.conflicts;
        return protocol::Conflict{origin->epoch};
    }
    on_heard(*origin, peer);
    return protocol::Durable{origin->epoch, durable_marks(*origin)};
}

std::vector<Mark> Ingest::durable_marks(const Origin& origin) const {
    std::vector<Mark> marks;
    for (const auto& [topic, stream] : origin.streams) {
        if (stream.durable > 0) {
            marks.push_back({topic, stream.durable});
        }
    }
    return marks;
}

// ---- What arrives ----

bool Ingest::admits(Admit admit, const Stream& stream) {
    return admit == Admit::kAll || (admit == Admit::kNoEvents && stream.is_state());
}

Ingest::Actions Ingest::on_message(Message message, Admit admit, Now now) {
    Actions out;
    Origin* origin = find(message.origin);
    if (origin == nullptr || message.epoch != std::to_string(origin->epoch)) {
        ++counts_.dropped;
        return out;
    }
    if (message.kind == Kind::kHead) {
        on_head(*origin, message, admit, now, out);
        return out;
    }
    const StreamKind kind = kind_of(message);
    Stream* stream = kind == StreamKind::kUnknown ? nullptr : stream_of(*origin, message.topic);
    if (stream == nullptr) {
        ++counts_.dropped;
        return out;
    }
    stream->note(kind);
    if (!admits(admit, *stream)) {
        ++counts_.dropped;
        return out;
    }
    const std::uint64_t seq = message.seq;
    apply(*origin, *stream, stream->receiver.on_item(seq, std::move(message), now.mono, random_),
          now, out);
    heed_marks(*origin, admit, now, out);
    release_reports(*origin, out);
    return out;
}

void Ingest::on_head(Origin& origin, const Message& message, Admit admit, Now now, Actions& out) {
    Beat beat{origin.name, message.sent, message.age.as_of, {}};
    for (const StreamHead& newest : message.head().streams) {
        Stream* stream = stream_of(origin, newest.topic);
        if (stream == nullptr) {
            continue;
        }
        if (admits(admit, *stream)) {
            apply(origin, *stream, stream->receiver.on_head(newest.seq, now.mono, random_), now,
                  out);
        }
        if (stream->kind == StreamKind::kState && stream->is_whole(newest.seq)) {
            beat.topics.push_back(newest.topic);
        }
    }
    out.beat = std::move(beat);
    release_reports(origin, out);
}

Ingest::Actions Ingest::on_range(const std::string& peer, protocol::Range range, Admit admit,
                                 Now now) {
    Actions out;
    Origin* origin = find(range.origin);
    // Only the owner may say what its stream holds.
    if (origin == nullptr || origin->peer != peer || range.epoch != std::to_string(origin->epoch)) {
        ++counts_.dropped;
        return out;
    }
    const auto known = origin->streams.find(range.topic);
    if (known == origin->streams.end() || range.range.from == 0) {
        ++counts_.dropped;
        return out;
    }
    Stream& stream = known->second;
    sequence::RangeReply<Message> reply{range.range, {}, std::move(range.superseded)};
    for (Message& item : range.items) {
        const StreamKind kind = kind_of(item);
        if (item.topic != range.topic || item.origin != range.origin ||
            kind == StreamKind::kUnknown) {
            ++counts_.dropped;
            continue;
        }
        stream.note(kind);
        const std::uint64_t seq = item.seq;
        reply.items.push_back({seq, std::move(item)});
    }
    if (!admits(admit, stream)) {
        ++counts_.dropped;
        return out;
    }
    if (!reply.superseded.empty() && range.newest <= sequence::kSeqMax) {
        stream.replaced = std::max(stream.replaced, range.newest);
    }
    apply(*origin, stream, stream.receiver.on_range(std::move(reply), now.mono, random_), now, out);
    if (range.newest > 0) {
        apply(*origin, stream, stream.receiver.on_head(range.newest, now.mono, random_), now, out);
    }
    heed_marks(*origin, admit, now, out);
    release_reports(*origin, out);
    return out;
}

Ingest::Actions Ingest::on_timer(Admit admit, Now now) {
    Actions out;
    const std::set<StreamName> waiting = waiting_;
    for (const auto& [name, topic] : waiting) {
        Origin& origin = *find(name);
        Stream& stream = origin.streams.at(topic);
        if (!admits(admit, stream)) {
            // The next head brings it back here once it is admitted again.
            waiting_.erase({name, topic});
            continue;
        }
        if (std::exchange(stream.ask_now, false) && !stream.receiver.complete()) {
            ask(origin, stream, stream.receiver.missing(), out);
        }
        apply(origin, stream, stream.receiver.on_timer(now.mono, random_), now, out);
        release_reports(origin, out);
    }
    return out;
}

std::optional<Mono> Ingest::deadline() const {
    std::optional<Mono> first;
    for (const auto& [name, topic] : waiting_) {
        const Stream& stream = origins_.at(name).streams.at(topic);
        const auto when = stream.ask_now ? Mono{} : stream.receiver.deadline();
        if (when && (!first || *when < *first)) {
            first = when;
        }
    }
    return first;
}

void Ingest::apply(Origin& origin, Stream& stream, Receiver::Actions actions, Now now,
                   Actions& out) {
    const StreamName name{origin.name, stream.topic};
    auto lost = actions.lost.begin();
    for (auto& item : actions.deliver) {
        for (; lost != actions.lost.end() && lost->from < item.seq; ++lost) {
            note_lost(origin, stream, *lost, now, out);
        }
        deliver(origin, std::move(item.value), out);
    }
    for (; lost != actions.lost.end(); ++lost) {
        note_lost(origin, stream, *lost, now, out);
    }
    if (!actions.lost.empty() || !actions.deliver.empty()) {
        moved_.insert(name);
        stream.rounds = 0;
    }
    if (actions.ask && !origin.peer.empty()) {
        ask(origin, stream, *actions.ask, out);
    }
    if (actions.fall_back && gives_up(origin, stream)) {
        // Asking has not helped: the positions are given up, and what is behind them goes on.
        const sequence::Range hole{stream.receiver.delivered() + 1, stream.receiver.gap_end()};
        note_lost(origin, stream, hole, now, out);
        moved_.insert(name);
        Receiver::Actions behind = stream.receiver.skip(hole.to);
        for (auto& item : behind.deliver) {
            deliver(origin, std::move(item.value), out);
        }
    }
    if (stream.receiver.complete()) {
        waiting_.erase(name);
    } else {
        waiting_.insert(name);
    }
}

void Ingest::ask(const Origin& origin, const Stream& stream, sequence::Range range, Actions& out) {
    ++counts_.asks;
    out.send.push_back({origin.peer, protocol::Ask{next_ask_++, origin.name, stream.topic, range}});
}

/// Its owner can be asked. What it has not answered may have been lost where a network was cut: it
/// is asked at once, besides the tries: the next one may be due when the network is cut again.
void Ingest::on_heard(Origin& origin, const std::string& peer) {
    origin.peer = peer;
    ++origin.heard;
    for (const auto& [name, topic] : waiting_) {
        if (name == origin.name) {
            origin.streams.at(topic).ask_now = true;
        }
    }
}

/// A state value is never given up: a report that confirms it would vouch for the one before. A
/// report at once: the next one is as good. An event only where its producer is heard and does not
/// answer: one that is away, or behind a network that is cut, has it in its ring.
bool Ingest::gives_up(const Origin& origin, Stream& stream) {
    if (origin.peer.empty() || stream.kind == StreamKind::kState) {
        return false;
    }
    stream.rounds += origin.heard > stream.heard ? 1 : 0;
    stream.heard = origin.heard;
    return stream.kind == StreamKind::kReport || stream.rounds >= kGiveUpRounds;
}

void Ingest::deliver(Origin& origin, Message message, Actions& out) {
    if (message.kind != Kind::kReport) {
        out.deliver.push_back(std::move(message));
        return;
    }
    const std::string poll = message.report().poll;
    if (origin.held.contains(poll) || origin.held.size() < kHeldReportsMax) {
        origin.held[poll] = std::move(message);
    }
}

void Ingest::note_lost(const Origin& origin, const Stream& stream, sequence::Range lost, Now now,
                       Actions& out) {
    const std::uint64_t count = lost.to - lost.from + 1;
    counts_.lost += count;
    if (stream.is_state()) {
        return;
    }
    log_warn(
        "events are lost: their producer has them no more",
        {{"origin", origin.name}, {"topic", stream.topic}, {"from", lost.from}, {"to", lost.to}});
    Message gap;
    gap.kind = Kind::kGap;
    gap.topic = stream.topic;
    gap.origin = origin.name;
    gap.epoch = std::to_string(origin.epoch);
    gap.seq = lost.from;
    gap.at = now.wall;
    gap.detail = Gap{lost.to, std::to_string(count) + " events were lost before the broker"};
    out.deliver.push_back(std::move(gap));
}

// ---- Reports wait for the values that they confirm ----

bool Ingest::is_due(Origin& origin, const Report& report) {
    return std::all_of(report.after.begin(), report.after.end(), [&](const Mark& mark) {
        const auto stream = origin.streams.find(mark.topic);
        return stream != origin.streams.end() && stream->second.is_whole(mark.seq);
    });
}

/// A mark is news of a position, as a head is: what is missing is asked for at once.
void Ingest::heed_marks(Origin& origin, Admit admit, Now now, Actions& out) {
    std::vector<Mark> marks;
    for (const auto& [poll, message] : origin.held) {
        const auto& after = message.report().after;
        marks.insert(marks.end(), after.begin(), after.end());
    }
    for (const Mark& mark : marks) {
        Stream* stream = stream_of(origin, mark.topic);
        if (stream != nullptr && admits(admit, *stream) &&
            stream->receiver.delivered() < mark.seq) {
            apply(origin, *stream, stream->receiver.on_head(mark.seq, now.mono, random_), now, out);
        }
    }
}

void Ingest::release_reports(Origin& origin, Actions& out) {
    for (auto held = origin.held.begin(); held != origin.held.end();) {
        if (is_due(origin, held->second.report())) {
            out.deliver.push_back(std::move(held->second));
            held = origin.held.erase(held);
        } else {
            ++held;
        }
    }
}

bool Ingest::vouches_for_all(const std::string& origin, const std::string& topic,
                             std::uint64_t seq) const {
    const auto found = origins_.find(origin);
    if (found == origins_.end()) {
        return true;
    }
    const auto stream = found->second.streams.find(topic);
    return stream == found->second.streams.end() || seq >= stream->second.replaced;
}

// ---- What became durable ----

std::vector<storage::Position> Ingest::take_positions() {
    std::vector<storage::Position> positions;
    for (const auto& [name, topic] : moved_) {
        const Origin& origin = *find(name);
        const Stream& stream = origin.streams.at(topic);
        positions.push_back({name, topic, stream.kind, origin.epoch, stream.receiver.delivered()});
    }
    moved_.clear();
    return positions;
}

std::vector<Outgoing> Ingest::acknowledge(const std::vector<storage::Position>& positions) {
    std::map<std::string, protocol::Durable> durable;
    for (const storage::Position& position : positions) {
        Origin* origin = find(position.origin);
        if (origin == nullptr || origin->epoch != position.epoch) {
            continue;
        }
        Stream& stream = origin->streams.at(position.topic);
        stream.durable = std::max(stream.durable, position.pseq);
        durable[position.origin].epoch = position.epoch;
        durable[position.origin].streams.push_back({position.topic, stream.durable});
    }
    std::vector<Outgoing> outgoing;
    for (auto& [name, message] : durable) {
        if (const std::string& peer = find(name)->peer; !peer.empty()) {
            outgoing.push_back({peer, std::move(message)});
        }
    }
    return outgoing;
}

void Ingest::refused(const std::vector<storage::Position>& positions) {
    for (const storage::Position& position : positions) {
        const Origin* origin = find(position.origin);
        if (origin != nullptr && origin->epoch == position.epoch) {
            moved_.insert({position.origin, position.topic});
        }
    }
    for (auto& [name, origin] : origins_) {
        for (auto& [topic, stream] : origin.streams) {
            if (!stream.is_state() && stream.receiver.delivered() > stream.durable) {
                stream.receiver.go_back(stream.durable);
                moved_.erase({name, topic});
                waiting_.erase({name, topic});
            }
        }
    }
}

storage::OriginRecord Ingest::record(const std::string& name) const {
    const auto found = origins_.find(name);
    if (found == origins_.end()) {
        return {};
    }
    return {found->second.name, found->second.epoch, found->second.instance};
}

Ingest::Origin* Ingest::find(const std::string& name) {
    const auto found = origins_.find(name);
    return found == origins_.end() ? nullptr : &found->second;
}

Ingest::Stream* Ingest::stream_of(Origin& origin, const std::string& topic) {
    if (const auto found = origin.streams.find(topic); found != origin.streams.end()) {
        return &found->second;
    }
    if (!check_name("topic", topic)) {
        return nullptr;
    }
    if (streams_ >= kStreamsMax) {
        if (!std::exchange(full_logged_, true)) {
            log_error(
                "no more topics are taken: what is sent under other names does not become durable; "
                "use fewer topics, with keys",
                {{"topics", streams_}, {"origin", origin.name}, {"topic", topic}});
        }
        return nullptr;
    }
    ++streams_;
    Stream& made = origin.streams[topic];
    made.topic = topic;
    return &made;
}

}  // namespace sigmacast::broker
