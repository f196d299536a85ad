#include "edge/upstream.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace sigmacast::edge {

Upstream::Upstream(Random random, std::vector<std::string> topics)
    : random_(std::move(random)), topics_(topics.begin(), topics.end()) {}

bool Upstream::wanted(const std::string& topic) const {
    return topics_.empty() || topics_.count(topic) > 0;
}

Upstream::Output Upstream::start(Now now) {
    Output out;
    join(out, now);
    return out;
}

void Upstream::join(Output& out, Now now) {
    if (joining_) {
        return;
    }
    joining_since_ = waits_since(now.mono);
    joining_ = true;
    fall_back_ = false;
    buffer_.clear();
    newest_head_.reset();
    waiting_.clear();
    request_tries_ = 0;
    join_first_id_ = request_id_ + 1;
    request_snapshot(out, now);
}

/// For what is missing, by the stream that has waited longest: a snapshot that takes over from a
/// repair in vain has no more time than that. `now` where nothing is.
Mono Upstream::waits_since(Mono now) const {
    for (const auto& [name, hole] : incomplete_) {
        now = std::min(now, hole.since);
    }
    return joining_ ? std::min(now, joining_since_) : now;
}

void Upstream::request_snapshot(Output& out, Now now) {
    const int doublings = std::min(request_tries_++, 10);
    const Millis wait = std::min(kRequestRetryMin * (1 << doublings), kRequestRetryMax);
    request_again_ = now.mono + wait + random_.upto(wait / 2);
    out.requests.emplace_back(protocol::SnapshotRequest{++request_id_, epoch_, sent_pos()});
}

std::uint64_t Upstream::sent_pos() const {
    return std::max(feed_pos_, snapshot_pos_);
}

/// The feed's positions never fall. What was under way when the snapshot was made may be below the
/// snapshot's for a while, but not for long.
bool Upstream::goes_back(const Message& message, Now now) const {
    if (message.pos == 0 || message.epoch != epoch_) {
        return false;
    }
    const bool late = elapsed(snapshot_at_, now.mono) >= kUplinkSilence;
    return message.pos < feed_pos_ || (late && message.pos < snapshot_pos_);
}

Upstream::Output Upstream::on_message(Message message, Now now, std::optional<Mono> sent) {
    Output out;
    if (message.kind == Kind::kHead) {
        const Mono left = sent.value_or(now.mono);
        last_head_ = std::max(last_head_.value_or(left), left);
    }
    if (!joining_ && goes_back(message, now)) {
        join(out, now);
    }
    if (joining_) {
        if (message.kind == Kind::kHead) {
            newest_head_ = std::move(message);
        } else if (message.kind == Kind::kReport) {
            // The snapshot has them, and the next head repeats the newest.
        } else if (buffer_.size() < kBufferMax) {
            buffer_.push_back(std::move(message));
        } else {
            ++counters_.overflow;
        }
        return out;
    }
    take(std::move(message), out, now);
    finish(out, now);
    return out;
}

void Upstream::take(Message message, Output& out, Now now) {
    if (!message.epoch.empty() && message.epoch != epoch_) {
        join(out, now);
        if (message.kind == Kind::kHead) {
            newest_head_ = std::move(message);
        } else if (message.kind != Kind::kReport) {  // Which vouches for values of that log.
            buffer_.push_back(std::move(message));
        }
        return;
    }
    if (message.epoch == epoch_) {
        feed_pos_ = std::max(feed_pos_, message.pos);
    }
    if (message.kind == Kind::kHead) {
        take_head(message, out, now);
        return;
    }
    if (message.kind == Kind::kReport) {
        if (!std::holds_alternative<Report>(message.detail)) {
            return;
        }
        PollUpdate update;
        update.complete_age = message.age.quality != Quality::kInitial;
        update.state.origin = message.origin;
        update.state.report_seq = message.seq;
        update.state.age = message.age;
        update.state.report = std::get<Report>(std::move(message.detail));
        heed_marks(update.state, message.epoch, out, now);
        take_poll(std::move(update), out, now);
        return;
    }
    if (!wanted(message.topic)) {
        return;
    }
    if (message.seq == 0) {
        take_flowing(std::move(message), out, now);
        return;
    }
    const Name name{message.origin, message.topic};
    if (Receiver* of = receiver(name)) {
        const std::uint64_t seq = message.seq;
        act(name, of->on_item(seq, std::move(message), now.mono, random_), out, now);
    }
}

