#include "common/origin.h"

#include <algorithm>
#include <utility>
#include <variant>

#include "common/log.h"

namespace sigmacast {
namespace {

constexpr std::size_t kMessageOverheadBytes = 300;  // A Message and its place in the ring, roughly.

std::size_t weight(const Message& message) {
    return kMessageOverheadBytes + message.topic.size() + message.key.size() +
           (message.data ? message.data->size() : 0);
}

}  // namespace

Origin::Origin(OriginOptions options, Io& io)
    : options_(std::move(options)), io_(io), sender_(options_.limits) {}

void Origin::start(Now now) {
    next_beat_ = now.mono + options_.every;
    hello();
    send_head(now);
}

std::optional<std::uint64_t> Origin::push(Message message, Now now) {
    if (state_ == State::kConflict) {
        return std::nullopt;
    }
    message.at = now.wall;
    message.seq = sender_.next(message.topic);
    stamp(message);
    const bool event = message.kind == Kind::kEvent;
    const auto seq =
        sender_.push(message.topic, message.key, event, message, weight(message), now.mono);
    if (!seq) {
        return std::nullopt;
    }
    if (message.final && !event) {
        sender_.end(message.topic, message.key);
    }
    io_.publish(std::move(message));
    return seq;
}

std::uint64_t Origin::lose(const std::string& topic) {
    return sender_.lose(topic);
}

std::optional<std::vector<protocol::LiveKey>> Origin::on_protocol(const protocol::Any& message,
                                                                  Now now) {
    if (state_ == State::kConflict) {
        return std::nullopt;
    }
    if (const auto* welcome = std::get_if<protocol::Welcome>(&message)) {
        if (welcome->epoch != options_.epoch) {
            return std::nullopt;  // The answer to a hello from before the epoch was raised.
        }
        const bool joins = state_ == State::kJoining;
        if (joins) {
            log_info("welcomed by the broker",
                     {{"origin", options_.name}, {"epoch", options_.epoch}});
        }
        state_ = State::kJoined;
        first_hello_ = false;
        on_durable(welcome->streams, now);
        for (const auto& [topic, seq] : sender_.heads()) {
            if (std::ranges::none_of(welcome->streams,
                                     [&](const Mark& mark) { return mark.topic == topic; })) {
                sender_.forget_ends(topic);
            }
        }
        if (joins) {
            // What was published before the broker knew us was dropped there: it may ask now, not
            // at the next beat.
            send_head(now);
        }
        return welcome->keys;
    }
    if (const auto* durable = std::get_if<protocol::Durable>(&message)) {
        if (durable->epoch == options_.epoch) {
            on_durable(durable->streams, now);
        }
    } else if (const auto* conflict = std::get_if<protocol::Conflict>(&message)) {
        on_conflict(*conflict, now);
    } else if (const auto* ask = std::get_if<protocol::Ask>(&message)) {
        answer(*ask);
    } else if (std::holds_alternative<protocol::Unknown>(message) && state_ == State::kJoined) {
        // Only the first Unknown asks for a hello: the next beat repeats it.
        state_ = State::kJoining;
        hello();
    }
    return std::nullopt;
}

void Origin::on_timer(Now now) {
    if (now.mono < next_beat_) {
        return;
    }
    // After a suspended machine wakes up one beat is enough.
    next_beat_ = std::max(next_beat_ + options_.every, now.mono);
    if (state_ == State::kConflict) {
        return;
    }
    if (state_ == State::kJoined) {
        io_.send(protocol::Sync{options_.name, options_.instance, options_.epoch});
    } else {
        hello();
    }
    send_head(now);
}

void Origin::send_head(Now now) {
    if (state_ == State::kConflict) {
        return;
    }
    Head head;
    for (auto& [topic, seq] : sender_.heads()) {
        head.streams.push_back({options_.name, topic, seq});
    }
    Message message;
    message.kind = Kind::kHead;
    message.topic = "head";
    message.detail = std::move(head);
    message.at = now.wall;
    message.age.as_of = AsOf{now.wall, now.mono};
    stamp(message);
    io_.publish(std::move(message));
}

std::uint64_t Origin::durable(const std::string& topic) const {
    const auto it = durable_.find(topic);
    return it == durable_.end() ? 0 : it->second;
}

void Origin::hello() {
    io_.send(protocol::Hello{options_.name, options_.instance, options_.epoch, first_hello_,
                             options_.polls});
}

void Origin::on_conflict(const protocol::Conflict& conflict, Now now) {
    if (conflict.floor < options_.epoch) {
        return;  // About a hello from before the epoch was raised.
    }
    if (first_hello_) {
        first_hello_ = false;
        const std::uint64_t epoch = conflict.floor + 1;
        const Result<> saved = io_.save_epoch(epoch);
        if (saved) {
            log_info("epoch raised above the broker's",
                     {{"origin", options_.name}, {"epoch", epoch}});
            options_.epoch = epoch;
            hello();
            send_head(now);
            return;
        }
        log_error("the raised epoch could not be saved; nothing more is published",
                  {{"origin", options_.name}, {"error", saved.error().message}});
    } else {
        log_error(
            "another producer uses this origin name; nothing more is published. Stop one of "
            "them, or give one another name, and restart it",
            {{"origin", options_.name}, {"epoch", options_.epoch}, {"floor", conflict.floor}});
    }
    state_ = State::kConflict;
}

void Origin::on_durable(const std::vector<Mark>& marks, Now now) {
    for (const Mark& mark : marks) {
        sender_.durable(mark.topic, mark.seq, now.mono);
        std::uint64_t& known = durable_[mark.topic];
        // A topic that is not ours costs nothing: the broker echoes our own streams only, but is
        // not trusted to.
        const std::uint64_t newest = sender_.next(mark.topic) - 1;
        known = std::max(known, std::min(mark.seq, newest));
        if (newest == 0) {
            durable_.erase(mark.topic);
        }
    }
}

void Origin::answer(const protocol::Ask& ask) {
    ++asks_answered_;
    sequence::RangeReply<Message> reply = sender_.answer(ask.topic, ask.range);
    protocol::Range range;
    range.id = ask.id;
    range.origin = options_.name;
    range.topic = ask.topic;
    range.epoch = std::to_string(options_.epoch);
    range.range = reply.range;
    range.superseded = std::move(reply.superseded);
    range.newest = reply.newest;
    for (sequence::Item<Message>& item : reply.items) {
        stamp(item.value);
        range.items.push_back(std::move(item.value));
    }
    io_.send(std::move(range));
}

void Origin::stamp(Message& message) const {
    message.origin = options_.name;
    message.epoch = std::to_string(options_.epoch);
}

}  // namespace sigmacast
