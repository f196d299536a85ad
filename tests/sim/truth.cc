#include "tests/sim/truth.h"

#include <algorithm>
#include <boost/json.hpp>
#include <sstream>

#include "common/codec.h"

namespace sigmacast::sim {
namespace {

namespace json = boost::json;

std::string text_of(const json::value& value) {
    return value.is_string() ? std::string(value.get_string()) : json::serialize(value);
}

/// Of the same origin and topic and key, so that messages name it.
std::string name_of(const std::string& origin, const std::string& topic, const std::string& key) {
    return origin + "/" + topic + (key.empty() ? "" : "/" + key);
}

}  // namespace

bool is_event_topic(std::string_view topic) {
    return topic == "rpc_error" || topic == "note" || topic.starts_with("circuit_breaker.") ||
           topic.starts_with("task.");
}

std::string content_of(const json::object& data) {
    if (const json::value* jobs = data.if_contains("jobs"); jobs && jobs->is_array()) {
        std::string content = "jobs";
        for (const json::value& job : jobs->get_array()) {
            content += " " + content_of(job.as_object());
        }
        return content;
    }
    if (const json::value* pools = data.if_contains("pools"); pools && pools->is_array()) {
        return "size " + text_of(pools->get_array().at(0).at("size"));
    }
    std::string content;
    for (const char* member : {"job_id", "v", "n", "progress", "status", "tasks_scheduled", "name",
                               "state", "consecutive_failures"}) {
        if (const json::value* found = data.if_contains(member)) {
            content += (content.empty() ? "" : ":") + text_of(*found);
        }
    }
    return content;
}

std::string content_of(const Bytes& data) {
    std::string text;
    if (!data || !append_json(text, *data)) {
        return {};
    }
    return content_of(json::parse(text).as_object());
}

// ---- What happened ----

void Truth::answered(const std::string& origin, const std::string& poll,
                     const std::vector<Fact>& facts, std::uint64_t life) {
    const Now now = time_.now();
    for (const Fact& fact : facts) {
        said_[{{origin, fact.topic}, fact.key}].push_back(
            {fact.content, {now.wall, now.mono}, life});
    }
    if (!poll.empty()) {
        last_good_[{origin, poll}] = now.mono;
        answers_[{origin, poll}].insert(now.wall);
        good_since_.try_emplace({origin, poll}, now.mono);
    }
}

void Truth::published(const Message& message, std::uint64_t life) {
    const Now now = time_.now();
    if (message.final) {
        said_final_.insert({{message.origin, message.topic}, message.key});
    }
    if (message.kind == Kind::kHead) {
        heads_[message.origin].push_back({"", {now.wall, now.mono}, life, ++order_});
        last_good_[{message.origin, ""}] = now.mono;
    } else if (message.kind == Kind::kEvent) {
        events_[{message.origin, message.topic}].pushed.push_back(
            {message.data ? *message.data : "", message.at, std::stoull(message.epoch), message.seq,
             life});
    } else if (message.kind == Kind::kValue && message.poll.empty()) {
        told_[{{message.origin, message.topic}, message.key}].push_back(
            {content_of(message.data), {now.wall, now.mono}, life, ++order_});
    } else if (message.kind == Kind::kValue && message.final) {
        said_[{{message.origin, message.topic}, message.key}].push_back(
            {content_of(message.data), message.age.as_of.value_or(AsOf{now.wall, now.mono}), life});
    }
}

void Truth::committed(const storage::Batch& batch, const Result<storage::Committed>& result) {
    if (!result) {
        return;
    }
    if (!batch.epoch.empty()) {
        epoch_ = batch.epoch;
    }
    for (const Message& message : batch.rows) {
        if (message.pos != rows_.size() + 1) {
            throw Violation("P1", "the log goes from position " + std::to_string(rows_.size()) +
                                      " to " + std::to_string(message.pos));
        }
        const StreamName stream{message.origin, message.topic};
        if (message.seq != ++seqs_[stream]) {
            throw Violation("P1", "stream " + name_of(message.origin, message.topic, "") +
                                      " goes to " + std::to_string(message.seq));
        }
        Row row{message.kind, message.origin, message.topic, message.key,
                {},           message.seq,    message.pos,   message.final};
        if (message.kind == Kind::kValue || message.kind == Kind::kEvent) {
            row.content = content_of(message.data);
        }
        if (message.kind == Kind::kValue) {
            const KeyName key{stream, message.key};
            if (ended_.contains(key) && !message.key.empty() && message.topic != "breaker.status") {
                throw Violation("P1", "key " + name_of(message.origin, message.topic, message.key) +
                                          " has ended, and is written again at position " +
                                          std::to_string(message.pos));
            }
            if (message.final) {
                ended_.insert(key);
            }
            if (!ever(message.origin, message.topic, message.key, row.content)) {
                throw Violation("P5", "the log takes '" + row.content + "' for " +
                                          name_of(message.origin, message.topic, message.key) +
                                          ", which nobody has said");
            }
        }
        if (message.kind == Kind::kEvent) {
            log_event(message);
        }
        time_.note(row.pos);
        time_.note(row.content);
        SIM_SAY(time_, "log",
                "pos " << row.pos << " " << row.origin << "/" << row.topic << "/" << row.key
                       << " seq " << row.seq << " kind " << static_cast<int>(row.kind) << " '"
                       << row.content << "'" << (row.final ? " final " : " ")
                       << to_string(message.age.quality) << " " << message.age.reason);
        rows_.push_back(std::move(row));
    }
    for (const storage::Position& position : batch.positions) {
        check_position(position);
    }
}

void Truth::log_event(const Message& row) {
    Events& events = events_[{row.origin, row.topic}];
    const std::string& data = row.data ? *row.data : std::string();
    const std::uint64_t life = life_now(row.origin);
    for (std::size_t i = events.logged; i < events.pushed.size(); ++i) {
        const Pushed& pushed = events.pushed[i];
        if (pushed.data == data && pushed.at == row.at) {
            events.logged = i + 1;
            return;
        }
        if (pushed.life == life) {
            throw Violation("P2", "the log of " + name_of(row.origin, row.topic, "") +
                                      " passes over an event that its producer has: number " +
                                      std::to_string(pushed.seq));
        }
    }
    throw Violation("P1", "the log of " + name_of(row.origin, row.topic, "") +
                              " takes an event twice, or one that nobody sent, at position " +
                              std::to_string(row.pos));
}

void Truth::check_position(const storage::Position& position) {
    const StreamName stream{position.origin, position.topic};
    Position& known = positions_[stream];
    if (position.epoch < known.epoch ||
        (position.epoch == known.epoch && position.pseq < known.pseq)) {
        throw Violation("P1", "the durable position of " + position.topic + " goes back from " +
                                  std::to_string(known.pseq) + " to " +
                                  std::to_string(position.pseq));
    }
    known = {position.epoch, position.pseq};
    const auto events = events_.find(stream);
    if (events == events_.end()) {
        return;
    }
    const std::uint64_t life = life_now(position.origin);
    for (std::size_t i = events->second.logged; i < events->second.pushed.size(); ++i) {
        const Pushed& pushed = events->second.pushed[i];
        if (pushed.life == life && pushed.epoch <= position.epoch && pushed.seq <= position.pseq) {
            throw Violation("P2", "the broker counts event " + std::to_string(pushed.seq) + " of " +
                                      name_of(position.origin, position.topic, "") +
                                      " as received, and the log lacks it");
        }
    }
}

void Truth::restarted(const storage::Loaded& loaded) {
    ++restarts_;
    if (epoch_.empty()) {
        epoch_ = loaded.epoch;
    }
    if (loaded.epoch != epoch_ || loaded.pos != pos()) {
        throw Violation("P3", "after a restart the log is at " + std::to_string(loaded.pos) +
                                  ", and was at " + std::to_string(pos()));
    }
    const auto state = state_at(pos());
    if (state.size() != loaded.values.size()) {
        throw Violation("P5", "after a restart there are " + std::to_string(loaded.values.size()) +
                                  " values, and there were " + std::to_string(state.size()));
    }
    for (const Message& value : loaded.values) {
        const auto known = state.find({{value.origin, value.topic}, value.key});
        if (known == state.end() || known->second->seq != value.seq ||
            known->second->content != content_of(value.data)) {
            throw Violation("P5", "after a restart " +
                                      name_of(value.origin, value.topic, value.key) +
                                      " is another value: '" + content_of(value.data) + "'");
        }
    }
}

void Truth::told_durable(const std::string& origin, std::uint64_t epoch,
                         const std::vector<Mark>& marks) {
    for (const Mark& mark : marks) {
        const auto known = positions_.find({origin, mark.topic});
        if (known == positions_.end() || known->second.epoch < epoch ||
            (known->second.epoch == epoch && known->second.pseq < mark.seq)) {
            throw Violation("P3", "a producer is told that " + std::to_string(mark.seq) + " of " +
                                      name_of(origin, mark.topic, "") +
                                      " is durable, and it is not");
        }
    }
}

void Truth::fault(const std::string& hop, bool on) {
    Hop& of = hops_[hop];
    of.faults += on ? 1 : -1;
    of.since = time_.mono();
}

bool Truth::settled(const std::string& hop, Millis for_so_long) const {
    const auto of = hops_.find(hop);
    return of == hops_.end() ||
           (of->second.faults == 0 && time_.mono() - of->second.since >= for_so_long);
}

// ---- What may be asked ----

const Truth::Row* Truth::row(std::uint64_t pos) const {
    return pos >= 1 && pos <= rows_.size() ? &rows_[pos - 1] : nullptr;
}

std::map<std::pair<Truth::StreamName, std::string>, const Truth::Row*> Truth::state_at(
    std::uint64_t pos) const {
    std::map<KeyName, const Row*> state;
    for (std::size_t i = 0; i < rows_.size() && i < pos; ++i) {
        const Row& row = rows_[i];
        if (row.kind != Kind::kValue) {
            continue;
        }
        const KeyName key{{row.origin, row.topic}, row.key};
        if (row.final) {
            state.erase(key);
        } else {
            state[key] = &row;
        }
    }
    return state;
}

std::optional<Mono> Truth::was(const std::string& origin, const std::string& topic,
                               const std::string& key, const std::string& content,
                               Wall as_of) const {
    const KeyName name{{origin, topic}, key};
    if (const auto said = said_.find(name); said != said_.end()) {
        for (auto it = said->second.rbegin(); it != said->second.rend(); ++it) {
            if (it->at.wall == as_of && it->content == content) {
                return it->at.mono;
            }
        }
        return std::nullopt;
    }
    const auto told = told_.find(name);
    if (told == told_.end()) {
        return std::nullopt;
    }
    // What it was when a head was made: the last that the same instance had said by then.
    const auto at = [&](const Said& moment) {
        const Said* current = nullptr;
        for (const Said& change : told->second) {
            if (change.life == moment.life && change.order <= moment.order) {
                current = &change;
            }
        }
        return current != nullptr && current->content == content;
    };
    for (auto it = told->second.rbegin(); it != told->second.rend(); ++it) {
        if (it->at.wall == as_of && it->content == content) {
            return it->at.mono;
        }
    }
    if (const auto heads = heads_.find(origin); heads != heads_.end()) {
        for (auto it = heads->second.rbegin(); it != heads->second.rend(); ++it) {
            if (it->at.wall == as_of && at(*it)) {
                return it->at.mono;
            }
        }
    }
    // Another key of the topic was published just then: a value vouches for its topic, as a head.
    for (const auto& [other, changes] : told_) {
        if (other.first == name.first) {
            for (const Said& change : changes) {
                if (change.at.wall == as_of && at(change)) {
                    return change.at.mono;
                }
            }
        }
    }
    return std::nullopt;
}

bool Truth::ever(const std::string& origin, const std::string& topic, const std::string& key,
                 const std::string& content) const {
    for (const auto* all : {&said_, &told_}) {
        const auto said = all->find({{origin, topic}, key});
        if (said != all->end() &&
            std::any_of(said->second.rbegin(), said->second.rend(),
                        [&](const Said& each) { return each.content == content; })) {
            return true;
        }
    }
    return false;
}

const PollRules* Truth::poll(const std::string& origin, const std::string& name) const {
    const auto found = polls_.find({origin, name});
    return found == polls_.end() ? nullptr : &found->second;
}

std::optional<Mono> Truth::last_good(const std::string& origin, const std::string& poll) const {
    const auto found = last_good_.find({origin, poll});
    return found == last_good_.end() ? std::nullopt : std::optional(found->second);
}

std::optional<Mono> Truth::last_named(const std::string& origin, const std::string& topic,
                                      const std::string& key) const {
    const auto said = said_.find({{origin, topic}, key});
    return said == said_.end() ? std::nullopt : std::optional(said->second.back().at.mono);
}

bool Truth::answered_at(const std::string& origin, const std::string& poll, Wall as_of) const {
    const auto found = answers_.find({origin, poll});
    return found != answers_.end() && found->second.contains(as_of);
}

std::optional<Mono> Truth::good_since(const std::string& origin, const std::string& poll) const {
    const auto found = good_since_.find({origin, poll});
    return found == good_since_.end() ? std::nullopt : std::optional(found->second);
}

std::uint64_t Truth::life_now(const std::string& origin) const {
    const auto found = lives_.find(origin);
    return found == lives_.end() ? 0 : found->second;
}

std::size_t Truth::unlogged() const {
    std::size_t count = 0;
    for (const auto& [stream, events] : events_) {
        for (std::size_t i = events.logged; i < events.pushed.size(); ++i) {
            count += events.pushed[i].life == life_now(stream.first) ? 1u : 0u;
        }
    }
    return count;
}

std::string Truth::unlogged_text() const {
    for (const auto& [stream, events] : events_) {
        for (std::size_t i = events.logged; i < events.pushed.size(); ++i) {
            if (events.pushed[i].life == life_now(stream.first)) {
                return "event " + std::to_string(events.pushed[i].seq) + " of " +
                       name_of(stream.first, stream.second, "") + " is not in the log";
            }
        }
    }
    return {};
}

}  // namespace sigmacast::sim