/// What is not logged goes out behind what is logged before it, each once and none left out: else
/// it could replace what is newer, or a report would vouch for the value before it.
void Upstream::take_flowing(Message message, Output& out, Now now) {
    const Name name{message.origin, message.topic};
    heed(name, message.after, {}, out, now);
    const auto of = receivers_.find(name);
    if (of == receivers_.end() || joining_ || of->second.delivered() > message.after) {
        return;
    }
    if (of->second.delivered() < message.after) {
        if (waiting_.size() < kBufferMax) {
            held_polls_.erase({message.origin, message.poll});  // It was made before this.
            waiting_.push_back(std::move(message));
        } else {
            ++counters_.overflow;
        }
        return;
    }
    const std::uint64_t nth = message.flow.nth;
    Flowing& known = flowing(name, message.after, message.flow.run);
    if (nth <= known.taken) {
        return;
    }
    if (nth > known.taken + 1) {
        join(out, now);
        return;
    }
    known.taken = nth;
    known.newest = std::max(known.newest, nth);
    out.steps.emplace_back(std::move(message));
}

/// Of another run of the broker, or behind another position, it is counted anew.
Upstream::Flowing& Upstream::flowing(const Name& name, std::uint64_t after, std::uint64_t run) {
    Flowing& known = flowing_[name];
    if (known.after != after || known.run != run) {
        known = {after, run, 0, 0};
    }
    return known;
}

/// Something that is not logged was lost on the way.
bool Upstream::lacks(const Name& name) const {
    const auto known = flowing_.find(name);
    const auto of = receivers_.find(name);
    return known != flowing_.end() && of != receivers_.end() &&
           known->second.taken < known->second.newest &&
           of->second.delivered() == known->second.after;
}

/// It may be of state: nothing says that it is of events alone.
bool Upstream::has_state(const Name& name) const {
    return values_.contains(name) || !events_.contains(name);
}

/// The stream has come so far.
void Upstream::heed(const Name& name, std::uint64_t seq, const Flow& flow, Output& out, Now now) {
    Receiver* of = wanted(name.second) ? receiver(name) : nullptr;
    if (!of) {
        return;
    }
    act(name, of->on_head(seq, now.mono, random_), out, now);
    if (flow.nth > 0) {
        Flowing& known = flowing(name, seq, flow.run);
        known.newest = std::max(known.newest, flow.nth);
    }
}

/// A report says up to where its values go: one that is missing makes its stream incomplete, and
/// the report waits, instead of vouching for the value before.
void Upstream::heed_marks(const PollState& state, const std::string& epoch, Output& out, Now now) {
    if (epoch != epoch_) {
        return;
    }
    for (const Mark& mark : state.report.after) {
        heed({state.origin, mark.topic}, mark.seq, mark.flow, out, now);
    }
}

Upstream::Receiver* Upstream::receiver(const Name& name) {
    const auto known = receivers_.find(name);
    if (known != receivers_.end()) {
        return &known->second;
    }
    if (receivers_.size() >= kStreamsMax) {
        ++counters_.overflow;
        return nullptr;
    }
    return &receivers_.emplace(name, Receiver{}).first->second;
}

void Upstream::take_head(const Message& message, Output& out, Now now) {
    if (!std::holds_alternative<Head>(message.detail)) {
        return;
    }
    const Head& head = message.head();
    for (const StreamHead& stream : head.streams) {
        heed({stream.origin, stream.topic}, stream.seq, stream.flow, out, now);
    }
    const auto first = std::ranges::find_if(head.polls, [&](const PollState& state) {
        return wanted(state.report.topic) && !is_state_poll(state.report.poll);
    });
    if (first != head.polls.end()) {
        out.steps.emplace_back(FirstOrigin{first->origin});
    }
    for (const PollState& state : head.polls) {
        take_poll({.state = state, .complete_age = true}, out, now);
    }
    head_pos_ = std::max(head_pos_, head.pos);
}

void Upstream::take_poll(PollUpdate update, Output& out, Now now) {
    if (joining_ || !wanted(update.state.report.topic)) {
        return;
    }
    const Name poll{update.state.origin, update.state.report.poll};
    const Name stream{update.state.origin, update.state.report.topic};
    if (incomplete_.count(stream) > 0) {
        const std::uint64_t known = receivers_.at(stream).known();
        held_polls_.insert_or_assign(poll, HeldPoll{std::move(update), known});
        return;
    }
    if (lacks(stream)) {
        join(out, now);
        return;
    }
    held_polls_.erase(poll);
    out.steps.emplace_back(std::move(update));
}

/// A stale poll that waited must not follow the live value, or the transition, that came after it.
/// The report behind that, or the next head, says how the poll is now.
void Upstream::outdate_held_poll(const Message& state) {
    const auto held = held_polls_.find({state.origin, state.poll});
    if (held != held_polls_.end() && state.seq > held->second.known) {
        held_polls_.erase(held);
    }
}

void Upstream::act(const Name& name, Receiver::Actions actions, Output& out, Now now) {
    std::uint64_t declared = 0;
    for (auto& item : actions.deliver) {
        if (item.value.kind == Kind::kGap) {
            const std::uint64_t to =
                std::holds_alternative<Gap>(item.value.detail) ? item.value.gap().to : item.seq;
            out.steps.emplace_back(Lost{name.first, name.second, {item.seq, to}, item.value.pos});
            declared = std::max(declared, to);
            continue;
        }
        outdate_held_poll(item.value);
        if (item.value.kind == Kind::kEvent) {
            events_.insert(name);
        } else if (item.value.kind == Kind::kValue) {
            values_.insert(name);
        }
        out.steps.emplace_back(std::move(item.value));
    }
    for (const sequence::Range& range : actions.lost) {
        counters_.lost += range.to - range.from + 1;
        out.steps.emplace_back(Lost{name.first, name.second, range});
    }
    if (actions.ask) {
        ++counters_.gaps;
        out.requests.emplace_back(
            protocol::Ask{++request_id_, name.first, name.second, *actions.ask});
    }
    fall_back_ = fall_back_ || actions.fall_back;
    const auto of = receivers_.find(name);
    if (of != receivers_.end() && declared > of->second.delivered()) {
        act(name, of->second.skip(declared), out, now);  // Positions that will never come.
        return;
    }
    if (of == receivers_.end() || of->second.complete()) {
        if (incomplete_.erase(name) > 0) {
            release_waiting(name, out, now);
        }
    } else {
        const std::uint64_t after = of->second.delivered();
        Hole& hole = incomplete_.try_emplace(name, Hole{after, now.mono}).first->second;
        if (hole.after != after) {
            hole = {after, now.mono};
        }
    }
}

void Upstream::release_waiting(const Name& name, Output& out, Now now) {
    std::vector<Message> still;
    for (Message& message : std::exchange(waiting_, {})) {
        if (message.origin == name.first && message.topic == name.second) {
            take_flowing(std::move(message), out, now);
        } else {
            still.push_back(std::move(message));
        }
    }
    waiting_.insert(waiting_.end(), std::make_move_iterator(still.begin()),
                    std::make_move_iterator(still.end()));
    std::vector<PollUpdate> released;
    for (auto it = held_polls_.begin(); it != held_polls_.end();) {
        const PollState& state = it->second.update.state;
        if (state.origin == name.first && state.report.topic == name.second) {
            released.push_back(std::move(it->second.update));
            it = held_polls_.erase(it);
        } else {
            ++it;
        }
    }
    for (PollUpdate& update : released) {
        take_poll(std::move(update), out, now);
    }
}

Upstream::Output Upstream::on_reply(protocol::Any reply, Now now) {
    Output out;
    if (auto* snapshot = std::get_if<protocol::Snapshot>(&reply)) {
        if (joining_ && snapshot->id >= join_first_id_ && snapshot->id <= request_id_) {
            apply_snapshot(std::move(*snapshot), out, now);
        }
    } else if (auto* range = std::get_if<protocol::Range>(&reply)) {
        if (!joining_) {
            take_range(std::move(*range), out, now);
        }
    } else if (auto* history = std::get_if<protocol::History>(&reply)) {
        take_history(std::move(*history), out, now);
    }
    finish(out, now);
    return out;
}

void Upstream::apply_snapshot(protocol::Snapshot snapshot, Output& out, Now now) {
    ++counters_.snapshots;
    // A broker that does not heed what it is told still has another log than it had.
    const bool same = snapshot.epoch == epoch_ && snapshot.pos >= sent_pos();
    joining_ = false;
    request_again_.reset();
    request_tries_ = 0;
    last_head_ = now.mono;  // It answers: that is a sign of life as good as a head.
    if (!same) {
        receivers_.clear();
        events_.clear();
        values_.clear();
        head_pos_ = 0;
        feed_pos_ = 0;
        bookmark_ = 0;
    }
    incomplete_.clear();
    held_polls_.clear();
    flowing_.clear();
    waiting_.clear();
    epoch_ = snapshot.epoch;
    head_pos_ = std::max(head_pos_, snapshot.pos);
    std::erase_if(snapshot.values, [&](const Message& value) { return !wanted(value.topic); });
    std::erase_if(snapshot.polls,
                  [&](const PollState& state) { return !wanted(state.report.topic); });
    std::erase_if(snapshot.streams,
                  [&](const StreamHead& stream) { return !wanted(stream.topic); });
    const std::vector<StreamHead> streams = snapshot.streams;
    for (const StreamHead& stream : streams) {
        if (stream.events) {
            events_.emplace(stream.origin, stream.topic);
        }
    }
    for (const Message& value : snapshot.values) {
        values_.emplace(value.origin, value.topic);
    }
    counters_.unreadable += snapshot.unreadable;
    snapshot_pos_ = snapshot.pos;
    snapshot_at_ = now.mono;
    out.steps.emplace_back(std::move(snapshot));
    for (const StreamHead& stream : streams) {
        const Name name{stream.origin, stream.topic};
        Receiver* of = wanted(stream.topic) ? receiver(name) : nullptr;
        if (of) {
            flowing_[name] = {stream.seq, stream.flow.run, stream.flow.nth, stream.flow.nth};
            act(name, of->skip(stream.seq), out, now);
        }
    }
    joined_once_ = true;
    std::vector<Message> buffered = std::move(buffer_);
    buffer_.clear();
    for (Message& message : buffered) {
        if (joining_) {
            return;  // The feed had moved on to another epoch already.
        }
        if (message.epoch.empty() || message.epoch == epoch_) {
            take(std::move(message), out, now);
        }
    }
    // A head from before the snapshot knows less than it.
    if (newest_head_ && newest_head_->epoch == epoch_ && newest_head_->pos >= snapshot_pos_) {
        take(*std::exchange(newest_head_, {}), out, now);
    }
    newest_head_.reset();
}

void Upstream::take_range(protocol::Range range, Output& out, Now now) {
    if (range.epoch != epoch_) {
        join(out, now);
        return;
    }
    const Name name{range.origin, range.topic};
    const auto of = receivers_.find(name);
    if (of == receivers_.end()) {
        return;
    }
    counters_.unreadable += range.unreadable;
    if (range.range.to <= of->second.delivered()) {  // The Hub has asked for it, or it comes late.
        out.steps.emplace_back(std::move(range));
        return;
    }
    sequence::RangeReply<Message> reply;
    reply.range = range.range;
    reply.superseded = std::move(range.superseded);
    for (Message& item : range.items) {
        const std::uint64_t seq = item.seq;
        reply.items.push_back({seq, std::move(item)});
    }
    Receiver::Actions actions = of->second.on_range(std::move(reply), now.mono, random_);
    const bool lost =
        !actions.lost.empty() || std::ranges::any_of(actions.deliver, [](const auto& item) {
            return item.value.kind == Kind::kGap;
        });
    if (lost && has_state(name)) {
        join(out, now);  // Newest values may be among it: nothing vouches for those before.
    }
    act(name, std::move(actions), out, now);
}

/// For the Hub, which has asked for it.
void Upstream::take_history(protocol::History history, Output& out, Now now) {
    if (history.epoch != epoch_ && joined_once_) {
        join(out, now);
    }
    counters_.unreadable += history.unreadable;
    std::erase_if(history.items, [&](const Message& item) { return !wanted(item.topic); });
    std::erase_if(history.floors, [&](const StreamFloor& floor) { return !wanted(floor.topic); });
    out.steps.emplace_back(std::move(history));
}

Upstream::Output Upstream::on_timer(Now now) {
    Output out;
    if (joining_ && request_again_ && *request_again_ <= now.mono) {
        request_snapshot(out, now);
    }
    if (!joining_) {
        const std::map<Name, Hole> waiting = incomplete_;
        for (const auto& [name, hole] : waiting) {
            Receiver& of = receivers_.at(name);
            if (!of.deadline() || *of.deadline() <= now.mono) {
                act(name, of.on_timer(now.mono, random_), out, now);
            }
        }
    }
    finish(out, now);
    return out;
}

void Upstream::finish(Output& out, Now now) {
    if (fall_back_) {
        join(out, now);
    }
    // Heads alone do not say that values are right: without a snapshot nothing is applied.
    const bool stuck = elapsed(waits_since(now.mono), now.mono) >= kUplinkSilence;
    const bool heard = !stuck && last_head_ && elapsed(*last_head_, now.mono) < kUplinkSilence;
    const bool whole = !joining_ && incomplete_.empty();
    if (uplink_ && !heard) {
        uplink_ = false;
        out.steps.emplace_back(UplinkChange{false});
    } else if (!uplink_ && heard && whole) {
        uplink_ = true;
        out.steps.emplace_back(UplinkChange{true});
    }
    if (whole && head_pos_ > bookmark_) {
        bookmark_ = head_pos_;
        out.steps.emplace_back(Bookmark{bookmark_});
    }
}

std::optional<Mono> Upstream::deadline() const {
    std::optional<Mono> next;
    const auto sooner = [&](std::optional<Mono> when) {
        if (when && (!next || *when < *next)) {
            next = when;
        }
    };
    if (joining_) {
        sooner(request_again_);
    } else {
        for (const auto& [name, hole] : incomplete_) {
            sooner(receivers_.at(name).deadline());
        }
    }
    if (uplink_ && (joining_ || !incomplete_.empty())) {
        sooner(waits_since(Mono::max()) + kUplinkSilence);
    }
    if (uplink_ && last_head_) {
        sooner(*last_head_ + kUplinkSilence);
    }
    return next;
}

}  // namespace sigmacast::edge
